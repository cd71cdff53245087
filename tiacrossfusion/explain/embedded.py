"""The embedded tokens of a slide, as leaves of the autograd graph and to be passed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.base import SurvivalNetwork, Term
from tiacrossfusion.networks.calling import scales_read
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES

# Number of typical tokens to draw; the error of their mean is 1/32 of the SD of one token.
_DRAWN = 1024


@dataclass(frozen=True, eq=False)
class Leaf:
    """Tokens of one scale as a network, or a member of an ensemble, embeds them.

    Attributes:
        scale: of the tokens.
        tokens: (1, N, D), a leaf of the autograd graph.
        typical: (1, n, D), the embedded typical tokens, or one that stands for all of them.
        average: (1, 1, D), the average token.
    """

    scale: str
    tokens: Tensor
    typical: Tensor
    average: Tensor

    @cached_property
    def replaced(self) -> Tensor:
        """Return equally many typical tokens, (1, N, D)."""
        return repeated(self.typical, self.tokens.shape[1])


@dataclass(frozen=True, eq=False)
class MadeTerm:
    """Terms of the tokens of a slide.

    Attributes:
        term: what they are.
        made: (N, C), in the autograd graph.
        average: (1, C), the term of the slide's mean tokens.
    """

    term: Term
    made: Tensor
    average: Tensor


@dataclass(eq=False)
class Embedded:
    """Embedded tokens and terms of one slide; complete after a forward pass within `embedded`.

    Attributes:
        leaves: embedded tokens of each scale and module.
        terms: terms of the tokens.
        modules: for each embedding module, what it returns with typical tokens at some scales.
        reads_features: whether the features matter otherwise than through the embedding modules.
    """

    leaves: list[Leaf] = field(default_factory=list)
    terms: list[MadeTerm] = field(default_factory=list)
    modules: dict[nn.Module, Callable[[Set[str]], Tensor | list[Tensor]]] = field(
        default_factory=dict
    )
    reads_features: bool = False

    @contextmanager
    def passed_again(self, typical: Set[str]) -> Iterator[None]:
        """Let the embedding modules return the same tokens again, at some scales typical ones instead.

        Embedding is most of the work of a network that is linear in the tokens.
        """
        for module, made in self.modules.items():
            module.forward = partial(_ignoring, made(typical))
        try:
            yield
        finally:
            for module in self.modules:
                del module.forward


@contextmanager
def embedded(
    network: SurvivalNetwork, tokens: SlideTokens
) -> Iterator[tuple[SlideTokens, Embedded]]:
    """Make the embedded tokens leaves of the autograd graph, and collect them and the terms.

    Yields the tokens for a forward pass, and what is collected in it.
    """
    trained = network.moments() is not None
    found = Embedded()
    handles = [
        module.register_forward_hook(_leaf_hook(found, scales, trained=trained))
        for module, scales in network.embeddings().items()
    ]
    if not handles:
        found.reads_features = True
        found.leaves.extend(_feature_leaves(network, tokens))
        tokens = tokens.with_features({leaf.scale: leaf.tokens for leaf in found.leaves})
    handles += [
        module.register_forward_hook(_term_hook(found, term))
        for module, term in network.terms().items()
    ]
    try:
        yield tokens, found
    finally:
        for handle in handles:
            handle.remove()


def typical_tokens(moments: tuple[Tensor, Tensor], scale: str, like: Tensor) -> Tensor:
    """Draw tokens (1, n, E) of a scale from N(mean, sd^2)."""
    mean, sd = (each[SCALES.index(scale)] for each in moments)
    return mean + sd * _standard_tokens(like)


def repeated(tokens: Tensor, count: int) -> Tensor:
    """Return `count` tokens (1, count, D), the given ones in turn."""
    return tokens.index_select(1, torch.arange(count, device=tokens.device) % tokens.shape[1])


def _feature_leaves(network: SurvivalNetwork, tokens: SlideTokens) -> Iterator[Leaf]:
    """Yield the features themselves, for a network that names no embeddings."""
    moments = network.moments()
    for scale in scales_read(network):
        if scale in tokens.features:
            features = tokens.features[scale].detach().clone()
            typical = features if moments is None else typical_tokens(moments, scale, features)
            average = typical.mean(dim=1, keepdim=True).detach()
            yield Leaf(scale, features.requires_grad_(), typical.detach(), average)


def _leaf_hook(found: Embedded, scales: tuple[str, ...], *, trained: bool) -> Callable[..., object]:
    """Return a forward hook that replaces the output of an embedding module by leaves.

    `trained` tells whether the tokens were standardised by the training patients' moments.
    """

    def hook(module: nn.Module, given: tuple[Tensor, ...], made: Tensor | list[Tensor]) -> object:
        tokens = [z.detach() for z in _as_list(made)]
        drawn = [
            _standard_tokens(given[0]) if trained else x.mean(dim=1, keepdim=True) for x in given
        ]
        with torch.no_grad():  # calling the module would run this hook again
            typical = [like.detach() for like in _as_list(module.forward(*drawn))]
        leaves = []
        for scale, z, like in zip(scales, tokens, typical, strict=True):
            average = (like if trained else z).mean(dim=1, keepdim=True)
            leaves.append(Leaf(scale, z.requires_grad_(), like, average.detach()))
        found.leaves.extend(leaves)

        def passed(typical: Set[str]) -> Tensor | list[Tensor]:
            tokens = [
                repeated(leaf.typical, leaf.tokens.shape[1])
                if leaf.scale in typical
                else leaf.tokens
                for leaf in leaves
            ]
            return tokens[0] if isinstance(made, Tensor) else tokens

        found.modules[module] = passed
        return passed(frozenset())

    return hook


def _term_hook(found: Embedded, term: Term) -> Callable[..., None]:
    def hook(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        with torch.no_grad():
            average = module.forward(*[x.mean(dim=0, keepdim=True) for x in given])
        if not made.requires_grad:  # it is computed from the features
            found.reads_features = True
            made.requires_grad_()
        found.terms.append(MadeTerm(term, made, average))

    return hook


def _ignoring(made: Tensor | list[Tensor], *_: Tensor) -> Tensor | list[Tensor]:
    return made


def _as_list(made: Tensor | list[Tensor]) -> list[Tensor]:
    return made if isinstance(made, list) else [made]


def _standard_tokens(like: Tensor) -> Tensor:
    """Draw tokens (1, n, E) from N(0, 1) with a fixed seed."""
    generator = torch.Generator().manual_seed(0)  # on the CPU: the same numbers on every device
    return torch.randn(1, _DRAWN, like.shape[2], generator=generator).to(like)
