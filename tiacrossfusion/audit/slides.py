"""Audit a model on slides: each is read again under nuisances."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tiacrossfusion.audit.effects import Chance, Effect, by_chance, effect_of
from tiacrossfusion.audit.nuisance import NUISANCES
from tiacrossfusion.audit.nuisance_folder import NuisanceFolder
from tiacrossfusion.audit.nuisance_task import NuisanceTask, Reread
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.arguments import at_least, usable_seed
from tiacrossfusion.io.atomic import writing
from tiacrossfusion.models.nuisance_changes import NuisanceChanges
from tiacrossfusion.models.nuisances import Nuisances, expected_changes
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.runner import Outcome, run_tasks
from tiacrossfusion.runs.slides import RunOptions
from tiacrossfusion.slides.files import DEFAULT_FILE_TYPES, find_slides

#: Slides that are read, and 5x patches with all inside of each, unless told otherwise.
MOST, FAMILIES = 20, 64

#: Slides that are tried for another stain.
_STAINS = 3

#: Slides that the interval of a risk is learnt from, at least.
LEAST = 3


@dataclass(frozen=True, eq=False)
class NuisanceEffect:
    """What a nuisance does to the risks of slides.

    Attributes:
        name: of the nuisance.
        kind: "stain", "scanner", "sampling" or "turn".
        slides: on which it could be tried.
        effect: figures with intervals over slides, in SDs of the risk.
        random: mean of 20 random changes of the features of equal norm, and the range of 95 % of them, by
            figure.
    """

    name: str
    kind: str
    slides: int
    effect: Effect
    random: Chance


@dataclass(frozen=True, eq=False)
class NuisanceAudit:
    """What an audit on slides found.

    Attributes:
        model: name of the bundle.
        outcomes: of the slides.
        sd: of the risk, which changes are divided by.
        sd_of: "training" patients, or "slides" where the model does not know those.
        effects: of the nuisances that could be tried.
        changes: of mean features, for training against them.
        nuisances: what predictions get their interval from; None with fewer than 3 slides.
        covered: share of the changes of the risk within the interval, found without the slide itself; None
            with fewer than 3 slides.
    """

    model: str
    outcomes: list[Outcome]
    sd: float
    sd_of: str
    effects: list[NuisanceEffect]
    changes: NuisanceChanges
    nuisances: Nuisances | None
    covered: float | None


def audit_slides(
    model: str | Path | ModelSource | LoadedModel,
    images: str | Path | Sequence[str | Path],
    folder: str | Path,
    options: RunOptions | None = None,
    *,
    most: int = MOST,
    families: int = FAMILIES,
    seed: int = 0,
    file_types: str = DEFAULT_FILE_TYPES,
    show_progress: bool = True,
) -> NuisanceAudit:
    """Read slides again under nuisances of stain, scanner and sampling, and predict each time.

    Of each slide a part is read, the same under every nuisance: up to `families` 5x patches with all 10x and
    20x patches inside, spread evenly. A slide that is finished is not read again.

    Args:
        model: bundle folder, name or hub id; or model and encoder with weights, device and precision.
        images: paths of slides, or a folder or list of slides.
        folder: where `nuisance_slides.csv` and a file for each slide go.
        options: how slides are read, and which are made again; None for the defaults.
        most: slides that are read, drawn by chance if there are more.
        families: of a slide at most.
        seed: of all draws.
        file_types: patterns of the slides in a folder.
        show_progress: draw bars and print a line for each slide.

    Returns:
        The effects over all slides that could be read.

    Raises:
        UsageError: an option makes no sense, or there is no slide.
        TiacfError: the model cannot be loaded, or no slide could be read.
        OutputError: the folder cannot be written.
    """
    check_slide_settings(most=most, families=families, seed=seed)
    options = options or RunOptions()
    if isinstance(model, str | Path):
        model = ModelSource(model=str(model))
    bundle = model.load().need_bundle()
    if isinstance(images, str | Path):
        found = find_slides(images, file_types)
        paths, options = found.slides, options.with_own(found.own)
    else:
        paths = [Path(image) for image in images]
    if not paths:
        raise UsageError(f"{images}: no slides; check --img-input")
    order = np.random.default_rng([seed, 20]).permutation(len(paths))[:most]
    chosen = [paths[i] for i in sorted(order.tolist())]
    target = NuisanceFolder(Path(folder))
    run = uuid.uuid4().hex
    tasks = [
        NuisanceTask(
            slide,
            tuple((chosen[i + 1 :] + chosen[:i])[:_STAINS]),
            target,
            model,
            options,
            families,
            seed,
            run,
        )
        for i, slide in enumerate(chosen)
    ]
    outcomes = run_tasks(tasks, len(tasks), _line, folder=target, show_progress=show_progress)
    read = [Reread.load(one.output) for one in outcomes if one.output is not None]
    if not read:
        raise TiacfError(f"no slide could be read; see {target.path / target.table}")
    reference = bundle.config.risk_reference
    before = np.array([one.risks[0] for one in read])
    if reference is not None:
        sd, sd_of = float(np.std(reference.quantiles)), "training"
    else:
        sd, sd_of = float(before.std()), "slides"
    if sd == 0:
        raise TiacfError(f"{bundle.config.name}: all slides have the same risk; give others")
    cutoff = None if reference is None else reference.cutoff
    effects = [
        effect
        for number in range(len(NUISANCES))
        if (effect := _effect(number, read, sd, cutoff)) is not None
    ]
    nuisances, covered = interval_of(read, bundle.config.architecture.num_bins)
    return NuisanceAudit(
        bundle.config.name,
        outcomes,
        sd,
        sd_of,
        effects,
        _changes(read, bundle.config.encoder),
        nuisances,
        covered,
    )


def teach_bundle(folder: Path, found: NuisanceAudit) -> None:
    """Add what an audit has found to a bundle, whose predictions then have an interval under nuisances.

    Raises:
        TiacfError: fewer than 3 slides were read, or the folder cannot be written.
    """
    if found.nuisances is None:
        raise TiacfError(
            f"{folder}: not updated: an interval under nuisances takes {LEAST} slides or more; audit more"
        )
    with writing(folder):
        found.nuisances.save(folder)


def check_slide_settings(*, most: int = MOST, families: int = FAMILIES, seed: int = 0) -> None:
    """Check settings of `audit_slides` before anything is read.

    Raises:
        UsageError: one of them is out of range.
    """
    usable_seed("--seed", seed)
    at_least("--most", most, 1)
    at_least("--families", families, 1)


def interval_of(read: Sequence[Reread], num_bins: int) -> tuple[Nuisances | None, float | None]:
    """Return what gives a slide its interval under nuisances, and the share of changes that it holds.

    Each slide is judged by the mean changes of the others.
    """
    if len(read) < LEAST:
        return None, None
    moved = np.stack([one.means[1:] - one.means[0] for one in read]).astype(
        np.float64
    )  # (N, K, 3, E)
    changes = np.stack([one.risks[1:] - one.risks[0] for one in read])  # (N, K)
    tried = np.isfinite(changes).all(axis=0)
    moved, changes = moved[:, tried], changes[:, tried]
    if not tried.any():
        return None, None
    expected = np.empty_like(changes)
    for i, one in enumerate(read):
        others = np.delete(moved, i, axis=0).mean(axis=0)  # (K, 3, E)
        expected[i] = expected_changes(float(one.risks[0]), one.gradient, others, num_bins)
    left = (changes - expected) ** 2  # (N, K)
    widths = [
        1.96 * np.sqrt((expected[i] ** 2).mean() + np.delete(left, i, axis=0).mean())
        for i in range(len(read))
    ]
    covered = float(np.mean(np.abs(changes) <= np.array(widths)[:, None]))
    mean = torch.from_numpy(moved.mean(axis=0)).float()
    return Nuisances(mean, torch.tensor(float(np.sqrt(left.mean())))), covered


def _effect(
    number: int, read: Sequence[Reread], sd: float, cutoff: float | None
) -> NuisanceEffect | None:
    tried = [one for one in read if np.isfinite(one.risks[1 + number])]
    if not tried:
        return None
    before = np.array([one.risks[0] for one in tried])
    after = np.array([one.risks[1 + number] for one in tried])
    drawn = [
        effect_of(before, before + change, cutoff, sd=sd, draws=0)
        for change in np.stack([one.random[number] for one in tried], axis=1)
    ]
    nuisance = NUISANCES[number]
    effect = effect_of(before, after, cutoff, sd=sd)
    return NuisanceEffect(nuisance.name, nuisance.kind, len(tried), effect, by_chance(drawn))


def _changes(read: Sequence[Reread], encoder: EncoderSpec) -> NuisanceChanges:
    rows, names, slides = [], [], []
    for one in read:
        for number, nuisance in enumerate(NUISANCES):
            if np.isfinite(one.risks[1 + number]):
                rows.append(one.means[1 + number] - one.means[0])
                names.append(nuisance.name)
                slides.append(one.slide)
    return NuisanceChanges(
        torch.from_numpy(np.stack(rows)).float(), tuple(names), tuple(slides), encoder
    )


def _line(outcome: Outcome) -> str:
    """Return the console's line on a slide."""
    if outcome.status == "failed":
        return f"FAILED  {outcome.message}"
    row = outcome.row
    words = [f"risk {row['risk']:.3f}, {row['risk_lowest']:.3f} to {row['risk_highest']:.3f}"]
    words.append(
        "finished before, skipped" if outcome.status == "skipped" else f"{row['seconds']} s"
    )
    if row["message"]:
        words.append(f"note: {row['message']}")
    return f"ok      {row['slide']}: {', '.join(words)}"
