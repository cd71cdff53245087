"""Attribution of the risk: which tokens raise or lower it, and how much each scale contributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import product
from math import factorial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.record_attribution import RecordGame
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from torch import Tensor

    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.networks.base import SurvivalNetwork, Term
    from tiacrossfusion.networks.orders import AveragedOrders
    from tiacrossfusion.networks.tokens import SlideTokens


#: The clinical record as a player beside the scales.
RECORD = "record"


@dataclass(frozen=True)
class Attribution:
    """The risk of one slide, attributed to tokens and scales.

    Attributes:
        values: (N,) float64 for each scale that the network reads: above 0, the token raises the risk
            compared with an average token; below 0, it lowers it.
        risk: of the slide.
        baseline_risk: of a bag of equally many typical tokens.
        scale_contribution: contribution of "5x", "10x" and "20x" to the risk; with that of a record they add
            up to `risk - baseline_risk`. 0 for a scale that the network does not read.
        baseline: where average and typical tokens come from: "training" patients, or the slide's "own".
        record_contribution: contribution of the clinical record; None if the model reads none, or nothing
            of it is known.
        variables: contribution of each variable of the record; they add up to `record_contribution`.
        record_alone: risk of typical tokens with the record, less `baseline_risk`.
        terms: (N,) float64 for each term that the network computes of tokens, such as a product of a 10x
            token's neighbours: above 0, the term raises the risk compared with that of the slide's mean
            tokens. What a term adds is part of the values of its tokens, too.
    """

    values: dict[str, np.ndarray]
    risk: float
    baseline_risk: float
    scale_contribution: dict[str, float]
    baseline: Literal["training", "own"]
    terms: dict[Term, np.ndarray] = field(default_factory=dict)
    record_contribution: float | None = None
    variables: dict[str, float] = field(default_factory=dict)
    record_alone: float = 0.0

    @property
    def completeness_error(self) -> float:
        """The sum of the tokens' values minus the risk less that of typical tokens with the same record.

        It is 0 for a network that is linear in its embedded tokens, and else measures how far from linear
        the network is between the bag and the baseline.
        """
        total = float(sum(values.sum() for values in self.values.values()))
        return total - (self.risk - self.baseline_risk - self.record_alone)


def attribute(
    bag: FeatureBag, bundle: ModelBundle, covariates: np.ndarray | None = None
) -> Attribution:
    """Attribute the risk of a slide to its tokens and to the three scales.

    Tokens: gradient times difference to a baseline (Shrikumar, Greenside and Kundaje, "Learning Important
    Features Through Propagating Activation Differences", ICML 2017, section 2), summed over features: to
    first order, the change of the risk when the token replaces an average token. It is computed at the
    embedded tokens (`SurvivalNetwork.embeddings`), or at the features if the network names no embeddings.
    Positions and covariates are kept. The average token is the mean embedding of typical tokens.
    CrossFusion normalises each projected token, so neither its length nor a step towards the mean feature,
    which is nearly 0 once standardised, matters: at the features the gradient misses the effect of the
    token, and so do integrated gradients along the same line, at many times the cost (figures in
    docs/explanations.md).

    Scales: Shapley values (Shapley, "A Value for n-person Games", 1953; Lundberg and Lee, NeurIPS 2017,
    equation 8) of the game in which the tokens of an absent scale are replaced by typical tokens. A clinical
    record is one more player, replaced by that of an average training patient, and its value is divided among
    its variables (Owen, "Values of Games with a Priori Unions", 1977).

    Typical tokens are drawn from N(mean, sd^2), independently for each feature, with the training patients'
    moments and a fixed seed. For a model without moments they all are the mean of the slide's tokens at
    their scale; values and contributions then describe the difference from the slide's average content.

    Terms (`SurvivalNetwork.terms`), in the same backward pass: gradient times the difference to the term of
    the slide's mean tokens.

    Costs one forward and one backward pass, and `2**n - 1` forward passes from the embedded tokens on for the
    n scales that the network reads; eight times that for the mean over eight orders, in which each order is
    attributed and the mean taken token by token. Memory is linear in the tokens.

    Args:
        bag: features of the slide, made with the bundle's encoder and sampling.
        bundle: the model, with any network, single or an ensemble.
        covariates: (C,) raw values, see `ModelBundle.tokens`.

    Raises:
        TiacfError: the bag does not fit the model, or the risk or a gradient is not finite.
    """
    found = attribute_tokens(bundle.network, bundle.tokens(bag, covariates))
    numbers = [found.baseline_risk, found.risk, *(v.sum() for v in found.values.values())]
    if not np.isfinite(numbers).all():
        raise TiacfError(
            f"{bag.provenance.slide}: the attribution of the risk is not finite; check the model's weights"
        )
    return found


def attribute_tokens(network: SurvivalNetwork, tokens: SlideTokens) -> Attribution:
    """Attribute as `attribute` does, with a network in eval mode and the tokens of one slide."""
    from tiacrossfusion.networks import orders

    if isinstance(network, orders.AveragedOrders):
        return _over_orders(network, tokens)
    return _in_order(network, tokens)


def _over_orders(network: AveragedOrders, tokens: SlideTokens) -> Attribution:
    """Return the mean attribution over the orders, token by token.

    The risk is a mean over the orders, so that values add up as they do for one order. Networks that read the
    order have no terms.
    """
    found = []
    for ordered, index in network.ordered(tokens):
        one = _in_order(network.network, ordered)
        values = {}
        for scale, sorted_values in one.values.items():
            values[scale] = np.empty_like(sorted_values)
            values[scale][index[scale[:-1]][0].cpu().numpy()] = sorted_values
        found.append(replace(one, values=values))

    def mean(values: Iterable[Any]) -> Any:
        return sum(values) / len(found)

    return Attribution(
        values={s: mean(one.values[s] for one in found) for s in found[0].values},
        risk=mean(one.risk for one in found),
        baseline_risk=mean(one.baseline_risk for one in found),
        scale_contribution={s: mean(one.scale_contribution[s] for one in found) for s in SCALES},
        baseline=found[0].baseline,
        record_contribution=None
        if found[0].record_contribution is None
        else mean(one.record_contribution for one in found),
        variables={v: mean(one.variables[v] for one in found) for v in found[0].variables},
        record_alone=mean(one.record_alone for one in found),
    )


def _in_order(network: SurvivalNetwork, tokens: SlideTokens) -> Attribution:
    game = RecordGame.of(network, tokens.covariates)
    watching: AbstractContextManager[dict[int, Tensor]] = (
        nullcontext({}) if game is None else game.watched()
    )
    with watching as scores:
        return _watched(network, tokens, game, scores)


def _watched(
    network: SurvivalNetwork,
    tokens: SlideTokens,
    game: RecordGame | None,
    scores: dict[int, Tensor],
) -> Attribution:
    """Attribute while the slide scores of models of slide and record are kept in `scores`."""
    import torch

    from tiacrossfusion.explain.embedded import embedded
    from tiacrossfusion.networks.calling import as_output, call_network, inputs_of

    # Detached weights, so that nothing is stored for their gradients.
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    with torch.enable_grad(), embedded(network, tokens) as (given, found):
        output = as_output(
            torch.func.functional_call(network, weights, (), inputs_of(network, given))
        )
        gradients = torch.autograd.grad(
            output.risk.sum(),
            [*(leaf.tokens for leaf in found.leaves), *(term.made for term in found.terms)],
            allow_unused=True,
            materialize_grads=True,
        )
    values: dict[str, np.ndarray] = {}
    terms: dict[Term, np.ndarray] = {}
    for leaf, gradient in zip(found.leaves, gradients, strict=False):
        value = _slope(gradient[0], leaf.tokens[0] - leaf.average[0])
        values[leaf.scale] = values.get(leaf.scale, 0.0) + value
    for term, gradient in zip(found.terms, gradients[len(found.leaves) :], strict=True):
        terms[term.term] = terms.get(term.term, 0.0) + _slope(gradient, term.made - term.average)
    read = [scale for scale in SCALES if scale in values]

    risk = float(output.risk.detach())
    risks = {frozenset(read): risk}
    scores_of = {frozenset(read): dict(scores)}
    if found.reads_features:
        baseline = baseline_tokens(network, tokens).features
    else:  # features of which only the shapes are read
        tokens = tokens.with_features(
            {s: x[:, :1].expand_as(x) for s, x in tokens.features.items()}
        )
        baseline = tokens.features
    with torch.inference_mode():
        for kept in product((True, False), repeat=len(read)):
            coalition = frozenset(scale for scale, keep in zip(read, kept, strict=True) if keep)
            if coalition not in risks:
                typical = {scale: baseline[scale] for scale in read if scale not in coalition}
                with found.passed_again(set(typical)):
                    there = call_network(network, tokens.with_features(typical))
                risks[coalition] = float(there.risk)
                scores_of[coalition] = dict(scores)
    contributions, variables, record_alone = _with_record(game, risks, scores_of, read)
    return Attribution(
        values={scale: values[scale] for scale in read},
        terms=terms,
        risk=risk,
        baseline_risk=risks[frozenset()] - record_alone,
        scale_contribution=dict.fromkeys(SCALES, 0.0) | {s: contributions[s] for s in read},
        baseline="own" if network.moments() is None else "training",
        record_contribution=contributions.get(RECORD),
        variables=variables,
        record_alone=record_alone,
    )


def _with_record(
    game: RecordGame | None,
    risks: Mapping[frozenset[str], float],
    scores: Mapping[frozenset[str], Mapping[int, Tensor]],
    read: list[str],
) -> tuple[dict[str, float], dict[str, float], float]:
    """Return contributions of scales and record, those of its variables, and what the record does alone.

    `risks` and slide `scores` are those of the coalitions of scales, with the record.
    """
    if game is None:
        return _shapley(risks, read), {}, 0.0
    count = len(game.names)
    nothing = np.zeros((1, count), bool)
    without = {group: float(game.risks(scores[group], nothing)[0]) for group in risks}
    both = {group | {RECORD}: risk for group, risk in risks.items()} | without
    players = [*read, RECORD]
    values, n = np.zeros(count), len(players)
    for group in risks:
        weight = factorial(len(group)) * factorial(n - len(group) - 1) / factorial(n)
        values += weight * game.shapley(scores[group])
    variables = dict(zip(game.names, map(float, values), strict=True))
    return _shapley(both, players), variables, risks[frozenset()] - without[frozenset()]


def _slope(gradient: Tensor, difference: Tensor) -> np.ndarray:
    """Return the sum (N,) over features of gradient times difference, (N, D) each."""
    import torch

    return (gradient * difference.detach()).sum(dim=1, dtype=torch.float64).cpu().numpy()


def baseline_tokens(network: SurvivalNetwork, tokens: SlideTokens) -> SlideTokens:
    """Return equally many typical tokens, see `attribute`."""
    from tiacrossfusion.explain.embedded import repeated, typical_tokens

    moments = network.moments()
    typical = {}
    for scale, bag in tokens.features.items():
        mean = bag.mean(dim=1, keepdim=True)  # (1, 1, E)
        drawn = mean if moments is None else typical_tokens(moments, scale, bag)
        typical[scale] = repeated(drawn, bag.shape[1])
    return tokens.with_features(typical)


def _shapley(risks: Mapping[frozenset[str], float], players: list[str]) -> dict[str, float]:
    """Return the Shapley values of players, from the risks of all their subsets.

    A value is the mean, over all orders, of what a player adds to the players before it.
    """
    n = len(players)
    values = dict.fromkeys(players, 0.0)
    for player in players:
        for coalition, risk in risks.items():
            if player not in coalition:
                size = len(coalition)
                weight = factorial(size) * factorial(n - size - 1) / factorial(n)
                values[player] += weight * (risks[coalition | {player}] - risk)
    return values
