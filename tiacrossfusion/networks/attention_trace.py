"""The attention of all layers of a network at once, observed while it predicts."""

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
    """What `trace_attention` saw of the last forward pass, in float32 or wider, without gradient.

    A layer is named after its place in the network, such as "cross_fine" or "transform_source.post.0",
    without the name of a `TrainedNetwork` around it.

    Attributes:
        received: per layer, in the order of computation, (B, n) the attention that each of the n tokens
            received, mean over the heads and over all queries. The n tokens are the context of a
            cross-attention, and the tokens of the map's bag in a Pad-Transformer: what padded copies
            receive is added to their originals, and they count among the queries. The class token counts
            among the queries too, but its column is left out, so that the sum over the tokens is 1 in all
            layers except those of "transform_final".
        class_token: (B, n) the class token's row in the last layer, copies added to their originals and its
            own column left out; None before the first forward pass.
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

    Each layer is scored as soon as it is computed and then forgotten, a few queries at a time, so that
    memory stays linear in the tokens. The output is the same to the last bit. `attention=True` computes its
    scores again, so leave it out if the trace has all that is wanted.

    Args:
        network: CrossFusion or one of its ablations, trained or not. The trace of other networks stays
            empty.

    Yields:
        Filled by each forward pass anew.

    Raises:
        TiacfError: the network is an ensemble: trace its members one by one.
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
