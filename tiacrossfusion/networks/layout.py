"""How a sequence of 10x tokens becomes a square map, and how scores on that map come back.

`layout="square"` wraps the token order into a square, as the released CrossFusion checkpoints were trained:
it is not tissue geometry.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor


def square_side(tokens: int) -> int:
    """Return `ceil(sqrt(tokens))`, in integers, so that it is exact at any size."""
    return isqrt(tokens - 1) + 1


def pad_to_square(tokens: Tensor) -> Tensor:
    """Append copies of the first tokens until the sequence fills a square.

    Args:
        tokens: (B, N, D) with N >= 1.

    Returns:
        (B, side * side, D), `side = ceil(sqrt(N))`. Never needs more than N copies.
    """
    length = tokens.shape[1]
    missing = square_side(length) ** 2 - length
    return torch.cat([tokens, tokens[:, :missing]], dim=1)


def fold_copies(scores: Tensor, tokens: int) -> Tensor:
    """Add the scores of padded copies to their originals: the inverse of `pad_to_square`.

    Args:
        scores: (B, side * side) one score per token of the padded sequence.
        tokens: N, the length before padding.

    Returns:
        (B, N) with the same sum.
    """
    folded = scores[:, :tokens].clone()  # (B, N)
    folded[:, : scores.shape[1] - tokens] += scores[:, tokens:]
    return folded
