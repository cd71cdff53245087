"""Multi-head attention with scores of its keys, without a dense attention map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tiacrossfusion.networks.dropped_attention import dropped_attention

# Softmax weights held at a time while scoring: 16 MiB in float32. Of 2**20 to 2**23 on one CPU core, the
# best for the keys of the largest bag and within a tenth of the best for fewer; enough to fill a GPU.
SCORING_BUFFER = 2**22

Scorer = Callable[[Tensor, Tensor], Tensor]
"""Takes query (B, H, N, d) and key (B, H, M, d); returns one score per key, (B, M)."""

Observer = Callable[[Tensor, Tensor], None]
"""Takes query (B, H, N, d) and key (B, H, M, d) of an attention that has just been computed."""


@torch.no_grad()
def passed_attention(
    mass: Tensor, query: Tensor, key: Tensor, *, buffer: int = SCORING_BUFFER
) -> Tensor:
    """Distribute the mass of each query over the keys by its attention weights.

    `passed_m = mean_h sum_n mass_n softmax_m(q_hn . k_hm / sqrt(d))`: a vector times the mean map of the
    heads. The (H, N, M) weights would take 218 GiB at the largest bag; here a few queries of one head at a
    time go through one buffer, so that memory is O(N + M) plus that buffer. The buffer is reused:
    allocating it for each chunk would double the time.

    Args:
        mass: (B, N).
        query: (B, H, N, d).
        key: (B, H, M, d).
        buffer: most softmax weights held at a time (one query's M at least). Changes memory and speed, not
            the result.

    Returns:
        (B, M) in float32 or wider with the sum of `mass`, without gradient.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    wide = torch.promote_types(query.dtype, torch.float32)
    passed = torch.zeros(batch, keys, dtype=wide, device=key.device)  # (B, M)
    rows = min(queries, max(1, buffer // keys))
    held = torch.empty(rows, keys, dtype=wide, device=key.device)  # (rows, M)
    ones = held.new_ones(keys)
    # Half-precision logits would round the weights by per cents: autocast is off in here.
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
    """Attention that each key receives: the column means of the softmax weights, over the heads.

    `score_m = mean_{h, n} softmax_m(q_hn . k_hm / sqrt(d))`, so the scores sum to 1 over the keys.

    Args:
        query: (B, H, N, d).
        key: (B, H, M, d).
        buffer: most softmax weights held at a time, as in `passed_attention`.

    Returns:
        (B, M) in float32 or wider, without gradient.
    """
    batch, _, queries, _ = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    equal = torch.full((batch, queries), 1 / queries, dtype=wide, device=query.device)  # (B, N)
    return passed_attention(equal, query, key, buffer=buffer)


@torch.no_grad()
def class_token_attention(query: Tensor, key: Tensor) -> Tensor:
    """Attention that the class token (query 0) pays to each key, mean over the heads.

    Args:
        query: (B, H, N, d), the class token at index 0 of N.
        key: (B, H, M, d).

    Returns:
        (B, M) in float32 or wider, summing to 1 over the keys, without gradient.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        scaled = query[:, :, :1].to(wide) * query.shape[-1] ** -0.5  # (B, H, 1, d)
        weights = torch.softmax(scaled @ key.to(wide).transpose(2, 3), dim=-1)  # (B, H, 1, M)
    return weights.squeeze(2).mean(dim=1)  # (B, M)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention over H heads, with separate projections that have biases.

    `a = Linear_out(concat_h(softmax(q_h k_h^T / sqrt(D / H)) v_h))`.

    The output comes from the fused kernel, or from `dropped_attention` where the kernel would go dense, and
    scores from a second pass over the same queries and keys. Asking for scores therefore leaves the output
    as it is, to the last bit, and works under autograd, dropout and autocast alike. The price is one more
    product q k^T.

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
        #: Sees the queries and keys of each call, see `observe_attention`.
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
            context: (B, M, D), the keys and values. The tokens themselves, for self-attention.
            score: `attention_received`, `class_token_attention` or None for no scores.

        Returns:
            The attended tokens (B, N, D), and the scores (B, M) if asked for.
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


@contextmanager
def observe_attention(
    network: nn.Module, observer: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Have every `MultiHeadAttention` of a network report its queries and keys.

    Args:
        network: any network.
        observer: takes a layer's name, its query (B, H, N, d) and its key (B, H, M, d).
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
