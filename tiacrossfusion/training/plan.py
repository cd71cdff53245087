"""The plan of a training: whose slides, which folds, which models, and where everything is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pandas.api.types import is_numeric_dtype

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cohorts.folds import Fold, check_folds, holdout_fold, nested_folds
from tiacrossfusion.cohorts.matching import match_bags
from tiacrossfusion.cohorts.records import record_of, refuse_outcome
from tiacrossfusion.cohorts.site_folds import site_folds
from tiacrossfusion.cohorts.splits import given_folds, official_folds, read_splits
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import UsageError
from tiacrossfusion.models.pretrained import Pretrained, load_pretrained
from tiacrossfusion.networks.registry import CLINICAL, COXNETS, FUSIONS
from tiacrossfusion.survival.record import Record
from tiacrossfusion.text import printable
from tiacrossfusion.training.augmented_models import check_augmented, with_augmented
from tiacrossfusion.training.config import ProtocolSettings, TrainingConfig
from tiacrossfusion.training.space import Tuning
from tiacrossfusion.training.variants import is_network, plain_of

BUNDLE, ENSEMBLE = "bundle", "ensemble"

#: Parts of the training patients in which slide scores are out of fold.
INNER_FOLDS = 5


#: With fewer events than this, in a fold or for each covariate, figures and coefficients mean little.
FEW_EVENTS = 10


@dataclass(frozen=True)
class Cohort:
    """Everything a training needs to know of its patients.

    Attributes:
        name: of the cohort, for titles and model cards.
        sources: a bag, or the path of one, for each slide; empty for models of covariates only.
    """

    name: str
    table: CohortTable
    sources: Mapping[str, Path | FeatureBag]


def read_cohort(table: Path, bags: Path | None, config: TrainingConfig) -> Cohort:
    """Read a table and find the bags of its slides; without `bags`, for models of covariates only.

    Raises:
        TiacfError: the table is at fault, or slides have no bag.
    """
    checked = read_table(
        table,
        config.columns,
        config.time_unit,
        drop_unusable=config.drop_unusable,
        covariates_may_miss=not _network_reads_covariates(config),
    )
    refuse_outcome(table, checked.patients, config.columns.covariates)
    name = printable(table.stem)
    if bags is None:
        return Cohort(name, checked, {})
    checked, sources = match_bags(checked, find_bags(bags), drop_missing=config.drop_unusable)
    return Cohort(name, checked, sources)


def _network_reads_covariates(config: TrainingConfig) -> bool:
    """Return whether a network is trained that takes covariates: unlike Cox regression, it needs them all."""
    if not config.columns.covariates:
        return False
    return any(_reads_covariates(model, config) for model in config.models if is_network(model))


def _reads_covariates(model: str, config: TrainingConfig) -> bool:
    """Return whether a network takes covariates."""
    from tiacrossfusion.networks.calling import input_names
    from tiacrossfusion.training.fold import build_on_meta

    return "covariates" in input_names(build_on_meta(model, config))


@dataclass(frozen=True)
class Plan:
    """What is trained on whom, and where it is kept.

    Attributes:
        folds: division of the patients; the same for all models.
        messages: what was left out, and what does not fit between splits and table, one line each.
        record: the clinical covariates, if there are any.
        pretrained: directions of slide and record, of `tiacf pretrain`.
        tuning: how settings are chosen in each fold; None trains all with those of `config`.
        tuned: settings that were chosen, by number of the fold.
    """

    folder: Path
    cohort: Cohort
    config: TrainingConfig
    folds: tuple[Fold, ...]
    messages: tuple[str, ...]
    record: Record | None = None
    pretrained: Pretrained | None = None
    tuning: Tuning | None = None
    tuned: Mapping[int, TrainingConfig] = field(default_factory=dict)

    def config_of(self, fold: Fold) -> TrainingConfig:
        """Return the settings that a fold is trained with."""
        return self.tuned.get(fold.number, self.config)

    @property
    def optimistic(self) -> bool:
        """Return whether the patients that judge a model also choose it."""
        return any(fold.optimistic for fold in self.folds)

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the networks of slides that are trained."""
        return tuple(model for model in self.config.models if is_network(model))

    @property
    def with_bundles(self) -> tuple[str, ...]:
        """Return the models that read bags and become bundles."""
        return tuple(model for model in self.config.models if model != CLINICAL)

    def model_folder(self, model: str) -> Path:
        """Return the folder of a model."""
        return self.folder / model

    def fold_folder(self, model: str, fold: Fold) -> Path:
        """Return the folder of a fold of a model."""
        return self.folder / model / f"fold-{fold.number}"

    def ensemble(self, model: str) -> Path:
        """Return the folder of the bundle of all folds together, which models of covariates alone lack."""
        return self.folder / model / ENSEMBLE

    def covariates(self) -> dict[str, np.ndarray] | None:
        """Return the covariates (C,) of the patient of each slide as numbers, see `Record.codes`; or None."""
        if self.record is None:
            return None
        patients = self.cohort.table.patients
        codes, _ = self.record.codes(patients)
        numbers = dict(zip(patients.index, codes, strict=True))
        slides = self.cohort.table.slides
        return {
            slide: numbers[patient]
            for slide, patient in zip(slides.slide, slides.patient, strict=True)
        }

    def bag_sources(self) -> dict[str, Path | FeatureBag]:
        """Return the bags of the slides of all patients in the folds, by slide."""
        used = {
            patient
            for fold in self.folds
            for patient in (*fold.train, *fold.validation, *fold.test)
        }
        slides = self.cohort.table.slides
        names = slides.slide[slides.patient.isin(used)]
        return {name: self.cohort.sources[name] for name in names}


def make_plan(
    folder: Path, cohort: Cohort, config: TrainingConfig, tuning: Tuning | None = None
) -> Plan:
    """Divide the patients and check that all models can be trained; nothing is written.

    Raises:
        TiacfError: the folds cannot be used, or a model lacks something that it needs.
    """
    folds, messages = _make_folds(cohort.table, config.protocol, config.seed)
    check_folds(folds, cohort.table, config.network.num_bins)
    if set(config.models) & set(FUSIONS):
        config, said = _with_slide_model(config)
        messages = [*messages, *said]
    config, said = with_augmented(config)
    messages = [*messages, *said]
    if config.columns.covariates and CLINICAL not in config.models:
        config = config.model_copy(update={"models": (*config.models, CLINICAL)})
        messages = [
            *messages,
            f"{CLINICAL} is trained beside, to see what a model adds to it",
        ]
    record = record_of(cohort.table.patients, config.columns)
    pretrained = None
    if config.fusion.init is not None and record is not None:
        pretrained = _pretrained(config, record)
        record = pretrained.description.record  # levels and kinds are those that were learnt from
    messages = [*cohort.table.messages(), *messages]
    if set(config.models) & set(FUSIONS) and _reads_covariates(config.slide_model, config):
        raise UsageError(
            f"{config.slide_model} reads covariates by itself; give --slide-model a network of slides alone"
        )
    plan = Plan(
        folder, cohort, config, tuple(folds), tuple(messages), record, pretrained=pretrained
    )
    if CLINICAL in config.models and not config.columns.covariates:
        raise UsageError(f"{CLINICAL} needs covariates; name columns with --covariates")
    if plan.with_bundles and not cohort.sources:
        raise UsageError(f"{plan.with_bundles[0]} needs bags; give their folder with --bags")
    if plan.networks:
        _check_networks(plan)
    check_augmented(plan.networks, config, cohort.table, plan.folds)
    if tuning is not None:
        _check_tuning(plan)
        plan = replace(plan, tuning=tuning)
    return replace(plan, messages=(*plan.messages, *_few_events(plan)))


def _with_slide_model(config: TrainingConfig) -> tuple[TrainingConfig, list[str]]:
    """Return settings in which the network of slides is trained before the models that need it."""
    fusions = [model for model in config.models if model in FUSIONS]
    if not config.columns.covariates:
        raise UsageError(
            f"{fusions[0]} needs a clinical record; name its columns with --covariates"
        )
    slide_model, said = config.slide_model, []
    if config.columns.entry is not None:
        raise UsageError(
            f"--entry-time: {fusions[0]} does not learn from left-truncated times; leave it out"
        )
    others = [model for model in config.models if model not in FUSIONS]
    if slide_model not in others:
        others.insert(0, slide_model)
        said.append(f"{slide_model} is trained as the network of slides")
    said.append(
        f"{', '.join(fusions)}: each fold trains {slide_model} on {INNER_FOLDS} parts of its training "
        f"patients once more, for slide scores out of fold, which takes about {INNER_FOLDS - 1} times as long"
    )
    fusion = config.fusion.model_copy(update={"slide_model": slide_model})
    return config.model_copy(update={"models": (*others, *fusions), "fusion": fusion}), said


def _pretrained(config: TrainingConfig, record: Record) -> Pretrained:
    """Read what was pretrained, and refuse it for other variables or models."""
    given = load_pretrained(Path(str(config.fusion.init)))
    if given.description.record.names != record.names:
        raise UsageError(
            f"{config.fusion.init}: was pretrained on {', '.join(given.description.record.names)}; name the "
            "same columns in the same order with --covariates"
        )
    odd = [model for model in config.models if model in FUSIONS and FUSIONS[model] != "linear"]
    if odd or not set(config.models) & set(FUSIONS):
        raise UsageError("--init is for late-fusion and joint-fusion; train those, or leave it out")
    if not config.network.standardise:
        raise UsageError("--init needs standardised features; leave out network.standardise")
    return given


def _check_tuning(plan: Plan) -> None:
    """Refuse what settings cannot be chosen for."""
    if plan.config.augmenting.parts:
        raise UsageError("--augment and --adversarial are for tiacf train; leave them out")
    if len(plan.networks) != 1:
        raise UsageError("tiacf tune takes one network; give one with --model")
    if plan.networks[0] in COXNETS:
        raise UsageError(
            f"{plan.networks[0]} chooses its penalty by itself; train it with tiacf train"
        )
    if plan.optimistic:
        raise UsageError(
            "--protocol official tests the patients that choose; take --protocol nested or holdout"
        )


def _few_events(plan: Plan) -> list[str]:
    """Return what is said of few events: figures and coefficients then mean little."""
    events, said = plan.cohort.table.patients["event"], []
    few = [
        str(fold.number) for fold in plan.folds if events.loc[list(fold.test)].sum() < FEW_EVENTS
    ]
    if few:
        said.append(
            f"fewer than {FEW_EVENTS} events among the test patients of fold {', '.join(few)}: the figures "
            "of single folds mean little"
        )
    names = plan.config.columns.covariates
    least = min(int(events.loc[list(fold.train)].sum()) for fold in plan.folds)
    if names and least < FEW_EVENTS * len(names):
        said.append(
            f"{least} events among the training patients for {len(names)} covariates, fewer than "
            f"{FEW_EVENTS} for each: coefficients are uncertain"
        )
    return said


def _check_networks(plan: Plan) -> None:
    """Refuse networks that cannot be built, or need covariates that the table does not give."""
    from tiacrossfusion.networks.calling import input_names, required_inputs
    from tiacrossfusion.networks.registry import network_sizes
    from tiacrossfusion.training.fold import build_on_meta

    names = plan.config.columns.covariates
    if plan.config.columns.entry is not None:
        raise UsageError(
            f"--entry-time: {plan.networks[0]} does not learn from left-truncated times, {CLINICAL} "
            "alone does; leave one of them out"
        )
    taken = {size for model in plan.networks for size in network_sizes(plain_of(model))}
    odd = sorted(plan.config.network.sizes.keys() - taken)
    if odd:
        raise UsageError(f"network.sizes: no network takes {odd[0]}; remove it or mend its name")
    for model in plan.networks:
        network = build_on_meta(model, plan.config)
        if model in COXNETS and plan.config.recipe_of(model).loss != "cox":
            raise UsageError(f"{model} is Cox regression; leave out --loss, and --recipe paper")
        if "covariates" in required_inputs(network) and not names:
            raise UsageError(f"{model} needs covariates; name columns with --covariates")
        values = plan.cohort.table.patients[list(names)]
        text = [name for name in names if not is_numeric_dtype(values[name])]
        if "covariates" in input_names(network) and text:
            raise UsageError(
                f"{model} takes numbers, and the covariate {text[0]} is text; write it as numbers in "
                "the table, or leave it out of --covariates"
            )


def divide(
    table: CohortTable, folds: int, validation_share: float, *, seed: int
) -> tuple[list[Fold], list[str]]:
    """Divide patients into folds, by site if the table asks for it; returns them with what is said of it.

    Raises:
        TiacfError: there are too few patients or sites.
    """
    if not table.by_site:
        return nested_folds(table, folds, validation_share, seed=seed), []
    return site_folds(table, folds, validation_share, seed=seed)


def _repeated(
    table: CohortTable, settings: ProtocolSettings, seed: int
) -> tuple[list[Fold], list[str]]:
    """Return the folds of all repeats, numbered on, and what is said of them."""
    folds: list[Fold] = []
    said: list[str] = []
    for repeat in range(settings.repeats):
        own = seed if repeat == 0 else int(np.random.default_rng([seed, repeat]).integers(2**32))
        made, lines = divide(table, settings.folds, settings.validation_share, seed=own)
        said += lines
        folds += [replace(fold, number=len(folds) + fold.number) for fold in made]
    return folds, list(dict.fromkeys(said))


def _make_folds(
    table: CohortTable, settings: ProtocolSettings, seed: int
) -> tuple[list[Fold], list[str]]:
    """Return folds by the protocol, and what does not fit between given splits and the table."""
    if settings.repeats > 1 and (settings.protocol != "nested" or settings.splits is not None):
        raise UsageError("--repeats is for --protocol nested without --splits: leave it out")
    if table.by_site and (settings.protocol != "nested" or settings.splits is not None):
        raise UsageError("--fold-by is for --protocol nested without --splits: leave it out")
    if settings.protocol == "holdout":
        if settings.splits is not None:
            raise UsageError("--splits with --protocol holdout: leave one of them out")
        fold = holdout_fold(table, settings.test_share, settings.validation_share, seed=seed)
        return [fold], []
    if settings.splits is None:
        if settings.protocol == "official":
            raise UsageError(
                "--protocol official takes the authors' splits; give their folder with --splits"
            )
        return _repeated(table, settings, seed)
    splits = read_splits(settings.splits, table)
    messages = [line for split in splits for line in split.messages()]
    if settings.protocol == "official":
        return official_folds(splits), messages
    return given_folds(splits, table, settings.validation_share, seed=seed), messages
