"""Multi-head attention that can also say where it looked, without a dense attention map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tiacrossfusion.networks.dropped_attention import dropped_attention

# Softmax weights held at a time while scoring: 16 MiB in float32. The fastest of 2**18 to 2**24 on
# two CPU cores, within noise, and enough to fill a GPU.
SCORING_BUFFER = 2**22

Scorer = Callable[[Tensor, Tensor], Tensor]
"""Takes query (B, H, N, d) and key (B, H, M, d); returns one score per key, (B, M)."""


@torch.no_grad()
def attention_received(query: Tensor, key: Tensor, *, buffer: int = SCORING_BUFFER) -> Tensor:
    """Attention that each key receives: the column means of the softmax weights, over the heads.

    `score_m = mean_{h, n} softmax_m(q_hn . k_hm / sqrt(d))`, so the scores sum to 1 over the keys.
    The (H, N, M) weights would take 218 GiB at the largest bag; here a few queries of one head at a
    time go through one buffer, so that memory is O(N + M) plus that buffer.

    Args:
        query (Tensor):
            (B, H, N, d).
        key (Tensor):
            (B, H, M, d).
        buffer (int):
            Most softmax weights held at a time (one query's M at least). Changes memory and speed,
            not the result.

    Returns:
        Tensor:
            (B, M) in float32 or wider, without gradient.
    """
    batch, heads, queries, width = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    received = torch.zeros(batch, key.shape[2], dtype=wide, device=key.device)  # (B, M)
    rows = max(1, buffer // key.shape[2])
    # Half-precision logits would round the weights by per cents: autocast is off in here.
    with torch.autocast(query.device.type, enabled=False):
        for b in range(batch):
            for h in range(heads):
                scaled = query[b, h].to(wide) * width**-0.5  # (N, d)
                columns = key[b, h].to(wide).t()  # (d, M)
                for chunk in scaled.split(rows):  # (rows, d)
                    weights = torch.softmax(chunk @ columns, dim=-1)  # (rows, M)
                    # A product with ones sums the columns faster than sum(dim=0) does.
                    received[b] += weights.new_ones(len(chunk)) @ weights
    return received / (heads * queries)


@torch.no_grad()
def class_token_attention(query: Tensor, key: Tensor) -> Tensor:
    """Attention that the class token (query 0) pays to each key, mean over the heads.

    Args:
        query (Tensor):
            (B, H, N, d), the class token at index 0 of N.
        key (Tensor):
            (B, H, M, d).

    Returns:
        Tensor:
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

    The output comes from the fused kernel, or from `dropped_attention` where the kernel would go
    dense, and scores from a second pass over the same queries and keys. Asking for scores therefore
    leaves the output as it is, to the last bit, and works under autograd, dropout and autocast
    alike. The price is one more product q k^T.

    Args:
        embed_dim (int):
            D, a multiple of `num_heads`.
        num_heads (int):
            H.
        dropout (float):
            Dropout of the softmax weights, in training only.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        """Create the four projections."""
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)

    def forward(
        self, tokens: Tensor, context: Tensor, score: Scorer | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Let every token attend to the context.

        Args:
            tokens (Tensor):
                (B, N, D), the queries.
            context (Tensor):
                (B, M, D), the keys and values. The tokens themselves, for self-attention.
            score (Scorer | None):
                `attention_received`, `class_token_attention` or None for no scores.

        Returns:
            tuple[Tensor, Tensor | None]:
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
        return self.out(attended.transpose(1, 2).flatten(2)), scores

    def _split_heads(self, tokens: Tensor) -> Tensor:
        """Turn (B, N, D) into (B, H, N, D/H)."""
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
