"""Attention with dropout of its weights, in memory linear in the tokens.

With dropout, PyTorch's attention on the CPU falls back to dense weights and keeps them for the backward
pass: 0.7 GiB for each of CrossFusion's eight self-attentions at the average bag.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Weights held at a time: 8 MiB in float32. On one CPU core the smallest of 2**18 to 2**23 at full speed.
DROPPING_BUFFER = 2**21


def dropped_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, *, buffer: int = DROPPING_BUFFER
) -> Tensor:
    """Scaled dot-product attention whose softmax weights are dropped at random.

    `out = (softmax(q k^T / sqrt(d)) * mask / (1 - p)) v`, a few queries at a time. Instead of storing
    weights and mask, the backward pass computes them again; its sums are those of Dao et al.,
    "FlashAttention", NeurIPS 2022, appendix B.

    Args:
        query: (B, H, N, d) on the CPU.
        key: (B, H, M, d).
        value: (B, H, M, d).
        dropout: p, the share of weights that are dropped, rounded to 1/65,536.
        buffer: number of weights held at a time, at least B * H * M; affects memory, speed and which
            weights are dropped.

    Returns:
        (B, H, N, d), differentiable once. The mask depends on torch's global seed.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    rows = max(1, buffer // (query.shape[0] * query.shape[1] * key.shape[2]))
    seed = int(torch.randint(2**62, ()))
    # Split heads are views, which a product would copy again for each chunk.
    inputs = (heads.to(wide).contiguous() for heads in (query, key, value))
    # The backward pass runs without autocast, so the forward pass must too.
    with torch.autocast("cpu", enabled=False):
        attended = _DroppedAttention.apply(*inputs, dropout, seed, rows)
    return attended.to(query.dtype)


class _DroppedAttention(torch.autograd.Function):
    """The two passes of `dropped_attention`, `rows` queries at a time."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, dropout: float, seed: int, rows: int
    ) -> Tensor:
        """Attend; store nothing that grows with N * M."""
        attended = torch.empty_like(query)
        for chunk, weights, mask in _chunks(query, key, dropout, seed, rows):
            attended[:, :, chunk] = weights.mul_(mask) @ value
        ctx.save_for_backward(query, key, value, attended)
        ctx.settings = (dropout, seed, rows)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Repeat the chunks of the forward pass with the same masks."""
        query, key, value, attended = ctx.saved_tensors
        to_query = torch.empty_like(query)
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        # sum_m w_nm dL/dw_nm, which the softmax's derivative subtracts, without the weights.
        mean = (gradient * attended).sum(dim=-1, keepdim=True)  # (B, H, N, 1)
        for chunk, weights, mask in _chunks(query, key, *ctx.settings):
            arriving = gradient[:, :, chunk]  # (B, H, rows, d)
            to_weights = (arriving @ value.mT).mul_(mask)  # (B, H, rows, M)
            to_logits = to_weights.sub_(mean[:, :, chunk]).mul_(weights)
            to_value += weights.mul_(mask).mT @ arriving
            to_query[:, :, chunk] = to_logits @ key
            to_key += to_logits.mT @ query[:, :, chunk]
        scale = query.shape[-1] ** -0.5
        return to_query.mul_(scale), to_key.mul_(scale), to_value, None, None, None


def _chunks(
    query: Tensor, key: Tensor, dropout: float, seed: int, rows: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield slices of the queries, their weights (B, H, rows, M) and masks of 0 or 1 / (1 - p)."""
    generator = torch.Generator().manual_seed(seed)
    dropped = round(dropout * 2**16)
    scale = 2**16 / (2**16 - dropped) if dropped < 2**16 else 0.0
    scaled = query * query.shape[-1] ** -0.5
    for start in range(0, query.shape[2], rows):
        chunk = slice(start, start + rows)
        weights = torch.softmax(scaled[:, :, chunk] @ key.mT, dim=-1)
        # Four numbers of 16 bits in each of 64: eight times as fast as Bernoulli draws.
        drawn = torch.empty(-(-weights.numel() // 4), dtype=torch.int64, device=query.device)
        drawn.random_(-(2**63), None, generator=generator)
        kept = drawn.view(torch.int16)[: weights.numel()] >= dropped - 2**15
        yield chunk, weights, kept.view_as(weights).to(weights.dtype).mul_(scale)
