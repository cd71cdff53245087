"""What every network refuses: sizes of which it cannot be built and bags that do not fit."""

from __future__ import annotations

from torch import Tensor

from tiacrossfusion.errors import TiacfError, UsageError


def check_sizes(**sizes: int) -> None:
    """Refuse a size below 1.

    Raises:
        TiacfError: names the first that is at fault.
    """
    for name, size in sizes.items():
        if size < 1:
            raise UsageError(f"{name} is {size}: give 1 or more")


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Refuse a width that does not split evenly into heads.

    Raises:
        TiacfError: it does not.
    """
    if embed_dim % num_heads:
        raise UsageError(
            f"embed_dim {embed_dim} does not split into {num_heads} heads: give a num_heads that "
            "divides it"
        )


def check_bags(encoder_width: int, x5: Tensor, x10: Tensor, x20: Tensor) -> None:
    """Refuse bags that do not fit, naming the first that is at fault.

    Args:
        encoder_width (int):
            E that the network takes.
        x5 (Tensor):
            (B, N5, E) features at 5x.
        x10 (Tensor):
            (B, N10, E) features at 10x.
        x20 (Tensor):
            (B, N20, E) features at 20x.

    Raises:
        TiacfError:
            A bag is empty, has the wrong width or type, or another batch size than the rest.
    """
    for name, bag in (("x5", x5), ("x10", x10), ("x20", x20)):
        shape = tuple(bag.shape)
        if len(shape) != 3:
            raise TiacfError(f"{name} has shape {shape}: give (batch, tokens, features)")
        if 0 in shape[:2]:
            raise TiacfError(f"{name} has shape {shape}: give at least one slide and one token")
        if shape[2] != encoder_width:
            raise TiacfError(
                f"{name} has features of width {shape[2]}, this network takes "
                f"{encoder_width}: use the encoder that it was trained with"
            )
        if not bag.is_floating_point():
            raise TiacfError(f"{name} holds {bag.dtype}: give float features")
        if shape[0] != len(x5):
            raise TiacfError(
                f"{name} has {shape[0]} slides, x5 has {len(x5)}: give the same at each scale"
            )
