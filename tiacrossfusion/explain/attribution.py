"""Attribution of the risk: which tokens raise or lower it, and how much each scale contributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import factorial
from typing import TYPE_CHECKING, Literal

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.tokens import SlideTokens

# Number of typical tokens to draw; the error of their mean is 1/32 of the SD of one token.
_DRAWN = 1024


@dataclass(frozen=True)
class Attribution:
    """The risk of one slide, attributed to tokens and scales.

    Attributes:
        values: (N,) float64 for each scale that the network reads: above 0, the token raises the risk
            compared with an average token; below 0, it lowers it.
        risk: of the slide.
        baseline_risk: of a bag of equally many typical tokens.
        scale_contribution: contribution of "5x", "10x" and "20x" to the risk; they add up to
            `risk - baseline_risk`. 0 for a scale that the network does not read.
        baseline: where average and typical tokens come from: "training" patients, or the slide's "own".
    """

    values: dict[str, np.ndarray]
    risk: float
    baseline_risk: float
    scale_contribution: dict[str, float]
    baseline: Literal["training", "own"]

    @property
    def completeness_error(self) -> float:
        """The sum of the tokens' values minus `risk - baseline_risk`.

        It is 0 for a network that is linear in its embedded tokens, and else measures how far from linear
        the network is between the bag and the baseline.
        """
        total = float(sum(values.sum() for values in self.values.values()))
        return total - (self.risk - self.baseline_risk)


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
    equation 8) of the game in which the tokens of an absent scale are replaced by typical tokens.

    Typical tokens are drawn from N(mean, sd^2), independently for each feature, with the training patients'
    moments and a fixed seed. For a model without moments they all are the mean of the slide's tokens at
    their scale; values and contributions then describe the difference from the slide's average content.

    Costs one forward and one backward pass, and `2**n - 1` forward passes for the n scales that the network
    reads. Memory is linear in the tokens.

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
    values, risk = _gradient_times_difference(network, tokens)
    baseline, kind = baseline_tokens(network, tokens)
    risks = _coalitions(network, tokens, baseline, list(values), risk)
    return Attribution(
        values=values,
        risk=risk,
        baseline_risk=risks[frozenset()],
        scale_contribution=dict.fromkeys(SCALES, 0.0) | _shapley(risks, list(values)),
        baseline=kind,
    )


def baseline_tokens(
    network: SurvivalNetwork, tokens: SlideTokens
) -> tuple[SlideTokens, Literal["training", "own"]]:
    """Return equally many typical tokens, and their origin, "training" or "own" (see `Attribution`)."""
    import torch

    moments = network.moments()
    if moments is None:
        own = {
            scale: bag.mean(dim=1, keepdim=True).expand_as(bag)
            for scale, bag in tokens.features.items()
        }
        return tokens.with_features(own), "own"
    typical = {}
    for scale, bag in tokens.features.items():
        drawn = _typical_tokens(moments, scale, bag)  # (1, n, E)
        typical[scale] = drawn[:, torch.arange(bag.shape[1], device=bag.device) % _DRAWN]
    return tokens.with_features(typical), "training"


def _typical_tokens(moments: tuple[Tensor, Tensor], scale: str, like: Tensor) -> Tensor:
    """Draw tokens (1, n, E) of a scale from N(mean, sd^2)."""
    mean, sd = (each[SCALES.index(scale)] for each in moments)
    return mean + sd * _standard_tokens(like)


# Tokens --------------------------------------------------------------------------------------------


def _gradient_times_difference(
    network: SurvivalNetwork, tokens: SlideTokens
) -> tuple[dict[str, np.ndarray], float]:
    """Return the attribution (N,) of each scale that the network reads, and the risk."""
    import torch

    from tiacrossfusion.networks.calling import as_output, inputs_of

    # Detached weights, so that nothing is stored for their gradients.
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    with torch.enable_grad(), _leaves(network, tokens) as (found, given):
        inputs = inputs_of(network, given)
        output = as_output(torch.func.functional_call(network, weights, (), inputs))
        gradients = torch.autograd.grad(
            output.risk.sum(),
            [leaf.tokens for leaf in found],
            allow_unused=True,
            materialize_grads=True,
        )
    values: dict[str, np.ndarray] = {}
    for leaf, gradient in zip(found, gradients, strict=True):
        difference = leaf.tokens.detach() - leaf.average  # (1, N, D)
        value = (gradient * difference).sum(dim=2, dtype=torch.float64)[0].cpu().numpy()
        values[leaf.scale] = values.get(leaf.scale, 0.0) + value
    risk = float(output.risk.detach())
    return {scale: values[scale] for scale in SCALES if scale in values}, risk


@dataclass(frozen=True)
class _Leaf:
    """Tokens of one scale as a network, or a member of an ensemble, embeds them.

    Attributes:
        scale: of the tokens.
        tokens: (1, N, D), a leaf of the autograd graph.
        average: (1, 1, D), the average token.
    """

    scale: str
    tokens: Tensor
    average: Tensor


@contextmanager
def _leaves(
    network: SurvivalNetwork, tokens: SlideTokens
) -> Iterator[tuple[list[_Leaf], SlideTokens]]:
    """Make the embedded tokens leaves of the autograd graph and collect them.

    Yields the leaves, which are complete after a forward pass, and the tokens for that pass.
    """
    from tiacrossfusion.networks.calling import scales_read

    moments = network.moments()
    found: list[_Leaf] = []
    embeddings = network.embeddings()
    if not embeddings:
        for scale in scales_read(network):
            if scale in tokens.features:
                features = tokens.features[scale].detach().clone()
                typical = features if moments is None else _typical_tokens(moments, scale, features)
                average = typical.mean(dim=1, keepdim=True)
                found.append(_Leaf(scale, features.requires_grad_(), average))
        yield found, tokens.with_features({leaf.scale: leaf.tokens for leaf in found})
        return
    handles = [
        module.register_forward_hook(_leaf_hook(found, scales, trained=moments is not None))
        for module, scales in embeddings.items()
    ]
    try:
        yield found, tokens
    finally:
        for handle in handles:
            handle.remove()


def _leaf_hook(
    found: list[_Leaf], scales: tuple[str, ...], *, trained: bool
) -> Callable[..., object]:
    """Return a forward hook that replaces the output of an embedding module by leaves.

    Args:
        found: collects the leaves.
        scales: that the module embeds.
        trained: whether the tokens were standardised by the training patients' moments.
    """
    import torch

    def hook(module: nn.Module, given: tuple[Tensor, ...], made: Tensor | list[Tensor]) -> object:
        tokens = [z.detach() for z in _as_list(made)]
        typical = tokens
        if trained:
            drawn = _standard_tokens(given[0])
            with torch.no_grad():  # calling the module would run this hook again
                typical = _as_list(module.forward(*[drawn] * len(given)))
        leaves = [
            _Leaf(scale, z.requires_grad_(), like.detach().mean(dim=1, keepdim=True))
            for scale, z, like in zip(scales, tokens, typical, strict=True)
        ]
        found.extend(leaves)
        replaced = [leaf.tokens for leaf in leaves]
        return replaced[0] if isinstance(made, torch.Tensor) else replaced

    return hook


def _as_list(made: Tensor | list[Tensor]) -> list[Tensor]:
    return made if isinstance(made, list) else [made]


def _standard_tokens(like: Tensor) -> Tensor:
    """Draw tokens (1, n, E) from N(0, 1) with a fixed seed."""
    import torch

    generator = torch.Generator().manual_seed(0)  # on the CPU: the same numbers on every device
    return torch.randn(1, _DRAWN, like.shape[2], generator=generator).to(like)


# Scales --------------------------------------------------------------------------------------------


def _coalitions(
    network: SurvivalNetwork,
    tokens: SlideTokens,
    baseline: SlideTokens,
    read: list[str],
    risk: float,
) -> dict[frozenset[str], float]:
    """Return the risk for each subset of the scales `read` that keeps its tokens.

    The other scales have the tokens of `baseline`. `risk` is that of the full set.
    """
    import torch

    from tiacrossfusion.networks.calling import call_network

    risks = {frozenset(read): risk}
    with torch.inference_mode():
        for kept in product((True, False), repeat=len(read)):
            coalition = frozenset(scale for scale, keep in zip(read, kept, strict=True) if keep)
            if coalition in risks:
                continue
            typical = {scale: baseline.features[scale] for scale in read if scale not in coalition}
            risks[coalition] = float(call_network(network, tokens.with_features(typical)).risk)
    return risks


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
