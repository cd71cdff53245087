"""Attribution of the risk: which tokens raise or lower it, and what each scale adds to it."""

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

#: Typical tokens that are drawn. The error of their mean is 1/32 of the spread of one token.
_DRAWN = 1024


@dataclass(frozen=True)
class Attribution:
    """The risk of one slide, taken apart.

    Attributes:
        values: per scale that the network reads (N,) float64, for each token: above 0 it raises the risk,
            below 0 it lowers it, against an average token.
        risk: of the slide.
        baseline_risk: of a bag of as many typical tokens.
        scale_contribution: what each of "5x", "10x" and "20x" adds to the risk; the three add up to
            `risk - baseline_risk`. 0 for a scale that the network does not read.
        baseline: "training" where what is average and typical comes from the training patients, "own" where
            from the slide.
    """

    values: dict[str, np.ndarray]
    risk: float
    baseline_risk: float
    scale_contribution: dict[str, float]
    baseline: Literal["training", "own"]

    @property
    def completeness_error(self) -> float:
        """What the tokens' values add up to, less `risk - baseline_risk`.

        It is 0 for a network that is linear in its embedded tokens, and else says how far from linear it is
        between the bag and the baseline.
        """
        total = float(sum(values.sum() for values in self.values.values()))
        return total - (self.risk - self.baseline_risk)


def attribute(bag: FeatureBag, bundle: ModelBundle) -> Attribution:
    """Attribute the risk of a slide to its tokens and to the three scales.

    Tokens: gradient times difference to a baseline (Shrikumar, Greenside and Kundaje, "Learning Important
    Features Through Propagating Activation Differences", ICML 2017, section 2), summed over features: the
    change of the risk, to first order, when an average token takes the token's place. It is taken at the
    tokens as the network embeds them (`SurvivalNetwork.embeddings`); of a network that names no such
    modules, at the features. Positions and covariates stay as they are. CrossFusion normalises each
    projected token, so that its length does not matter, and neither does a step towards the mean feature,
    which is nearly 0 once standardised: at the features the gradient misses what the token does, and so do
    integrated gradients along the same line, at many times the cost (docs/explanations.md has figures). The
    average token is the mean embedding of typical tokens.

    Scales: Shapley values (Shapley, "A Value for n-person Games", 1953; Lundberg and Lee, NeurIPS 2017,
    equation 8) of the game in which a scale that does not play has typical tokens instead of its own.

    Typical tokens are drawn from N(mean, sd^2), feature by feature, with the training patients' moments;
    the draw is the same every time. Of a model without moments all of them are the mean of the slide's
    tokens at their scale. That has the mean content of the slide already, so that values and contributions
    say what departs from it.

    Takes one forward and one backward pass, and `2**n - 1` forward ones for the n scales that the network
    reads, on its device. Memory is linear in the tokens.

    Args:
        bag: features of the slide, made with the bundle's encoder and sampling.
        bundle: the model, of any network, single or an ensemble.

    Raises:
        TiacfError: the bag does not fit the model, or the risk or a gradient is not finite.
    """
    found = attribute_tokens(bundle.network, bundle.tokens(bag))
    numbers = [found.baseline_risk, found.risk, *(v.sum() for v in found.values.values())]
    if not np.isfinite(numbers).all():
        raise TiacfError(
            f"{bag.provenance.slide}: the attribution of the risk is not finite; check the model's weights"
        )
    return found


def attribute_tokens(network: SurvivalNetwork, tokens: SlideTokens) -> Attribution:
    """Do as `attribute` with a network and tensors.

    Args:
        network: in eval mode; left as it is.
        tokens: float32 tokens of one slide, on the network's device.
    """
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
    """Return typical tokens, as many as a bag has, and where they come from: "training" or "own"."""
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
    """Attribute the risk to the embedded tokens; gives (N,) of each scale that is read, and the risk."""
    import torch

    from tiacrossfusion.networks.calling import as_output, inputs_of

    # With weights that are constants nothing is kept for gradients of them.
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

    Yields the leaves, which are complete after a forward pass, and the tokens to give to it.
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
    """Return a hook that replaces what an embedding module returns by leaves.

    Args:
        found: takes the leaves.
        scales: that the module embeds.
        trained: whether the tokens were standardised by the training patients' moments.
    """
    import torch

    def hook(module: nn.Module, given: tuple[Tensor, ...], made: Tensor | list[Tensor]) -> object:
        tokens = [z.detach() for z in _as_list(made)]
        typical = tokens
        if trained:
            drawn = _standard_tokens(given[0])
            with torch.no_grad():  # `forward` and not the call, which would run this hook again
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
    """Draw tokens (1, n, E) from N(0, 1), the same every time."""
    import torch

    generator = torch.Generator().manual_seed(0)  # on the CPU, so that every device has the same
    return torch.randn(1, _DRAWN, like.shape[2], generator=generator).to(like)


# Scales --------------------------------------------------------------------------------------------


def _coalitions(
    network: SurvivalNetwork,
    tokens: SlideTokens,
    baseline: SlideTokens,
    read: list[str],
    risk: float,
) -> dict[frozenset[str], float]:
    """Risk for each set of the scales `read` that keep their tokens while the others have typical ones.

    Args:
        network: the network.
        tokens: of one slide.
        baseline: typical ones.
        read: the scales that the network reads.
        risk: with all tokens.
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
    """Shapley values: the mean over all orders of what a player adds to those before it.

    Args:
        risks: of every set of players.
        players: all of them.
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
