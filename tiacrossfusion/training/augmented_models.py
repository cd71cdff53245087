"""Networks that are trained against nuisances beside their plain training, and what that needs."""

from __future__ import annotations

from collections.abc import Sequence

from tiacrossfusion.bags.bag import check_same
from tiacrossfusion.cohorts.folds import Fold
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.models.nuisance_changes import NUISANCE, NuisanceChanges
from tiacrossfusion.networks.registry import COXNETS, NETWORKS
from tiacrossfusion.training.augmenting import sites_with_a_mean, too_few
from tiacrossfusion.training.config import TrainingConfig


def with_augmented(config: TrainingConfig) -> tuple[TrainingConfig, list[str]]:
    """Return settings in which every network is followed by what it is trained against, and what is said.

    Raises:
        UsageError: there is no network to train so.
    """
    wanted = config.augmenting.parts
    if not wanted:
        return config, []
    models: list[str] = []
    plain_alone = []
    for model in config.models:
        models.append(model)
        if model not in NETWORKS or model in COXNETS:
            plain_alone += [model] if "+" not in model else []
            continue
        models += [f"{model}+{part}" for part in wanted]
    models = list(dict.fromkeys(models))
    if not any("+" in model for model in models):
        option = "--augment" if config.augmenting.augment else "--adversarial"
        raise UsageError(
            f"{option}: {', '.join(plain_alone)} cannot be trained so, for want of passes over "
            "slides; add a network such as --model mean-pool"
        )
    said = [
        f"{model} is trained plainly alone: changes are added to passes over slides, which it lacks"
        for model in plain_alone
    ]
    return config.model_copy(update={"models": tuple(models)}), said


def check_augmented(
    models: Sequence[str], config: TrainingConfig, table: CohortTable, folds: Sequence[Fold]
) -> None:
    """Refuse models that lack what they are trained against.

    Raises:
        TiacfError: no sites are known, too few are among the training patients of a fold, or there is no
            usable file of changes.
    """
    recipes = [config.recipe_of(model) for model in models]
    if any(recipe.shift for recipe in recipes):
        if table.sites is None:
            raise UsageError(
                "--augment shift: no sites are known; name their column with --site (or --fold-by, whose "
                "folds go by site), tcga-site for the barcodes"
            )
        for fold in folds:
            sites = table.sites.loc[list(fold.train)].to_numpy(str)
            if len(sites_with_a_mean(sites)) < 2:
                raise TiacfError(f"fold {fold.number}: {too_few(sites)}")
    if any(recipe.stain for recipe in recipes):
        if config.augmenting.nuisance is None:
            raise UsageError(
                f"--augment stain: no changes are given; name the {NUISANCE} of tiacf audit --img-input with "
                "--nuisance"
            )
        NuisanceChanges.load(config.augmenting.nuisance)
    elif config.augmenting.nuisance is not None:
        raise UsageError("--nuisance is for --augment stain; add that, or leave it out")
    if any(recipe.adversarial for recipe in recipes) and not config.network.standardise:
        raise UsageError(
            "--adversarial: its strength is in SDs of standardised features; leave out network.standardise"
        )


def check_features(models: Sequence[str], config: TrainingConfig, encoder: EncoderSpec) -> None:
    """Refuse changes that were measured with another encoder than that of the bags.

    Raises:
        TiacfError: names the field that differs.
    """
    path = config.augmenting.nuisance
    if path is not None and any(config.recipe_of(model).stain for model in models):
        measured = NuisanceChanges.load(path).encoder
        remedy = f"give the {NUISANCE} of slides that were extracted like the bags, with --nuisance"
        check_same(encoder, measured, "encoder", str(path), remedy)
