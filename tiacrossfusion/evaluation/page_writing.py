"""`report.html`: an evaluation as one page, which needs no other file and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tiacrossfusion.evaluation.scores import AddedValue, Evaluation, Subgroups
from tiacrossfusion.evaluation.tables import Table
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.outputs.pages import MEDIA, page_environment, picture_address

PAGE = "report.html"

_VERSIONED = ("tiacrossfusion", "tiatoolbox", "torch", "lifelines", "numpy", "pandas")


@dataclass(frozen=True)
class _Picture:
    name: str
    source: str


@dataclass(frozen=True)
class _Item:
    """An item of the checklist."""

    name: str
    text: str
    open: bool = False


def write_page(
    folder: Path,
    evaluation: Evaluation,
    *,
    title: str,
    pictures: Sequence[Path],
    tables: Sequence[Table],
    added: AddedValue | None = None,
    groups: Sequence[Subgroups] = (),
    settings: Mapping[str, object] | None = None,
) -> None:
    """Write the page of an evaluation into a folder; an earlier one is replaced.

    Args:
        folder: exists.
        evaluation: figures of the model.
        title: heading.
        pictures: files that are shown; those in a format that pages cannot show are left out.
        tables: all figures, see `evaluation_tables`.
        added: what the model adds to covariates, for the checklist.
        groups: subgroups, for the checklist.
        settings: of the run, by name, whose values are written as text.

    Raises:
        TiacfError: the folder cannot be written.
    """
    environment = page_environment("tiacrossfusion.evaluation")
    versions = {f"version of {name}": version(name) for name in _VERSIONED}
    given = {"bootstrap draws": evaluation.draws, "seed": evaluation.seed} | dict(settings or {})
    text = environment.get_template("evaluation.html").render(
        title=title,
        evaluation=evaluation,
        tables=tables,
        pictures=[_picture(path) for path in pictures if path.suffix in MEDIA],
        checklist=_checklist(evaluation, added, groups),
        settings=[(name, str(value)) for name, value in (given | versions).items()],
    )
    write_text(folder / PAGE, text)


def _picture(path: Path) -> _Picture:
    return _Picture(path.stem.replace("_", " "), picture_address(path))


def _checklist(
    evaluation: Evaluation, added: AddedValue | None, groups: Sequence[Subgroups]
) -> list[_Item]:
    pooled = evaluation.pooled
    missing = "no covariates were used"
    if added is not None:
        counts = [f"{name} {count}" for name, count in added.missing.items() if count]
        missing = f"{', '.join(counts) or 'none missing'}; median or own category, inside the folds"
    internal = len(evaluation.folds) > 1
    filled = [
        _Item("10 Sample size", f"{pooled.patients} patients, {pooled.events} events"),
        _Item("11 Missing data", missing),
        _Item(
            "12 Analytical methods",
            f"{f'{len(evaluation.folds)} folds' if internal else 'one test part or cohort'}; "
            "docs/metrics.md describes every figure",
        ),
        _Item(
            "12e Measures of performance", "discrimination, calibration, Brier score; see Figures"
        ),
        _Item("12f Output of the model", "survival curve by time bins, and a risk"),
        _Item(
            "14 Fairness",
            f"subgroups by {', '.join(group.column for group in groups)}"
            if groups
            else "no subgroups were asked for (--by)",
            open=not groups,
        ),
        _Item("18 Open science", "settings and versions below; protocol and data for the authors"),
        _Item("23 Model performance", "with 95 % intervals, see Figures"),
    ]
    wanted = (
        "3-4 Background and objectives",
        "5 Source of data and dates",
        "6 Setting and eligibility",
        "7 Data preparation",
        "8 Outcome: definition and assessment",
        "9 Predictors",
        "15 Differences between development and evaluation data",
        "20 Participants: flow and characteristics",
        "25-27 Interpretation, limitations, usability",
    )
    return [*filled, *(_Item(name, "open, for the authors", open=True) for name in wanted)]
