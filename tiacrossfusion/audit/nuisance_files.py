"""What an audit of slides writes: a table, a picture, and its part of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tiacrossfusion.audit.effects import cells_of, columns_of
from tiacrossfusion.audit.slides import NuisanceAudit, NuisanceEffect
from tiacrossfusion.io.atomic import write_text, writing
from tiacrossfusion.models.nuisance_changes import NUISANCE
from tiacrossfusion.outputs.figures import in_own_style, save_figure

TABLE, PICTURE = "nuisances.csv", "nuisances.png"

_COLOURS = {"stain": "#cc79a7", "scanner": "#d55e00", "sampling": "#0072b2", "turn": "#009e73"}


def nuisance_table(found: NuisanceAudit) -> pd.DataFrame:
    """Return one row a nuisance: its figures with intervals, and those of chance at equal norm."""
    rows = []
    for one in found.effects:
        row: dict[str, Any] = {"nuisance": one.name, "kind": one.kind, "slides": one.slides}
        rows.append(row | columns_of(one.effect, one.random))
    return pd.DataFrame(rows)


def write_nuisances(found: NuisanceAudit, folder: Path) -> None:
    """Write table, picture and the changes of features; files of an earlier audit are replaced.

    Raises:
        TiacfError: the folder cannot be written.
    """
    text = nuisance_table(found).to_csv(index=False, lineterminator="\n", float_format="%.6g")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TABLE, text)
        nuisance_figure(found, folder / PICTURE)
    found.changes.save(folder / NUISANCE)


def nuisance_summary(found: NuisanceAudit) -> list[str]:
    """Return in a few lines what was found."""
    slides = sum(one.output is not None for one in found.outcomes)
    failed = len(found.outcomes) - slides
    whose = "the training patients'" if found.sd_of == "training" else "the slides'"
    lines = [
        f"{found.model}: {slides} slides read again under {len(found.effects)} nuisances"
        + (f", {failed} failed" if failed else "")
        + f"; changes are in SDs of {whose} risk ({found.sd:.3g})."
    ]
    ranked = sorted(found.effects, key=lambda one: -one.effect.size.value)
    lines += [
        f"{one.name}: the risk moves by {one.effect.size.value:.2f} SD ({one.effect.size.low:.2f} to "
        f"{one.effect.size.high:.2f}; chance {one.random['size'][0]:.2f}), and "
        f"{one.effect.changed.value:.0%} of the slides change group."
        for one in ranked[:3]
    ]
    lines += [
        f"{one.name}: {one.effect.size.value:.3f} SD."
        for one in found.effects
        if one.kind == "turn"
    ]
    if found.covered is not None:
        lines.append(
            f"Intervals of +-1.96 risk_nuisance_sd, learnt from the other slides, hold {found.covered:.0%} "
            "of the changes."
        )
    else:
        lines.append("Predictions get no interval under nuisances: that takes 3 slides or more.")
    return lines


@in_own_style
def nuisance_figure(found: NuisanceAudit, path: Path) -> None:
    """Draw how far each nuisance moves the risk, with its interval, beside chance."""
    effects = found.effects
    figure = Figure(figsize=(8.6, 1.4 + 0.36 * len(effects)), dpi=130, facecolor="white")
    axes = figure.subplots()
    named: set[str] = set()
    for row, one in enumerate(effects):
        size, chance, colour = one.effect.size, one.random["size"], _COLOURS[one.kind]
        label = None if one.kind in named else one.kind
        named.add(one.kind)
        axes.plot([size.low, size.high], [-row] * 2, color=colour, lw=2)
        axes.plot(size.value, -row, "o", color=colour, label=label)
        by_chance = "chance, equal norm (20 draws)" if row == 0 else None
        axes.plot([chance[1], chance[2]], [-row - 0.28] * 2, color="0.5", lw=1.5)
        axes.plot(chance[0], -row - 0.28, "s", color="0.5", markersize=3, label=by_chance)
    axes.set_yticks([-row for row in range(len(effects))], [_label(one) for one in effects])
    axes.set_ylim(-len(effects) + 0.4, 0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"mean size of the change of the risk, in SDs ({found.sd_of})")
    axes.set_title(f"{found.model}. Research use only, not for clinical use.", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)


def _label(one: NuisanceEffect) -> str:
    return f"{one.name} ({one.slides})"


def nuisance_rows(found: NuisanceAudit) -> list[list[str]]:
    """Return the cells of the page's table."""
    return [
        [one.name, one.kind, str(one.slides), *cells_of(one.effect, one.random)]
        for one in found.effects
    ]
