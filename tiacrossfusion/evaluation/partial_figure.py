"""C of predictions from parts of slides, against the share that was read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tiacrossfusion.evaluation.figures import COLOURS, DASHED, REFERENCE, add_axes, new_figure
from tiacrossfusion.outputs.figures import in_own_style, save_figure
from tiacrossfusion.survival.concordance import PairSums, harrell_pairs

#: C that a recommended way may lose, and the share of the variance of risks below which 5x tells nothing.
_MAY_LOSE, _NOTHING = 0.01, 0.1


def concordance_by_share(
    folds: Sequence[pd.DataFrame],
) -> dict[tuple[str, float], float]:
    """Return Harrell's C by method and share, of pairs of patients within a fold.

    Args:
        folds: of each fold, a row for each slide, method and share, with "patient", "time", "event" and
            "risk".
    """
    sums: dict[tuple[str, float], PairSums] = {}
    for fold in folds:
        for (method, share), rows in fold.groupby(["method", "share"]):
            of = rows.groupby("patient").agg({"risk": "mean", "time": "first", "event": "first"})
            pairs = harrell_pairs(
                of["time"].to_numpy(float), of["event"].to_numpy(bool), of["risk"].to_numpy()
            )
            key = (str(method), float(str(share)))
            sums[key] = sums[key] + pairs if key in sums else pairs
    return {key: float(pairs.ratio) for key, pairs in sums.items()}


def recommendation(folds: Sequence[pd.DataFrame]) -> list[str]:
    """Return notes on how much of a slide this model needs, and how to choose it."""
    c = concordance_by_share(folds)
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
            f"5x alone loses {max(0, whole - alone):.3f} of C (out of fold): tiacf predict --budget 0 may do"
        )
    shares = sorted({share for method, share in c if method == "random"})
    for share in shares:
        random, focus = c["random", share], c["focus", share]
        best = "focus" if focus > random + _MAY_LOSE and told >= _NOTHING else "random"
        if whole - c[best, share] <= _MAY_LOSE:
            choose = " --choose focus" if best == "focus" else ""
            lost = max(0, whole - c[best, share])
            notes.append(
                f"tiacf predict --budget {share:g}{choose} loses {lost:.3f} of C (out of fold)"
            )
            break
    else:
        notes.append(
            f"reading half of the families loses more than {_MAY_LOSE} of C: read all of the slides"
        )
    return notes


@in_own_style
def partial_figure(folds: Sequence[pd.DataFrame], path: Path, *, title: str, note: str) -> None:
    """Draw C, and the recall of the families of highest attribution, against the share read."""
    c = concordance_by_share(folds)
    figure = new_figure(9.4, 4.4, title=title, note=note)
    left = add_axes(figure, 0.8, 1.0, 3.6, 2.6)
    left.axhline(c["all", 1.0], label="all read", **REFERENCE)
    left.axhline(c["5x alone", 0.0], color=COLOURS[2], linestyle=DASHED, label="5x alone")
    right = add_axes(figure, 5.5, 1.0, 3.6, 2.6)
    every = pd.concat(folds)
    for colour, method, label in (
        (COLOURS[0], "random", "random, difference estimator"),
        (COLOURS[1], "focus", "focus, rest imputed"),
    ):
        shares = sorted(share for name, share in c if name == method)
        left.plot(shares, [c[method, s] for s in shares], color=colour, marker="o", label=label)
        recall = every[every["method"] == method].groupby("share")["recall"].mean()
        right.plot(recall.index, recall.to_numpy(), color=colour, marker="o", label=label)
    left.set(xlabel="share of the families read", ylabel="Harrell's C", xscale="log")
    right.set(xlabel="share of the families read", ylabel="recall of the top tenth", xscale="log")
    right.set_ylim(0, 1.02)
    for axes in (left, right):
        ticks = np.array(sorted({s for _, s in c if 0 < s < 1}))
        axes.set_xticks(ticks, [f"{s:g}" for s in ticks])
        axes.minorticks_off()
    left.legend(fontsize=8)
    save_figure(figure, path)
