"""Multi-head attention with scores of its keys and no dense map, and the feed-forward network after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tiacrossfusion.networks.dropped_attention import dropped_attention

# Softmax weights held at a time while scoring: 16 MiB in float32. On one CPU core the fastest of 2**20 to
# 2**23 for the keys of the largest bag, and within 10 % of the fastest for fewer; enough to fill a GPU.
SCORING_BUFFER = 2**22

Scorer = Callable[[Tensor, Tensor], Tensor]
"""Takes query (B, H, N, d) and key (B, H, M, d); returns one score per key, (B, M)."""

Observer = Callable[[Tensor, Tensor], None]
"""Takes query (B, H, N, d) and key (B, H, M, d) of an attention that has just been computed."""


@torch.no_grad()
def passed_attention(
    mass: Tensor, query: Tensor, key: Tensor, *, buffer: int = SCORING_BUFFER
) -> Tensor:
    """Distribute the mass (B, N) of the queries over the keys by their attention weights.

    `passed_m = mean_h sum_n mass_n softmax_m(q_hn . k_hm / sqrt(d))`: a vector times the mean map of the
    heads. The (H, N, M) weights of the largest bag would take 218 GiB. Here a few queries of one head at a
    time go through one buffer, so memory is O(N + M) plus the buffer. It is reused because allocating it
    for each chunk would double the time.

    Args:
        mass: (B, N).
        query: (B, H, N, d).
        key: (B, H, M, d).
        buffer: number of softmax weights held at a time, at least M; affects memory and speed only.

    Returns:
        (B, M) with the sum of `mass`, in float32 or wider, without gradient.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    wide = torch.promote_types(query.dtype, torch.float32)
    passed = torch.zeros(batch, keys, dtype=wide, device=key.device)  # (B, M)
    rows = min(queries, max(1, buffer // keys))
    held = torch.empty(rows, keys, dtype=wide, device=key.device)  # (rows, M)
    ones = held.new_ones(keys)
    # Half-precision logits would round the weights by per cents, so autocast is off.
    with torch.autocast(query.device.type, enabled=False):
        for b in range(batch):
            masses = mass[b].to(wide).split(rows)
            for h in range(heads):
                scaled = query[b, h].to(wide) * width**-0.5  # (N, d)
                columns = key[b, h].to(wide).contiguous().t()  # (d, M)
                for share, chunk in zip(masses, scaled.split(rows), strict=True):
                    weights = torch.mm(chunk, columns, out=held[: len(chunk)])  # (rows, M)
                    weights.sub_(weights.amax(dim=1, keepdim=True)).exp_()
                    # Normalise each row by its softmax denominator, applied to the mass instead of
                    # the weights.
                    passed[b] += (share / (weights @ ones)) @ weights
    return passed / heads


def attention_received(query: Tensor, key: Tensor, *, buffer: int = SCORING_BUFFER) -> Tensor:
    """Return the attention (B, M) that each key receives, mean over queries and heads; sums to 1.

    `score_m = mean_{h, n} softmax_m(q_hn . k_hm / sqrt(d))`. Arguments, precision and gradient are those of
    `passed_attention`.
    """
    batch, _, queries, _ = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    equal = torch.full((batch, queries), 1 / queries, dtype=wide, device=query.device)  # (B, N)
    return passed_attention(equal, query, key, buffer=buffer)


@torch.no_grad()
def class_token_attention(query: Tensor, key: Tensor) -> Tensor:
    """Return the attention (B, M) that query 0, the class token, pays to each key, mean over the heads.

    Query (B, H, N, d) and key (B, H, M, d) are as in `passed_attention`, and so are precision and gradient.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        scaled = query[:, :, :1].to(wide) * query.shape[-1] ** -0.5  # (B, H, 1, d)
        weights = torch.softmax(scaled @ key.to(wide).transpose(2, 3), dim=-1)  # (B, H, 1, M)
    return weights.squeeze(2).mean(dim=1)  # (B, M)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention over H heads, with separate projections that have biases.

    `a = Linear_out(concat_h(softmax(q_h k_h^T / sqrt(D / H)) v_h))`.

    The output comes from the fused kernel, or from `dropped_attention` where that kernel would use a dense
    map. Scores come from a second pass over the same queries and keys, at the cost of one more product
    q k^T. So they do not change a bit of the output, and work under autograd, dropout and autocast.

    Args:
        embed_dim: D, a multiple of `num_heads`.
        num_heads: H.
        dropout: dropout of the softmax weights, in training only.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        """Create the four projections."""
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        #: Called with the queries and keys of each call, see `observe_attention`.
        self.observer: Observer | None = None
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)

    def forward(
        self, tokens: Tensor, context: Tensor, score: Scorer | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Let every token attend to the context.

        Args:
            tokens: (B, N, D), the queries.
            context: (B, M, D), the keys and values; the same tokens for self-attention.
            score: `attention_received`, `class_token_attention` or None for no scores.

        Returns:
            The attended tokens (B, N, D), and the scores (B, M) if requested.
        """
        query = self._split_heads(self.query(tokens))  # (B, H, N, D/H)
        key = self._split_heads(self.key(context))  # (B, H, M, D/H)
        value = self._split_heads(self.value(context))  # (B, H, M, D/H)
        dropout = self.dropout if self.training else 0.0
        if dropout > 0 and query.device.type == "cpu":
            attended = dropped_attention(query, key, value, dropout)  # (B, H, N, D/H)
        else:
            attended = scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        scores = None if score is None else score(query, key)  # (B, M)
        if self.observer is not None:
            self.observer(query, key)
        return self.out(attended.transpose(1, 2).flatten(2)), scores

    def _split_heads(self, tokens: Tensor) -> Tensor:
        """Turn (B, N, D) into (B, H, N, D/H)."""
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """`Linear(D -> 2D), GELU, Dropout, Linear(2D -> D), Dropout`, on each token separately.

    Args:
        embed_dim: D.
        dropout: rate of both dropouts.
    """

    def __init__(self, embed_dim: int, dropout: float) -> None:
        """Create the two layers."""
        super().__init__()
        self.expand = nn.Linear(embed_dim, 2 * embed_dim)
        self.activation = nn.GELU()
        self.contract = nn.Linear(2 * embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        hidden = self.dropout(self.activation(self.expand(tokens)))  # (B, N, 2D)
        return self.dropout(self.contract(hidden))  # (B, N, D)


@contextmanager
def observe_attention(
    network: nn.Module, observer: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call `observer` with the name, query and key of every `MultiHeadAttention` that a network computes.

    The query has shape (B, H, N, d), the key (B, H, M, d).
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
