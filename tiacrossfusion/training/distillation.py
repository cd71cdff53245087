"""`tiacf distil`: students that read 5x and 10x, and learn the hazards of a teacher that reads all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.inference.partial import BagFamilies
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.io.arguments import usable_seed
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.models.bundle import ModelBundle, load_bundle, save_bundle
from tiacrossfusion.models.config import Architecture, BundleConfig, ModelCard, TaughtBy
from tiacrossfusion.models.network import describe_network, network_of
from tiacrossfusion.networks.registry import STUDENTS, recipe_of
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.survival import risk_of, survival_curve
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.bundles import training_distances
from tiacrossfusion.training.student import (
    closed_student,
    excess_loss,
    hazards_of_slides,
    train_student,
)

if TYPE_CHECKING:
    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.tokens import SlideTokens

#: The network of a trained student, by the scales that it reads.
NETWORK_OF = {("5x",): "mean-pool-5x", ("5x", "10x"): "nested-fusion-5x-10x"}

#: Risks of teacher and students on the slides held back.
TABLE = "distillation.csv"

#: Share of the slides that is held back, and fewest slides on both sides.
_HELD_BACK, _FEWEST = 6, 5

Way = Literal["trained", "closed"]


@dataclass(frozen=True, eq=False)
class Student:
    """A student, and how it does on slides held back.

    Attributes:
        way: "trained" by gradient, or "closed" form.
        bundle: folder of its bundle.
        correlation: of its risk with the teacher's.
        error: root mean square of the difference of the risks, in SDs of the teacher's.
        same_group: share of the slides in the teacher's risk group; None if the teacher has none.
        excess: distillation loss above that of the teacher's own hazards.
    """

    way: Way
    bundle: Path
    correlation: float
    error: float
    same_group: float | None
    excess: float


@dataclass(frozen=True, eq=False)
class Distilled:
    """Students of a teacher.

    Attributes:
        students: the trained one and, if the teacher predicts from means, the one in closed form.
        slides: number of slides that taught them.
        held_back: number of slides that they are judged on.
        notes: what a reader should know, a line each.
    """

    students: list[Student]
    slides: int
    held_back: int
    notes: list[str]


@dataclass(frozen=True, eq=False)
class _Taught:
    """Slides as the teacher sees them.

    Attributes:
        hazards: (K,) by slide.
        coarse: features at the student's scales, by slide.
        paths: of the bags, by slide.
        nested: whether the grids of all bags nest.
    """

    hazards: dict[str, np.ndarray]
    coarse: dict[str, FeatureBag]
    paths: dict[str, Path]
    nested: bool


def distil(
    teacher: str | Path,
    bags: str | Path,
    output_path: str | Path,
    *,
    scales: Sequence[str] = ("5x", "10x"),
    unlabelled: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> Distilled:
    """Teach students that read less the hazards of a model that reads all scales.

    Writes bundles `trained` and, for a teacher that predicts from means over the slide, `closed`, and
    `distillation.csv`. No follow-up is needed. `docs/partial_reading.md` says how, and which is better when.

    Args:
        teacher: bundle folder, name or hub id.
        bags: folder of feature bags with all scales that the teacher reads, such as those of its training.
        output_path: folder of the students.
        scales: that the students read: "5x", or "5x" and "10x".
        unlabelled: folder of further bags, of slides without follow-up.
        seed: of weights, order, and of the slides held back.
        device: torch device.
        say: gets a line for each step; None is silent.

    Raises:
        UsageError: the scales or the seed are wrong, or the teacher reads a clinical record or no more than
            its student.
        TiacfError: a bag does not fit the teacher, or there are too few.
    """
    usable_seed("--seed", seed)
    read = tuple(scale for scale in SCALES if scale in scales)
    if set(scales) - set(read) or read not in NETWORK_OF:
        raise UsageError(f"--scales {','.join(scales)}: must be 5x or 5x,10x")
    bundle = load_bundle(teacher, device)
    architecture = bundle.config.architecture
    if architecture.record is not None or architecture.covariates:
        raise UsageError(
            f"{bundle.config.name} reads a clinical record, which a student of slides cannot learn; give the "
            "model of its slides as --teacher"
        )
    if set(bundle.scales) <= set(read):
        raise UsageError(
            f"{bundle.config.name} reads {', '.join(bundle.scales)} itself, so that a student of "
            f"{', '.join(read)} saves nothing; give a teacher that reads more"
        )
    tell = say or (lambda _: None)
    sources = _sources(Path(bags), unlabelled, tell)
    if len(sources) < 2 * _FEWEST:
        raise TiacfError(f"{len(sources)} bags; a student needs {2 * _FEWEST} or more")
    taught = _taught(bundle, sources, read, show=say is not None)
    names = list(taught.hazards)
    rng = np.random.default_rng(seed)
    held = set(rng.permutation(len(names))[: max(_FEWEST, len(names) // _HELD_BACK)].tolist())
    held_back = [name for i, name in enumerate(names) if i in held]
    slides = [name for i, name in enumerate(names) if i not in held]
    cohort = CohortBags(taught.coarse, show_progress=False)
    output, notes = Path(output_path), []
    networks: dict[Way, tuple[Architecture, SurvivalNetwork]] = {
        "trained": _trained(bundle, read, cohort, slides, held_back, taught, seed, device, tell)
    }
    if not bundle.network.pools_families:
        notes.append(
            f"{bundle.config.name} does not predict from means over the slide: no student in closed form"
        )
    elif not taught.nested:
        notes.append("the grids of some bags do not nest: no student in closed form")
    else:
        networks["closed"] = _closed(bundle, read, slides, held_back, taught)
    students, frame = [], _frame(held_back, taught)
    for way, (made, network) in networks.items():
        folder = output / way
        config = _config(bundle, way, made, network, cohort, slides, held_back)
        network = network.to(device).eval()
        students.append(_judged(way, folder, network, bundle, cohort, held_back, taught, frame))
        save_bundle(folder, config, network)
    write_text(output / TABLE, frame.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    for note in notes:
        tell(f"note: {note}")
    return Distilled(students, len(slides), len(held_back), notes)


def _sources(
    bags: Path, unlabelled: str | Path | None, say: Callable[[str], None]
) -> dict[str, Path]:
    """Return the bags by the name of the slide; those of both folders once."""
    sources = {path.stem: path for path in find_bags(bags)}
    if unlabelled is not None:
        more = {path.stem: path for path in find_bags(Path(unlabelled))}
        twice = sorted(set(more) & set(sources))
        if twice:
            say(f"note: {len(twice)} unlabelled slides are in --bags too, such as {twice[0]}")
        sources = more | sources
    return dict(sorted(sources.items()))


def _taught(
    bundle: ModelBundle, sources: dict[str, Path], read: Sequence[str], *, show: bool
) -> _Taught:
    """Ask the teacher, slide by slide."""
    hazards: dict[str, np.ndarray] = {}
    coarse: dict[str, FeatureBag] = {}
    nested = True
    shown = tqdm(sources.items(), desc="Teacher", unit="bag", disable=None if show else True)
    for name, path in shown:
        bag = FeatureBag.load(path)
        lacking = [scale for scale in read if scale not in bag.scales]
        if lacking:
            raise TiacfError(
                f"{path}: has no {lacking[0]} patches, which the student reads; extract it again"
            )
        hazards[name] = predict_bag(bag, bundle).hazards
        coarse[name] = FeatureBag({s: bag.scales[s] for s in read}, bag.provenance)
        try:
            BagFamilies(bag)
        except TiacfError:
            nested = False
    return _Taught(hazards, coarse, sources, nested)


def _trained(
    bundle: ModelBundle,
    read: tuple[str, ...],
    cohort: CohortBags,
    slides: Sequence[str],
    held_back: Sequence[str],
    taught: _Taught,
    seed: int,
    device: str,
    say: Callable[[str], None],
) -> tuple[Architecture, SurvivalNetwork]:
    """Train a network of the student's scales."""
    name, encoder = NETWORK_OF[read], bundle.config.encoder
    width = recipe_of(name).embed_dim
    architecture = describe_network(
        name,
        encoder_width=encoder.width,
        num_bins=bundle.config.architecture.num_bins,
        sizes={"embed_dim": width},
        standardise=True,
    )
    cohort.check_inputs(
        name, [f"x{s[:-1]}" for s in read] + ([] if read == ("5x",) else ["grid5", "grid10"])
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = network_of(architecture, dropout=recipe_of(name).dropout)
    network.set_moments(*cohort.moments(slides))  # type: ignore[operator]
    network = network.to(device)
    train_student(network, cohort, slides, held_back, taught.hazards, seed=seed, say=say)
    return architecture, network


def _closed(
    bundle: ModelBundle,
    read: tuple[str, ...],
    slides: Sequence[str],
    held_back: Sequence[str],
    taught: _Taught,
) -> tuple[Architecture, SurvivalNetwork]:
    """Fit the regression into the teacher's own head."""

    def tokens(name: str) -> SlideTokens:
        bag = FeatureBag.load(taught.paths[name])
        return bundle.tokens(bag).to("cpu", torch.float32)

    network = closed_student(
        bundle.on_cpu,
        [partial(tokens, name) for name in slides],
        [partial(tokens, name) for name in held_back],
        read,
    )
    own = bundle.config.architecture
    name = next(name for name, scales in STUDENTS.items() if scales == read)
    architecture = Architecture(
        name=name,
        package=None,
        encoder_width=own.encoder_width,
        num_bins=own.num_bins,
        sizes={
            "told": len(network.centre),
            "directions": network.directions.shape[1],
            "sums": network.coefficients.shape[1],
        },
        slide=own,
    )
    return architecture, network


def _config(
    bundle: ModelBundle,
    way: Way,
    architecture: Architecture,
    network: SurvivalNetwork,
    cohort: CohortBags,
    slides: Sequence[str],
    held_back: Sequence[str],
) -> BundleConfig:
    teacher = bundle.config
    how = "trained to its hazards" if way == "trained" else "in closed form, with its head"
    read = ", ".join(cohort.scales)
    return BundleConfig(
        name=f"{teacher.name}-student" + ("" if way == "trained" else "-closed"),
        version="1",
        architecture=architecture,
        sampling=teacher.sampling,
        encoder=teacher.encoder,
        time_bins=teacher.time_bins,
        members=teacher.members if way == "closed" else (),
        risk_reference=teacher.risk_reference,
        training_slides=tuple(
            sorted({*teacher.training_slides, *cohort.identities([*slides, *held_back])})
        ),
        training_distances=training_distances(network, cohort, slides),
        taught_by=TaughtBy(
            name=teacher.name, fingerprint=bundle.fingerprint, slides=len(slides), way=way
        ),
        card=ModelCard(
            description=f"Student of {teacher.name} that reads {read}, {how}.",
            cohort=f"The teacher's: {teacher.card.cohort} The student: {len(slides)} slides without their "
            "follow-up.",
            performance=f"The student was not judged on patients. The teacher: {teacher.card.performance}",
            licence=teacher.card.licence,
            notice=teacher.card.notice,
        ),
    )


def _frame(held_back: Sequence[str], taught: _Taught) -> pd.DataFrame:
    risks = risk_of(survival_curve(np.stack([taught.hazards[name] for name in held_back])))
    return pd.DataFrame({"slide": held_back, "risk_teacher": risks})


def _judged(
    way: Way,
    folder: Path,
    network: SurvivalNetwork,
    bundle: ModelBundle,
    cohort: CohortBags,
    held_back: Sequence[str],
    taught: _Taught,
    frame: pd.DataFrame,
) -> Student:
    """Compare a student with its teacher on slides held back, and add its risks to the table."""
    found = risk_of(survival_curve(hazards_of_slides(network, cohort, held_back)))
    if not np.isfinite(found).all():
        raise TiacfError(
            f"{folder}: the risks of the student are not finite; check the features of the bags"
        )
    true = frame["risk_teacher"].to_numpy()
    frame[f"risk_{way}"] = found
    reference = bundle.config.risk_reference
    sd = reference.sd if reference is not None and reference.sd > 0 else float(true.std()) or 1.0
    same = None
    if reference is not None:
        same = float(np.mean((found > reference.cutoff) == (true > reference.cutoff)))
    vary = true.std() > 0 and found.std() > 0
    return Student(
        way,
        folder,
        float(np.corrcoef(found, true)[0, 1]) if vary else float("nan"),
        float(np.sqrt(np.mean((found - true) ** 2)) / sd),
        same,
        float(excess_loss(network, cohort, held_back, taught.hazards).mean()),
    )
