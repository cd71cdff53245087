"""Faithfulness: whether the prediction depends on the tokens with high scores.

A score is faithful if deleting the tokens that it ranks highest changes the risk more than deleting as many
tokens at random (Samek et al., "Evaluating the Visualization of What a Deep Neural Network Has Learned",
IEEE TNNLS 2017). Attention need not be (Jain and Wallace, "Attention is not Explanation", NAACL 2019).
Deleted tokens are removed from the bag, as if their patches were not tissue. If the tokens that show the
decisive pattern are known, the area under the ROC curve measures how well a score finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from tiacrossfusion.errors import UsageError
from tiacrossfusion.evaluation.bootstrap import bootstrap_counts, estimate
from tiacrossfusion.evaluation.scores import Estimate, FrozenModel
from tiacrossfusion.explain.score import Score
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.tokens import SlideTokens

#: Shares of a scale's tokens that are deleted.
SHARES = (0.05, 0.1, 0.2)

# With fewer slides the intervals are no more than a hint.
_FEW_SLIDES = 10

End = Literal["highest", "lowest"]
_Key = TypeVar("_Key")
_Deletion = tuple[str, str, End, float]  # score, scale, end, share


class DeletionFigure(FrozenModel):
    """The effect of deleting the tokens at one end of a score, on average over slides.

    Attributes:
        score: such as "attention fused", "attention rolled" or "attribution".
        scale: of the deleted tokens, "5x", "10x" or "20x".
        end: which tokens are deleted: the highest, or, of a signed score, the lowest, which lower the risk.
        share: share of the scale's tokens that are deleted.
        change: mean absolute change of the risk.
        random: the same if equally many tokens are deleted at random.
        ratio: `change` divided by `random`; above 1 the score is better than chance.
        direction: mean signed change of the risk; below 0 the risk falls.
    """

    score: str
    scale: str
    end: End
    share: float
    slides: int
    change: Estimate
    random: Estimate
    ratio: Estimate
    direction: Estimate


class RegionFigure(FrozenModel):
    """How well a score finds the tokens of a scale that show the decisive pattern.

    Attributes:
        slides: number of slides with tokens of both kinds.
        auc: mean over slides of the area under the ROC curve; 0.5 is chance.
    """

    score: str
    scale: str
    slides: int
    auc: Estimate


class Faithfulness(FrozenModel):
    """Faithfulness of a model's scores. Intervals: 95 %, bootstrap over slides.

    Attributes:
        random_deletions: number for each slide, scale and share.
        deletions: by score, scale, end and share.
        regions: by score and scale, if the tokens that show the pattern are known; else empty.
        notes: limits of the figures.
    """

    model: str
    slides: int
    random_deletions: int
    draws: int
    seed: int
    deletions: tuple[DeletionFigure, ...]
    regions: tuple[RegionFigure, ...]
    notes: tuple[str, ...]


def token_scores(bag: FeatureBag, bundle: ModelBundle) -> list[Score]:
    """Return all scores that the network of a bundle has for the tokens of a bag.

    Raises:
        TiacfError: the bag does not fit the model, or the risk is not finite.
    """
    from tiacrossfusion.explain.attribution import attribute
    from tiacrossfusion.explain.rolled import rolled_scores
    from tiacrossfusion.inference.prediction import predict_bag

    prediction = predict_bag(bag, bundle)
    attribution = attribute(bag, bundle)
    scores = [
        Score(f"attention {name}", "10x" if name == "fused" else name, values)
        for name, values in prediction.attention.items()
    ]
    for scale, values in (rolled_scores(bag, bundle) or {}).items():
        scores.append(Score("attention rolled", scale, values))
    for scale, values in attribution.values.items():
        scores.append(Score("attribution", scale, values, signed=True))
    return [score for score in scores if np.isfinite(score.values).all()]


def faithfulness(
    bags: Iterable[FeatureBag],
    bundle: ModelBundle,
    *,
    regions: Iterable[Mapping[str, np.ndarray]] | None = None,
    shares: Sequence[float] = SHARES,
    random_deletions: int = 5,
    draws: int = 1000,
    seed: int = 0,
) -> Faithfulness:
    """Measure the faithfulness of a model's scores on some slides.

    With the defaults and a network of three scales, a slide costs about 100 forward passes. The figures
    hold for new slides if the model was not trained on these. Shares are above 0 and below 1, random
    deletions are for each slide, scale and share. `regions` has for each bag, by scale where known, the
    tokens that show the pattern, (N,) bool.

    Raises:
        TiacfError: there is no bag, a bag does not fit the model, or there are too few draws.
    """
    rng = np.random.default_rng(seed)
    deleted: list[dict[_Deletion, tuple[float, float]]] = []
    found: list[dict[tuple[str, str], float]] = []
    truths = iter(regions) if regions is not None else None
    for bag in bags:
        scores = token_scores(bag, bundle)
        tokens = bundle.tokens(bag)
        deleted.append(_deletions(bundle.network, tokens, scores, shares, random_deletions, rng))
        truth = next(truths) if truths is not None else {}
        found.append(
            {
                (score.name, score.scale): auc(score.values, truth[score.scale])
                for score in scores
                if score.scale in truth
            }
        )
    if not deleted:
        raise UsageError("there are no bags to measure faithfulness on; give some with --bags")
    counts = bootstrap_counts([len(deleted)], draws, seed)[0]
    notes = []
    if len(deleted) < _FEW_SLIDES:
        notes.append(f"The intervals of {len(deleted)} slides are no more than a hint.")
    return Faithfulness(
        model=bundle.config.name,
        slides=len(deleted),
        random_deletions=random_deletions,
        draws=draws,
        seed=seed,
        deletions=tuple(_deletion_figure(key, deleted, counts) for key in _keys(deleted)),
        regions=tuple(_region_figure(key, found, counts) for key in _keys(found)),
        notes=tuple(notes),
    )


def auc(values: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under the ROC curve of scores (N,) for `truth` (N,) bool.

    It is the share of pairs in which the true token scores higher, equal scores counting one half; NaN if
    all tokens are true, or none. Source: Bamber, "The area above the ordinal dominance graph", 1975.
    """
    from scipy.stats import mannwhitneyu

    if truth.all() or not truth.any():
        return float("nan")
    pairs = int(truth.sum()) * int((~truth).sum())
    return float(mannwhitneyu(values[truth], values[~truth]).statistic / pairs)


def _deletions(
    network: SurvivalNetwork,
    tokens: SlideTokens,
    scores: Sequence[Score],
    shares: Sequence[float],
    random_deletions: int,
    rng: np.random.Generator,
) -> dict[_Deletion, tuple[float, float]]:
    """Return a slide's change of risk, and its mean size by chance, by score, scale, end and share."""
    import torch

    from tiacrossfusion.networks.calling import call_network

    def risk_without(scale: str, gone: np.ndarray) -> float:
        keep = np.setdiff1d(np.arange(tokens.features[scale].shape[1]), gone)
        return float(call_network(network, tokens.keep(scale, torch.from_numpy(keep))).risk)

    changes: dict[_Deletion, tuple[float, float]] = {}
    with torch.inference_mode():
        risk = float(call_network(network, tokens).risk)
        for scale in SCALES:
            of_scale = [score for score in scores if score.scale == scale]
            n = len(of_scale[0].values) if of_scale else 0
            if n < 2:  # deleting a single token would leave none
                continue
            for share in shares:
                count = min(max(1, round(share * n)), n - 1)
                chance = np.mean(
                    [
                        abs(risk_without(scale, rng.choice(n, count, replace=False)) - risk)
                        for _ in range(random_deletions)
                    ]
                )
                for score in of_scale:
                    falling = np.argsort(-score.values, kind="stable")
                    ends: dict[End, np.ndarray] = {"highest": falling[:count]}
                    if score.signed:
                        ends["lowest"] = falling[-count:]
                    for end, gone in ends.items():
                        change = risk_without(scale, gone) - risk
                        changes[score.name, scale, end, share] = (change, float(chance))
    return changes


def _keys(slides: Sequence[Mapping[_Key, object]]) -> list[_Key]:
    """Return all keys of some slides, in order of appearance."""
    return list(dict.fromkeys(key for slide in slides for key in slide))


def _deletion_figure(
    key: _Deletion, slides: Sequence[Mapping[_Deletion, tuple[float, float]]], counts: np.ndarray
) -> DeletionFigure:
    has = np.array([key in slide for slide in slides])
    changes, chances = np.array([slide[key] for slide in slides if key in slide]).T
    counts = counts[:, has]
    score, scale, end, share = key
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw may have none of these slides
        n = counts.sum(axis=1)
        size, chance = counts @ np.abs(changes) / n, counts @ chances / n
        return DeletionFigure(
            score=score,
            scale=scale,
            end=end,
            share=share,
            slides=int(has.sum()),
            change=estimate(size),
            random=estimate(chance),
            ratio=estimate(size / chance, "deleting tokens at random does not change the risk"),
            direction=estimate(counts @ changes / n),
        )


def _region_figure(
    key: tuple[str, str], slides: Sequence[Mapping[tuple[str, str], float]], counts: np.ndarray
) -> RegionFigure:
    values = np.array([slide.get(key, np.nan) for slide in slides])
    known = np.isfinite(values)
    counts = counts[:, known]
    with np.errstate(invalid="ignore"):
        mean = counts @ values[known] / counts.sum(axis=1)
    score, scale = key
    figure = estimate(mean, "no slide has tokens with the pattern and tokens without it")
    return RegionFigure(score=score, scale=scale, slides=int(known.sum()), auc=figure)
