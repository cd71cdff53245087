"""The attention of all layers of a network, observed while it predicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tiacrossfusion.networks.attention import (
    attention_received,
    class_token_attention,
    observe_attention,
)
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import input_names
from tiacrossfusion.networks.layout import fold_copies


@dataclass(eq=False)
class AttentionTrace:
    """Scores of the last forward pass in `trace_attention`, in float32 or wider, without gradient.

    A layer's name is its path in the network, such as "cross_fine" or "transform_source.post.0", without
    the name of a `TrainedNetwork` around it.

    Attributes:
        received: by layer, in the order of computation, (B, n) the attention that each of the n tokens
            received, mean over heads and queries. In a cross-attention the n tokens are the context. In a
            Pad-Transformer they are the tokens before padding: copies count as queries, and what they
            receive is added to their originals. The class token counts as a query too, but its column is
            left out, so the sum over the tokens is 1 in all layers except those of "transform_final".
        class_token: (B, n) the class token's row in the last layer, likewise without its own column; None
            before the first forward pass.
    """

    received: dict[str, Tensor] = field(default_factory=dict)
    class_token: Tensor | None = None


@contextmanager
def trace_attention(network: nn.Module) -> Iterator[AttentionTrace]:
    """Score the tokens in every attention layer of a network while it predicts.

    ::

        with trace_attention(network) as trace:
            output = call_network(network, tokens)
        trace.received["transform_source.pre.0"]

    A layer is scored as soon as it is computed, a few queries at a time, and is not kept, so memory is
    linear in the tokens. The output is bit-identical. `attention=True` would compute its scores a second
    time.

    Args:
        network: CrossFusion or one of its ablations, trained or not. The trace of other networks stays
            empty.

    Yields:
        The trace, which each forward pass fills anew.

    Raises:
        TiacfError: the network is an ensemble, whose members must be traced one by one.
    """
    trace = AttentionTrace()
    layers = network.attention_layers() if isinstance(network, SurvivalNetwork) else None
    if layers is None:
        yield trace
        return
    inner, tokens = layers.network, 0

    def begin(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        nonlocal tokens
        trace.received, trace.class_token = {}, None
        inputs = dict(zip(input_names(inner), args, strict=False)) | named
        tokens = inputs[layers.sequence].shape[1]  # before padding

    def score(name: str, query: Tensor, key: Tensor) -> None:
        received = attention_received(query, key)  # (B, M)
        before = layers.before_sequence.get(name.split(".")[0])
        if before is not None:
            received = fold_copies(received[:, before:], tokens)  # (B, n)
        trace.received[name] = received
        if name == layers.last:
            row = class_token_attention(query, key)[:, 1:]  # (B, T)
            trace.class_token = fold_copies(row, tokens)  # (B, n)

    handle = inner.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        with observe_attention(inner, score):
            yield trace
    finally:
        handle.remove()
