"""Which tokens raise the risk and which lower it, and what each scale adds to it."""

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

#: The modules that embed the tokens of a scale in CrossFusion and its kin; the others have one, "embed",
#: for the scales that they read.
_PROJECTIONS = {"project_coarse": "5x", "project_source": "10x", "project_fine": "20x"}

#: Typical tokens that are drawn. The error of their mean is 1/32 of the spread of one token.
_DRAWN = 1024


@dataclass(frozen=True)
class Attribution:
    """The risk of one slide, taken apart.

    Attributes:
        values: per scale that the network reads (N,) float64, for each token: above 0 it raises the
            risk, below 0 it lowers it, against an average token.
        risk: of the slide.
        baseline_risk: of a bag of as many typical tokens.
        scale_contribution: what each of "5x", "10x" and "20x" adds to the risk; the three add up to
            `risk - baseline_risk`. 0 for a scale that the network does not read.
        baseline: "training" where what is average and typical comes from the training patients, "own"
            where from the slide.
    """

    values: dict[str, np.ndarray]
    risk: float
    baseline_risk: float
    scale_contribution: dict[str, float]
    baseline: Literal["training", "own"]

    @property
    def completeness_error(self) -> float:
        """What the tokens' values add up to, less `risk - baseline_risk`.

        It is 0 for a network that is linear in its embedded tokens. Else it says how far from linear
        the network is between the bag and the baseline.
        """
        total = float(sum(values.sum() for values in self.values.values()))
        return total - (self.risk - self.baseline_risk)


def attribute(bag: FeatureBag, bundle: ModelBundle) -> Attribution:
    """Attribute the risk of a slide to its tokens and to the three scales.

    Tokens: gradient times difference to a baseline (Shrikumar, Greenside and Kundaje, "Learning
    Important Features Through Propagating Activation Differences", ICML 2017, section 2), summed over
    features: the change of the risk, to first order, when an average token takes the token's place. It
    is taken at the tokens as the network embeds them, not at the features. CrossFusion normalises each
    projected token, after which its length counts for nothing, so that a step towards the mean
    feature, which is nearly 0 once standardised, changes nothing either: at the features the gradient
    misses what the token does, and so do integrated gradients along the same line, at many times the
    cost (docs/explanations.md has figures). The average token is the mean embedding of typical tokens.

    Scales: Shapley values (Shapley, "A Value for n-person Games", 1953; Lundberg and Lee, NeurIPS 2017,
    equation 8) of the game in which a scale that does not play has typical tokens in place of its own.

    Typical tokens are drawn from N(mean, sd^2), feature by feature, with the training patients' moments;
    the draw is the same every time. Of a model without moments the mean of the slide's own tokens, at
    each scale, stands for all of them. That tells the mean content of the slide already, so that values
    and contributions say what departs from it.

    Takes one forward and one backward pass, and `2**n - 1` forward ones for the n scales that the
    network reads, on its device. Memory is linear in the tokens.

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


def attribute_tokens(network: nn.Module, tokens: Mapping[str, Tensor]) -> Attribution:
    """Do as `attribute` with a network and tensors.

    Args:
        network: one that `zoo.load_bundle` may give, in eval mode; left as it is.
        tokens: "5x" (1, N5, E), "10x" (1, N10, E) and "20x" (1, N20, E) float32, on its device.
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
    network: nn.Module, tokens: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Literal["training", "own"]]:
    """Typical tokens, as many as a bag has.

    Args:
        network: as in `attribute_tokens`.
        tokens: (1, N, E) of each scale.

    Returns:
        (1, N, E) of each scale, and where they come from: "training" or "own".
    """
    import torch

    # Members of an ensemble were trained on patients that overlap: their moments hardly differ.
    moments = [(getattr(m, "mean", None), getattr(m, "sd", None)) for m in _members(network)]
    means = [mean for mean, _ in moments if mean is not None]
    sds = [sd for _, sd in moments if sd is not None]
    if len(means) < len(moments):
        return {
            scale: bag.mean(dim=1, keepdim=True).expand_as(bag) for scale, bag in tokens.items()
        }, "own"
    mean, sd = torch.stack(means).mean(dim=0), torch.stack(sds).mean(dim=0)  # (3, E)
    typical = {}
    for number, (scale, bag) in enumerate(tokens.items()):
        drawn = mean[number] + sd[number] * _standard_tokens(bag)  # (1, n, E)
        typical[scale] = drawn[:, torch.arange(bag.shape[1], device=bag.device) % _DRAWN]
    return typical, "training"


def _members(network: nn.Module) -> list[nn.Module]:
    """The networks of an ensemble, or the single one."""
    return list(getattr(network, "members", [network]))


# Tokens --------------------------------------------------------------------------------------------


def _gradient_times_difference(
    network: nn.Module, tokens: Mapping[str, Tensor]
) -> tuple[dict[str, np.ndarray], float]:
    """Attribute the risk to the embedded tokens; gives (N,) of each scale that is read, and the risk."""
    import torch

    # With weights that are constants nothing is kept for gradients of them.
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    with torch.enable_grad(), _embedded(network) as found:
        output = torch.func.functional_call(network, weights, tuple(tokens.values()))
        gradients = torch.autograd.grad(output.risk.sum(), [embedded.tokens for embedded in found])
    values: dict[str, np.ndarray] = {}
    for embedded, gradient in zip(found, gradients, strict=True):
        difference = embedded.tokens.detach() - embedded.average  # (1, N, D)
        value = (gradient * difference).sum(dim=2, dtype=torch.float64)[0].cpu().numpy()
        values[embedded.scale] = values.get(embedded.scale, 0.0) + value
    risk = float(output.risk.detach())
    return {scale: values[scale] for scale in SCALES if scale in values}, risk


@dataclass(frozen=True)
class _Embedded:
    """Tokens of one scale as a network, or a member of an ensemble, embeds them.

    Attributes:
        scale: of the tokens.
        tokens: (1, N, D), a leaf of the graph of gradients.
        average: (1, 1, D), the average token.
    """

    scale: str
    tokens: Tensor
    average: Tensor


@contextmanager
def _embedded(network: nn.Module) -> Iterator[list[_Embedded]]:
    """Begin the graph of gradients at the embedded tokens, and list them as they come."""
    found: list[_Embedded] = []
    handles = []
    for member in _members(network):
        inner = getattr(member, "network", member)  # within what training found around it
        modules = {"embed": None} | _PROJECTIONS
        for name, scale in modules.items():
            module = getattr(inner, name, None)
            if module is not None:
                trained = getattr(member, "mean", None) is not None
                handles.append(module.register_forward_hook(_leaf(found, scale, trained)))
    if not handles:
        raise TiacfError(f"{type(network).__name__}: no attribution, it does not embed its tokens")
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _leaf(found: list[_Embedded], scale: str | None, trained: bool) -> Callable[..., object]:
    """Make a hook that replaces what a module gives by leaves.

    Args:
        found: takes the leaves.
        scale: that the module embeds; None where it gives those that it reads, from coarse to fine.
        trained: whether the tokens were standardised by the training patients' moments.
    """
    import torch

    def hook(module: nn.Module, given: tuple[Tensor, ...], made: object) -> object:
        tokens = {name: z.detach() for name, z in _by_scale(made, scale).items()}
        typical = tokens
        if trained:
            drawn = _standard_tokens(given[0])
            with torch.no_grad():  # `forward` and not the call, which would come here again
                typical = _by_scale(module.forward(*[drawn] * len(given)), scale)
        leaves = [
            _Embedded(name, z.requires_grad_(), typical[name].detach().mean(dim=1, keepdim=True))
            for name, z in tokens.items()
        ]
        found.extend(leaves)
        return leaves[0].tokens if scale is not None else [leaf.tokens for leaf in leaves]

    return hook


def _by_scale(made: object, scale: str | None) -> dict[str, Tensor]:
    """Name what an embedding module gave: one tensor, or a list that ends with that of 20x."""
    if scale is not None:
        return {scale: made}  # type: ignore[dict-item]
    parts = list(made)  # type: ignore[call-overload]
    return dict(zip(SCALES[-len(parts) :], parts, strict=True))


def _standard_tokens(like: Tensor) -> Tensor:
    """Draw tokens (1, n, E) from N(0, 1), the same every time."""
    import torch

    generator = torch.Generator().manual_seed(0)  # on the CPU, so that every device has the same
    return torch.randn(1, _DRAWN, like.shape[2], generator=generator).to(like)


# Scales --------------------------------------------------------------------------------------------


def _coalitions(
    network: nn.Module,
    tokens: Mapping[str, Tensor],
    baseline: Mapping[str, Tensor],
    read: list[str],
    risk: float,
) -> dict[frozenset[str], float]:
    """Risk for each set of scales that keep their tokens while the others have typical ones.

    Args:
        network: the network.
        tokens: (1, N, E) of each scale.
        baseline: (1, N, E) of each scale.
        read: the scales that the network reads.
        risk: with all tokens.
    """
    import torch

    risks = {frozenset(read): risk}
    with torch.inference_mode():
        for kept in product((True, False), repeat=len(read)):
            coalition = frozenset(scale for scale, keep in zip(read, kept, strict=True) if keep)
            if coalition in risks:
                continue
            mixed = [
                baseline[scale] if scale in read and scale not in coalition else bag
                for scale, bag in tokens.items()
            ]
            risks[coalition] = float(network(*mixed).risk)
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
