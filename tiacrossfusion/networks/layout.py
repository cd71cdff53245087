"""From a sequence of tokens to a square map, and from scores on that map back to the tokens.

`layout="square"` wraps the token order into a square, as in the released CrossFusion checkpoints. It is not
tissue geometry.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor


def square_side(tokens: int) -> int:
    """Return `ceil(sqrt(tokens))`, computed in integers and so exact at any size."""
    return isqrt(tokens - 1) + 1


def pad_to_square(tokens: Tensor) -> Tensor:
    """Append copies of the first tokens (B, N, D), N >= 1, to fill a square: (B, side * side, D)."""
    length = tokens.shape[1]
    missing = square_side(length) ** 2 - length
    return torch.cat([tokens, tokens[:, :missing]], dim=1)


def fold_copies(scores: Tensor, tokens: int) -> Tensor:
    """Return one score a token, (B, N) for N = `tokens`, from those of originals and copies (B, side * side).

    A token has the mean over its appearances, so that it gains nothing from being repeated. All are then
    scaled to the sum that the scores had.
    """
    copies = scores.shape[1] - tokens
    folded = scores[:, :tokens].clone()  # (B, N)
    folded[:, :copies] = (folded[:, :copies] + scores[:, tokens:]) / 2
    total = folded.sum(dim=1, keepdim=True)
    return folded * (scores.sum(dim=1, keepdim=True) / total.where(total != 0, 1.0))
