"""Learn from patients without follow-up what slide and record share: what `tiacf pretrain` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd

from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.matching import bags_of_slides
from tiacrossfusion.cohorts.records import record_of
from tiacrossfusion.cohorts.unlabelled import read_unlabelled
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.arguments import usable_seed
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.models.config import PretrainedPart
from tiacrossfusion.models.pretrained import Description, Pretrained, VariableReport
from tiacrossfusion.networks.masked_completion import MaskedCompletion
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.survival.cross_modality import Rebuilt, rebuild, shared_directions
from tiacrossfusion.survival.record import Record, RecordTerms
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.masking import (
    make_completion,
    set_direction,
    summaries_of,
    train_completion,
)

Scale = Literal["5x", "10x", "20x"]

#: Table of the variables in the output folder.
VARIABLES = "variables.csv"

#: Fewer patients than this teach nothing of use.
_FEWEST = 30


def pretrain(
    table: str | Path,
    bags: str | Path,
    output_path: str | Path,
    *,
    columns: Columns,
    way: Literal["closed", "neural"] = "closed",
    cross: bool = True,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Pretrained:
    """Learn which direction of the slides' features tells of the record, from patients without follow-up.

    In closed form (`survival.cross_modality`), or by a network (`networks.masked_completion`). For each
    variable it is reported whether the slide helps to rebuild it. `train` takes the folder with
    `fusion.init`, for late-fusion and joint-fusion.

    Args:
        table: records, CSV or Parquet, a row a slide or a patient; follow-up in it is not read.
        bags: folder of feature bags.
        output_path: folder for `pretrained.json`, `pretrained.safetensors` and `variables.csv`.
        columns: names of slides, patients and covariates.
        way: "closed" or "neural".
        cross: of the neural way: each side is rebuilt from the other one, too; without it from its own rest.
        seed: of folds, bootstrap draws and the network.
        say: gets a line for each step; None is silent.

    Raises:
        UsageError: no covariates are named, or a file is not there.
        TiacfError: table and bags do not go together, or there are too few patients.
    """
    usable_seed("--seed", seed)
    tell = say or (lambda _: None)
    if not columns.covariates:
        raise UsageError(
            "nothing to learn across: name the columns of the record with --covariates"
        )
    unlabelled = read_unlabelled(Path(table), columns)
    found = bags_of_slides(unlabelled.slides["slide"], find_bags(Path(bags)))
    slides = unlabelled.slides[unlabelled.slides["slide"].isin(found)]
    patients = unlabelled.patients.loc[sorted(slides["patient"].unique())]
    for line in unlabelled.notes(len(slides)):
        tell(f"note: {line}")
    if len(patients) < _FEWEST:
        raise TiacfError(
            f"{table}: {len(patients)} patients have a bag, fewer than {_FEWEST}; check the names of slides"
        )
    record = record_of(patients, columns)
    assert record is not None  # noqa: S101 - covariates are named
    codes, notes = record.codes(patients)
    for line in notes:
        tell(f"note: {line}")
    read = CohortBags(found, show_progress=say is not None)
    features, scales = _features(read, slides, list(patients.index))
    terms = RecordTerms.fit(record, codes)
    z = terms.encode(codes)
    mean, sd = features.mean(axis=0), features.std(axis=0)
    sd = np.where(sd > 1e-9, sd, np.inf)
    standard = (features - mean) / sd
    shared = shared_directions(standard, z)
    rebuilt = _rebuilt(record, terms, codes, standard, seed)
    if way == "closed":
        direction = (shared.slide / sd / shared.slide_sd).reshape(len(scales), -1)
        part = PretrainedPart(scales=tuple(scales))
        weights = {
            f"of_scale.{scale}.direction": row for scale, row in zip(scales, direction, strict=True)
        }
    else:
        of_record = z @ shared.record
        network = _masked(record, read, slides, scales, codes, z, of_record, seed, cross, tell)
        part = PretrainedPart(
            scales=tuple(scales), way="neural", prototypes=network.count, cross=cross
        )
        weights = {name: weight.numpy() for name, weight in network.state_dict().items()}
    made = Pretrained(
        Description(
            record=record.of_training(codes),
            encoder=read.encoder,
            sampling=read.sampling,
            part=part,
            patients=len(patients),
            variables=tuple(VariableReport(**vars(one)) for one in rebuilt),
        ),
        weights,
        shared.record / shared.record_sd,
        terms.centre,
        terms.scale,
    )
    output = Path(output_path)
    made.save(output)
    write_text(output / VARIABLES, _table(rebuilt).to_csv(index=False, lineterminator="\n"))
    for line in _said(rebuilt):
        tell(line)
    return made


def _features(
    bags: CohortBags, slides: pd.DataFrame, patients: list[str]
) -> tuple[np.ndarray, list[Scale]]:
    """Mean features (N, S * E) of patients over their slides, and the S scales that all bags have."""
    means = bags.means(slides["slide"])  # (slides, 3, E)
    there = [row for row in range(len(SCALES)) if np.isfinite(means[:, row]).all()]
    if not there:
        raise TiacfError("the bags share no scale; extract the slides again")
    flat = means[:, there].reshape(len(means), -1)
    frame = pd.DataFrame(flat).groupby(slides["patient"].to_numpy()).mean()
    return frame.loc[patients].to_numpy(), [cast("Scale", SCALES[row]) for row in there]


def _masked(
    record: Record,
    bags: CohortBags,
    slides: pd.DataFrame,
    scales: list[Scale],
    codes: np.ndarray,
    z: np.ndarray,
    of_record: np.ndarray,
    seed: int,
    cross: bool,
    say: Callable[[str], None],
) -> MaskedCompletion:
    """Train the network of the neural way on patients sorted by name."""
    network = make_completion(record, bags, slides, list(scales), seed, cross=cross)
    tokens, present = summaries_of(network, bags, slides, sorted(slides["patient"].unique()))
    losses = train_completion(network, z, np.isfinite(codes), tokens, present, seed)
    say(f"masked learning: loss {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last")
    set_direction(network, tokens, present, of_record)
    return network


def _rebuilt(
    record: Record, terms: RecordTerms, codes: np.ndarray, slides: np.ndarray, seed: int
) -> list[Rebuilt]:
    """Rebuild each variable; those without a term of their values are left out."""
    z = terms.encode(codes)
    found = []
    for place, name in enumerate(record.names):
        own = (terms.variable == place) & (terms.kind != 3) & terms.used
        others = (terms.variable != place) & terms.used
        known = np.isfinite(codes[:, place])
        if own.any() and known.sum() >= _FEWEST:
            target = z[np.ix_(known, own)]
            found.append(rebuild(name, target, z[np.ix_(known, others)], slides[known], seed))
    return found


def _table(rebuilt: list[Rebuilt]) -> pd.DataFrame:
    return pd.DataFrame([vars(one) | {"slide_helps": one.helps} for one in rebuilt])


def _said(rebuilt: list[Rebuilt]) -> list[str]:
    lines = [
        f"{one.variable}: the slide explains {one.by_slide:.1%} of it ({one.by_slide_low:.1%} to "
        f"{one.by_slide_high:.1%}), besides the other variables, which explain {one.by_others:.1%}, "
        f"{one.gain:+.1%} ({one.gain_low:+.1%} to {one.gain_high:+.1%})"
        for one in rebuilt
    ]
    helped = [one.variable for one in rebuilt if one.helps]
    if helped:
        return [*lines, f"the slide helps to rebuild {', '.join(helped)}"]
    return [*lines, "there is nothing to learn across: the slide helps to rebuild no variable"]
