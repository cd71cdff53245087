"""Faithfulness: whether the tokens with high scores are those that the prediction depends on.

A score is faithful when the tokens that it ranks highest matter: deleting them moves the risk more than
deleting as many others at random (Samek et al., "Evaluating the Visualization of What a Deep Neural Network
Has Learned", IEEE TNNLS 2017). Attention need not be (Jain and Wallace, "Attention is not Explanation",
NAACL 2019). Deleted tokens are taken out of the bag, as if the patches had not been tissue. Where it is
known which tokens show the pattern that decides, the area under the ROC curve says how well a score finds
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from tiacrossfusion.errors import UsageError
from tiacrossfusion.evaluation.bootstrap import bootstrap_counts, estimate
from tiacrossfusion.evaluation.scores import Estimate
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.tokens import SlideTokens

#: Shares of a scale's tokens that are deleted.
SHARES = (0.05, 0.1, 0.2)

#: With fewer slides an interval is no more than a hint.
_FEW_SLIDES = 10

End = Literal["highest", "lowest"]
_Key = TypeVar("_Key")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class DeletionFigure(_Frozen):
    """What deleting the tokens at one end of a score does, on average over slides.

    Attributes:
        score: such as "attention fused", "attention rolled" or "attribution".
        scale: of the tokens that are deleted, "5x", "10x" or "20x".
        end: which tokens are deleted; the lowest of a score with a sign only, which lower the risk.
        share: of the scale's tokens that are deleted.
        slides: how many count.
        change: mean size of the change of the risk.
        random: the same when as many tokens are deleted at random.
        ratio: the first by the second; above 1 the score is better than chance.
        direction: mean change of the risk with its sign; below 0 the risk falls.
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


class RegionFigure(_Frozen):
    """How well a score finds the tokens that show the pattern.

    Attributes:
        score: as in `DeletionFigure`.
        scale: of the tokens.
        slides: how many have tokens with and tokens without the pattern.
        auc: mean over slides of the area under the ROC curve; 0.5 is chance.
    """

    score: str
    scale: str
    slides: int
    auc: Estimate


class Faithfulness(_Frozen):
    """Faithfulness of a model's scores. Intervals: 95 %, bootstrap over slides.

    Attributes:
        model: its name.
        slides: how many were looked at.
        random_deletions: for each slide, scale and share.
        draws: of the bootstrap.
        seed: of the random deletions and the bootstrap.
        deletions: by score, scale, end and share.
        regions: where it is known which tokens show the pattern; else empty.
        notes: what limits the figures.
    """

    model: str
    slides: int
    random_deletions: int
    draws: int
    seed: int
    deletions: tuple[DeletionFigure, ...]
    regions: tuple[RegionFigure, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TokenScore:
    """One score of the tokens of one scale.

    Attributes:
        name: such as "attention fused".
        scale: of the tokens.
        values: (N,), none of them NaN.
        signed: whether the lowest lower the risk, so that both ends matter.
    """

    name: str
    scale: str
    values: np.ndarray
    signed: bool = False


def token_scores(bag: FeatureBag, bundle: ModelBundle) -> list[TokenScore]:
    """Score the tokens of a bag in all ways that a network has.

    Args:
        bag: features of a slide, made with the bundle's encoder and sampling.
        bundle: the model.

    Raises:
        TiacfError: the bag does not fit the model, or the risk is not finite.
    """
    from tiacrossfusion.explain.attribution import attribute
    from tiacrossfusion.explain.rolled import rolled_scores
    from tiacrossfusion.inference.prediction import predict_bag

    prediction = predict_bag(bag, bundle)
    attribution = attribute(bag, bundle)
    scores = [
        TokenScore(f"attention {name}", "10x" if name == "fused" else name, values)
        for name, values in prediction.attention.items()
    ]
    for scale, values in (rolled_scores(bag, bundle) or {}).items():
        scores.append(TokenScore("attention rolled", scale, values))
    for scale, values in attribution.values.items():
        scores.append(TokenScore("attribution", scale, values, signed=True))
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

    Takes for each slide about 100 forward passes at the defaults for a network of three scales.

    Args:
        bags: of slides that the model was not trained on, for figures that hold for new ones.
        bundle: the model.
        regions: for each bag, for scales where it is known, (N,) bool: the tokens with the pattern.
        shares: of a scale's tokens to delete, each above 0 and below 1.
        random_deletions: with which a deletion is compared, for each slide, scale and share.
        draws: of the bootstrap.
        seed: of the random deletions and the bootstrap.

    Raises:
        TiacfError: there is no bag, one does not fit the model, or there are too few draws.
    """
    rng = np.random.default_rng(seed)
    deleted: list[dict[tuple[str, str, End, float], tuple[float, float]]] = []
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
        raise UsageError("no bag to measure faithfulness on; give some with --bags")
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
    """Area under the ROC curve: the share of pairs in which the token with the pattern scores higher.

    Source: Bamber, "The area above the ordinal dominance graph", 1975; equal scores count one half.

    Args:
        values: (N,) scores.
        truth: (N,) bool.

    Returns:
        0 to 1; NaN where all tokens have the pattern, or none.
    """
    from scipy.stats import mannwhitneyu

    if truth.all() or not truth.any():
        return float("nan")
    pairs = int(truth.sum()) * int((~truth).sum())
    return float(mannwhitneyu(values[truth], values[~truth]).statistic / pairs)


def _deletions(
    network: SurvivalNetwork,
    tokens: SlideTokens,
    scores: Sequence[TokenScore],
    shares: Sequence[float],
    random_deletions: int,
    rng: np.random.Generator,
) -> dict[tuple[str, str, End, float], tuple[float, float]]:
    """Change of a slide's risk by score, scale, end and share, and its mean size by chance."""
    import torch

    from tiacrossfusion.networks.calling import call_network

    def risk_without(scale: str, gone: np.ndarray) -> float:
        keep = np.setdiff1d(np.arange(tokens.features[scale].shape[1]), gone)
        return float(call_network(network, tokens.keep(scale, torch.from_numpy(keep))).risk)

    changes: dict[tuple[str, str, End, float], tuple[float, float]] = {}
    with torch.inference_mode():
        risk = float(call_network(network, tokens).risk)
        for scale in SCALES:
            of_scale = [score for score in scores if score.scale == scale]
            n = len(of_scale[0].values) if of_scale else 0
            if n < 2:  # of a single token nothing would be left
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
    """All keys of some slides, in the order in which they come."""
    return list(dict.fromkeys(key for slide in slides for key in slide))


def _deletion_figure(
    key: tuple[str, str, End, float],
    slides: Sequence[Mapping[tuple[str, str, End, float], tuple[float, float]]],
    counts: np.ndarray,
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
    key: tuple[str, str],
    slides: Sequence[Mapping[tuple[str, str], float]],
    counts: np.ndarray,
) -> RegionFigure:
    values = np.array([slide.get(key, np.nan) for slide in slides])
    known = np.isfinite(values)
    counts = counts[:, known]
    with np.errstate(invalid="ignore"):
        mean = counts @ values[known] / counts.sum(axis=1)
    score, scale = key
    figure = estimate(mean, "no slide has tokens with the pattern and tokens without it")
    return RegionFigure(score=score, scale=scale, slides=int(known.sum()), auc=figure)
