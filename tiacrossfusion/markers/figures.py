"""Figures of markers: forest plot, Kaplan-Meier curves, typical patches, and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.evaluation.kaplan_meier_figure import FEWEST_AT_RISK
from tiacrossfusion.markers.api import Markers
from tiacrossfusion.markers.maps import colour_of, marker_name, visible
from tiacrossfusion.outputs.figures import in_own_style, save_figure

_NOTICE = "Research use only, not for clinical use."


def _colour(marker: int) -> tuple[float, float, float]:
    red, green, blue = colour_of(marker)
    return red / 255, green / 255, blue / 255


@in_own_style
def forest_figure(found: Markers, path: Path) -> None:
    """Draw the hazard ratio of each marker's share with its 95 % interval, filled where it was found."""
    number = len(found.centres)
    order = sorted(range(number), key=lambda k: (k not in found.shares.found, found.shares.p[k]))
    figure = Figure(figsize=(9.0, 1.6 + 0.34 * number), dpi=130, facecolor="white")
    axes = figure.add_axes(
        (0.12, 0.95 / (1.6 + 0.34 * number), 0.42, 0.34 * number / (1.6 + 0.34 * number))
    )
    for row, marker in enumerate(order):
        y, colour = -row, _colour(marker)
        for ratio, shift, style in (
            (found.ratios[marker], 0.0, "o"),
            (found.held[marker].ratio, -0.27, "s"),
        ):
            if not np.isfinite(ratio.value):
                continue
            passed = marker in found.shares.found
            own = style == "o"
            axes.plot(
                [ratio.low, ratio.high], [y + shift] * 2, color=colour, lw=1.6 if own else 0.8
            )
            axes.plot(
                ratio.value,
                y + shift,
                style,
                color=colour,
                markersize=7 if own else 3.5,
                markerfacecolor=colour if passed and own else "white",
            )
        ratio, held = found.ratios[marker], found.held[marker]
        share = found.counts[:, marker].sum() / found.counts.sum()
        words = (
            f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})    q {found.shares.q[marker]:.2g}    "
            f"{share:.1%} of patches    {held.found} of {held.folds} folds"
        )
        axes.text(1.03, y, words, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.axvline(1, color="0.6", lw=0.8)
    axes.set_xscale("log")
    shown = [v for one in found.ratios for v in (one.low, one.high) if np.isfinite(v)]
    low, high = min([*shown, 0.5]), max([*shown, 2.0])
    axes.set_xlim(max(low, 0.05) / 1.05, min(high, 20) * 1.05)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10) if low / 1.1 <= t <= high * 1.1]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_yticks([-row for row in range(number)], [marker_name(k) for k in order])
    axes.set_ylim(-number + 0.4, 0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("hazard ratio of one SD of the share", fontsize=9)
    axes.set_title(
        f"{found.title}: filled passes a false-discovery rate of {found.level:g}; "
        "squares are of patients held out",
        fontsize=10,
        loc="left",
    )
    figure.text(0.5, 0.02, _NOTICE, ha="center", fontsize=8, color="0.35")
    save_figure(figure, path)


@in_own_style
def kaplan_meier_marker(found: Markers, marker: int, path: Path) -> None:
    """Draw the observed survival of patients above and below the median share, with numbers at risk.

    The time axis ends where fewer than 10 patients are at risk.
    """
    from lifelines import KaplanMeierFitter
    from lifelines.plotting import add_at_risk_counts

    counts, outcome = found.counts, found.outcome
    share = counts[:, marker] / counts.sum(axis=1)
    middle = float(np.median(share))
    high = share > middle
    figure = Figure(figsize=(6.8, 4.7), dpi=130, facecolor="white")
    axes = figure.add_axes((0.16, 0.33, 0.8, 0.57))
    fitters, names = [], []
    for members, words, colour in (
        (~high, f"share up to {middle:.2%}", "0.45"),
        (high, f"share above {middle:.2%}", _colour(marker)),
    ):
        if not members.any():
            continue
        entry = None if outcome.entries is None else outcome.entries[members]
        label = f"{words} (n = {members.sum()}, {outcome.events[members].sum()} events)"
        fitter = KaplanMeierFitter(label=label).fit(
            outcome.times[members], outcome.events[members], entry=entry
        )
        fitter.plot_survival_function(ax=axes, color=colour, ci_alpha=0.15)
        fitters.append(fitter)
        names.append(words.removeprefix("share "))
    # Beyond, a single patient makes a step (see `evaluation.kaplan_meier_figure`).
    axes.set(ylim=(0, 1.02), xlim=(0, np.sort(outcome.times)[-FEWEST_AT_RISK]))
    axes.set_xlabel(f"time ({found.table.time_unit})")
    axes.set_ylabel("observed survival")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    add_at_risk_counts(
        *fitters, labels=names, ax=axes, fig=figure, rows_to_show=["At risk"], ypos=-0.3, fontsize=8
    )
    axes.set_title(
        f"{marker_name(marker)}: patients by its share of their patches (cut at the median)",
        fontsize=10,
    )
    figure.text(0.5, 0.01, _NOTICE, ha="center", fontsize=7, color="0.35")
    save_figure(figure, path)


@in_own_style
def patches_figure(found: Markers, images: Mapping[int, Sequence[np.ndarray]], path: Path) -> None:
    """Draw the typical patches of each marker, a row each, each of another patient."""
    number = len(found.centres)
    wide = max((len(row) for row in images.values()), default=1)
    figure = Figure(figsize=(1.1 + 1.05 * wide, 0.4 + 1.05 * number), dpi=100, facecolor="white")
    grid = figure.subplots(number, wide, squeeze=False)
    for marker, row in enumerate(grid):
        colour = _colour(marker)
        for place, axes in enumerate(row):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=colour, linewidth=2)
            if place < len(images[marker]):
                axes.imshow(images[marker][place])
            else:
                axes.set_axis_off()
        row[0].set_ylabel(str(marker + 1), rotation=0, ha="right", va="center", fontsize=12)
    figure.subplots_adjust(0.06, 0.01, 0.99, 0.97, 0.04, 0.04)
    save_figure(figure, path)


@in_own_style
def map_figure(bag: FeatureBag, scale: str, labels: np.ndarray, number: int, path: Path) -> None:
    """Draw the markers of a slide in their colours, and name them with their share."""
    bounds, shown = visible(bag, scale)
    high = bounds[shown, 2:].max(axis=0)
    low = bounds[shown, :2].min(axis=0)
    width, height = (high - low).tolist()
    tall = float(np.clip(6.0 * height / width, 2.0, 10.0))
    figure = Figure(figsize=(8.6, tall + 0.5), dpi=110, facecolor="white")
    axes = figure.add_axes((0.02, 0.02, 0.68, tall / (tall + 0.5) - 0.03))
    cells = np.rint(
        (bounds[shown] - np.tile(low, 2)) / (bounds[shown, 2:3] - bounds[shown, :1]).max()
    )
    size = cells[:, 2:].max(axis=0).astype(int)
    picture = np.ones((size[1] + 1, size[0] + 1, 3))
    colours = np.array([_colour(k) for k in range(number)])
    column, row = cells[:, :2].astype(int).T
    picture[row, column] = colours[labels[shown]]
    axes.imshow(picture, interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, size[0] - 0.5), ylim=(size[1] - 0.5, -0.5))
    share = np.bincount(labels, minlength=number) / len(labels)
    handles = [
        Patch(color=colours[k], label=f"{marker_name(k)}  {share[k]:.1%}")
        for k in range(number)
        if share[k]
    ]
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(0.71, 0.5), frameon=False, fontsize=8
    )
    figure.suptitle(f"{bag.provenance.slide}, {scale}", fontsize=10)
    save_figure(figure, path)
