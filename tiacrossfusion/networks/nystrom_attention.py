"""Nystrom attention: self-attention through landmarks, in time and memory linear in the tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

# Iterations for the pseudo-inverse, and length of the convolution over the values, as in the paper.
_ITERATIONS = 6
_KERNEL = 33


def pseudo_inverse(matrix: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """Approximate the Moore-Penrose inverse of softmax matrices (..., m, m) by matrix products.

    `Z_0 = A^T / (||A||_1 ||A||_inf)`, `Z_{j+1} = Z_j (13 I - A Z_j (15 I - A Z_j (7 I - A Z_j))) / 4`.
    Each matrix is scaled by its own norms, so the slides of a batch do not affect each other.
    Source: Xiong et al., "Nystromformer", AAAI 2021, equation 11; Razavi et al. (2014).
    """
    columns = matrix.sum(dim=-2).amax(dim=-1)  # ||A||_1
    rows = matrix.sum(dim=-1).amax(dim=-1)  # ||A||_inf
    inverse = matrix.mT / (columns * rows)[..., None, None]
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(iterations):
        product = matrix @ inverse
        inner = 15 * identity - product @ (7 * identity - product)
        inverse = inverse @ (13 * identity - product @ inner) / 4
    return inverse


class NystromAttention(nn.Module):
    """Self-attention over H heads, approximated through m landmarks.

    Landmarks are the means of m segments of queries and of keys. With `s = 1/sqrt(D/H)`::

        F = softmax(s Q K_l^T),  A = softmax(s Q_l K_l^T),  G = softmax(s Q_l K^T)
        out = Linear(concat_h(F pinv(A) (G V) + depthwise_conv(V)))

    The three softmax matrices have (N, m), (m, m) and (m, N) weights per head instead of (N, N). They and
    the pseudo-inverse, whose iteration is unstable in half precision, are computed in float32 or wider.
    Source: Xiong et al., "Nystromformer: A Nystrom-based Algorithm for Approximating Self-Attention", AAAI
    2021, section 3.

    Args:
        embed_dim: D, a multiple of `num_heads`.
        num_heads: H.
        landmarks: m; with fewer tokens than that, each token is a landmark.
        dropout: dropout of the output.
    """

    def __init__(self, embed_dim: int, num_heads: int, landmarks: int, dropout: float) -> None:
        """Create the layers."""
        super().__init__()
        self.num_heads = num_heads
        self.landmarks = landmarks
        self.project = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        size, padding = (_KERNEL, 1), (_KERNEL // 2, 0)
        self.residual = nn.Conv2d(
            num_heads, num_heads, size, padding=padding, groups=num_heads, bias=False
        )
        self.out = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, *, attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Let the tokens attend to each other.

        Args:
            tokens: (B, N, D), a class token at index 0.
            attention: also return the class token's row of the approximated attention.

        Returns:
            The attended tokens (B, N, D), and, if requested, the row `(F pinv(A) G)_0` (B, N), mean over
            the heads, without gradient. Its values sum to about 1 and may be negative.
        """
        query, key, value = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in self.project(tokens).chunk(3, dim=2)
        )  # (B, H, N, d) each
        wide = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(query.device.type, enabled=False):
            wide_query = query.to(wide) * query.shape[-1] ** -0.5  # (B, H, N, d)
            wide_key = key.to(wide)  # (B, H, N, d)
            few_queries = self._segment_means(wide_query)  # (B, H, m, d)
            few_keys = self._segment_means(wide_key)  # (B, H, m, d)
            to_few = torch.softmax(wide_query @ few_keys.mT, dim=-1)  # (B, H, N, m)
            among_few = torch.softmax(few_queries @ few_keys.mT, dim=-1)  # (B, H, m, m)
            from_few = torch.softmax(few_queries @ wide_key.mT, dim=-1)  # (B, H, m, N)
            inverse = pseudo_inverse(among_few)  # (B, H, m, m)
            attended = to_few @ (inverse @ (from_few @ value.to(wide)))  # (B, H, N, d)
            row = None
            if attention:
                row = (to_few[:, :, :1] @ inverse @ from_few).squeeze(2).mean(dim=1)  # (B, N)
                row = row.detach()
        attended = attended.to(value.dtype) + self.residual(value)  # (B, H, N, d)
        return self.dropout(self.out(attended.transpose(1, 2).flatten(2))), row

    def _segment_means(self, tokens: Tensor) -> Tensor:
        """Average (B, H, N, d) over segments of N to (B, H, m, d).

        Where m does not divide N, neighbouring segments share a token; nothing is padded.
        """
        landmarks = min(self.landmarks, tokens.shape[2])
        flat = tokens.flatten(0, 1).mT  # (B * H, d, N)
        return adaptive_avg_pool1d(flat, landmarks).mT.unflatten(0, tokens.shape[:2])
