"""The attention of all layers of a network at once, observed while it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.attention import (
    MultiHeadAttention,
    attention_received,
    class_token_attention,
)
from tiacrossfusion.networks.class_token_reader import ClassTokenReader
from tiacrossfusion.networks.ensemble import Ensemble
from tiacrossfusion.networks.layout import fold_copies
from tiacrossfusion.networks.pad_transformer import PadTransformer
from tiacrossfusion.networks.trained import TrainedNetwork


@dataclass(eq=False)
class AttentionTrace:
    """What `trace_attention` saw of the last forward pass, in float32 or wider, without gradient.

    A layer is named after its place in the network, such as "cross_fine" or
    "transform_source.post.0", without the name of a `TrainedNetwork` around it.

    Attributes:
        received (dict[str, Tensor]):
            Per layer, in the order of computation, (B, n) the attention that each of the n tokens
            received, mean over the heads and over all queries. The n tokens are the context of a
            cross-attention, and the tokens of the map's bag in a Pad-Transformer: what padded copies
            receive is added to their originals, and they count among the queries. The class token
            counts among the queries too, but its own column is left out, so that the sum over the
            tokens is 1 in all layers except those of "transform_final".
        class_token (Tensor | None):
            (B, n) the class token's row in the last layer, copies folded back and its own column left
            out; None as long as nothing was seen.
    """

    received: dict[str, Tensor] = field(default_factory=dict)
    class_token: Tensor | None = None


@contextmanager
def trace_attention(network: nn.Module) -> Iterator[AttentionTrace]:
    """Score the tokens in every attention layer of a network while it predicts.

    ::

        with trace_attention(network) as trace:
            output = network(x5, x10, x20)
        trace.received["transform_source.pre.0"]

    Each layer is scored as soon as it is computed and then forgotten, a few queries at a time, so
    that memory stays linear in the tokens. The output is the same to the last bit. `attention=True`
    scores on its own account, so leave it out if the trace has all that is wanted.

    Args:
        network (nn.Module):
            CrossFusion or one of its ablations, trained or not. Other networks have no such layers,
            and their trace stays empty.

    Yields:
        AttentionTrace:
            Filled in by each forward pass anew.

    Raises:
        TiacfError:
            The network is an ensemble, whose members have attention of their own.
    """
    trace = AttentionTrace()
    inner = without_wrapper(network)
    if not isinstance(inner, ClassTokenReader):
        yield trace
        return
    scorer = _Scorer(inner, trace)
    handle = inner.register_forward_pre_hook(scorer.begin, with_kwargs=True)
    try:
        with observe_attention(inner, scorer.score):
            yield trace
    finally:
        handle.remove()


class _Scorer:
    """Fills a trace in during one forward pass after another."""

    def __init__(self, network: ClassTokenReader, trace: AttentionTrace) -> None:
        """Write into the trace what is seen of the network."""
        self.network = network
        self.trace = trace
        self.tokens = 0  # of the map's bag, before padding

    def begin(self, _: nn.Module, args: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        """Empty the trace before a pass, and note how many tokens the map has."""
        self.trace.received, self.trace.class_token = {}, None
        bags = dict(zip(("x5", "x10", "x20"), args, strict=False)) | named
        self.tokens = bags[self.network.map_bag].shape[1]

    def score(self, name: str, query: Tensor, key: Tensor) -> None:
        """Score the tokens of one layer."""
        received = attention_received(query, key)  # (B, M)
        holder = self.network.get_submodule(name.split(".")[0])
        if isinstance(holder, PadTransformer):
            received = fold_copies(received[:, holder.off_map :], self.tokens)  # (B, n)
        self.trace.received[name] = received
        if name == last_layer(self.network):
            row = class_token_attention(query, key)[:, 1:]  # (B, T)
            self.trace.class_token = fold_copies(row, self.tokens)  # (B, n)


@contextmanager
def observe_attention(
    network: nn.Module, observer: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Have every `MultiHeadAttention` of a network report its queries and keys.

    Args:
        network (nn.Module):
            Any network.
        observer (Callable[[str, Tensor, Tensor], None]):
            Takes a layer's name, its query (B, H, N, d) and its key (B, H, M, d).
    """

    def named(name: str) -> Callable[[Tensor, Tensor], None]:
        return lambda query, key: observer(name.removesuffix(".attention"), query, key)

    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, MultiHeadAttention)
    }
    before = {name: layer.observer for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.observer = named(name)
        yield
    finally:
        for name, layer in layers.items():
            layer.observer = before[name]


def without_wrapper(network: nn.Module) -> nn.Module:
    """Return the network inside a `TrainedNetwork`, or the network itself.

    Raises:
        TiacfError:
            It is an ensemble.
    """
    if isinstance(network, Ensemble):
        raise TiacfError(
            f"an ensemble of {len(network.members)} networks has no attention layers of its own: "
            "take its members one by one"
        )
    return network.network if isinstance(network, TrainedNetwork) else network


def last_layer(network: ClassTokenReader) -> str:
    """Name of the last attention layer: the class token's row there is what the head reads."""
    return f"transform_final.post.{network.depth - 1}"
