"""C of predictions from parts of slides, against the share that was read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tiacrossfusion.evaluation.bootstrap import bootstrap_counts, estimate
from tiacrossfusion.evaluation.figures import COLOURS, DASHED, REFERENCE, add_axes, new_figure
from tiacrossfusion.outputs.figures import in_own_style, save_figure
from tiacrossfusion.survival.concordance import PairSums, harrell_pairs

#: C that a recommended way may lose, and the share of the variance of risks below which 5x tells nothing.
_MAY_LOSE, _NOTHING = 0.01, 0.1

_DRAWS = 500


def concordance_by_share(
    folds: Sequence[pd.DataFrame],
) -> dict[tuple[str, float], np.ndarray]:
    """Return Harrell's C by method and share, of pairs of patients within a fold.

    Args:
        folds: of each fold, a row for each slide, method and share, with "patient", "time", "event" and
            "risk".

    Returns:
        (1 + D,) C and its bootstrap draws by patient, the same draws for each method and share.
    """
    sizes = [fold["patient"].nunique() for fold in folds]
    sums: dict[tuple[str, float], PairSums] = {}
    for fold, counts in zip(folds, bootstrap_counts(sizes, _DRAWS, 0), strict=True):
        for (method, share), rows in fold.groupby(["method", "share"]):
            of = rows.groupby("patient").agg({"risk": "mean", "time": "first", "event": "first"})
            pairs = harrell_pairs(
                of["time"].to_numpy(float),
                of["event"].to_numpy(bool),
                of["risk"].to_numpy(),
                counts,
            )
            key = (str(method), float(str(share)))
            sums[key] = sums[key] + pairs if key in sums else pairs
    return {key: pairs.ratio for key, pairs in sums.items()}


def _lost(whole: np.ndarray, part: np.ndarray) -> str:
    """Return what a part loses of C with its 95 % interval, in words."""
    found = estimate(whole - part)
    return f"{found.value:+.3f} of C ({found.low:+.3f} to {found.high:+.3f}, out of fold)"


def recommendation(folds: Sequence[pd.DataFrame]) -> list[str]:
    """Return notes on how much of a slide this model needs, and how to choose it."""
    draws = concordance_by_share(folds)
    c = {key: float(values[0]) for key, values in draws.items()}
    whole, alone = c["all", 1.0], c["5x alone", 0.0]
    every = pd.concat(folds)
    risks = every[every["method"].isin(["all", "5x alone"])].pivot_table(
        index="slide", columns="method", values="risk"
    )
    variance = float(risks["all"].var())
    told = 1 - float((risks["all"] - risks["5x alone"]).var()) / variance if variance > 0 else 0.0
    notes = []
    if told < _NOTHING:
        notes.append(
            f"5x tells nothing of the risk ({max(0, told):.0%} of its variance): --budget 0 and --choose "
            "focus are of no use for this model"
        )
    elif whole - alone <= _MAY_LOSE:
        notes.append(
            f"5x alone loses {_lost(draws['all', 1.0], draws['5x alone', 0.0])}: tiacf predict --budget 0 "
            "may do"
        )
    shares = sorted({share for method, share in c if method == "random"})
    for share in shares:
        random, focus = c["random", share], c["focus", share]
        best = "focus" if focus > random + _MAY_LOSE and told >= _NOTHING else "random"
        if whole - c[best, share] <= _MAY_LOSE:
            choose = " --choose focus" if best == "focus" else ""
            lost = _lost(draws["all", 1.0], draws[best, share])
            notes.append(f"tiacf predict --budget {share:g}{choose} loses {lost}")
            break
    else:
        notes.append(
            f"reading half of the families loses more than {_MAY_LOSE} of C: read all of the slides"
        )
    return notes


@in_own_style
def partial_figure(folds: Sequence[pd.DataFrame], path: Path, *, title: str, note: str) -> None:
    """Draw C, and the recall of the families of highest attribution, against the share read.

    Bars are 95 % intervals of what a part loses of the C of all, by bootstrap over patients.
    """
    draws = concordance_by_share(folds)
    c = {key: float(values[0]) for key, values in draws.items()}
    figure = new_figure(9.4, 4.4, title=title, note=note)
    left = add_axes(figure, 0.8, 1.15, 3.6, 2.45)
    left.axhline(c["all", 1.0], label="all read", **REFERENCE)
    left.axhline(c["5x alone", 0.0], color=COLOURS[2], linestyle=DASHED, label="5x alone")
    right = add_axes(figure, 5.5, 1.15, 3.6, 2.45)
    every = pd.concat(folds)
    for colour, method, label in (
        (COLOURS[0], "random", "random, difference estimator"),
        (COLOURS[1], "focus", "focus, rest imputed"),
    ):
        shares = sorted(share for name, share in c if name == method)
        lost = [estimate(draws["all", 1.0] - draws[method, s]) for s in shares]
        bars = [[one.high - one.value for one in lost], [one.value - one.low for one in lost]]
        values = [c[method, s] for s in shares]
        left.errorbar(
            np.array(shares) * (0.97 if method == "random" else 1.03),  # so that bars stand apart
            values,
            np.nan_to_num(bars),
            color=colour,
            marker="o",
            label=label,
            capsize=3,
        )
        recall = every[every["method"] == method].groupby("share")["recall"].mean()
        right.plot(recall.index, recall.to_numpy(), color=colour, marker="o", label=label)
    left.set(xlabel="share of the families read", ylabel="Harrell's C", xscale="log")
    right.set(xlabel="share of the families read", ylabel="recall of the top tenth", xscale="log")
    right.set_ylim(0, 1.02)
    for axes in (left, right):
        ticks = np.array(sorted({s for _, s in c if 0 < s < 1}))
        axes.set_xticks(ticks, [f"{s:g}" for s in ticks])
        axes.minorticks_off()
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.075),
        ncol=4,
        frameon=False,
        fontsize=9,
    )
    save_figure(figure, path)
