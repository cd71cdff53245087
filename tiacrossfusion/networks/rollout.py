"""Attention rollout: attention followed from the class token through all layers to the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.attention import class_token_attention, passed_attention
from tiacrossfusion.networks.attention_trace import last_layer, observe_attention, without_wrapper
from tiacrossfusion.networks.class_token_reader import ClassTokenReader
from tiacrossfusion.networks.crossfusion import CrossFusion
from tiacrossfusion.networks.ensemble import Ensemble
from tiacrossfusion.networks.layout import fold_copies

_Layers = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class RolledAttention:
    """How much of what the class token reads comes from each token of the bags.

    The values are 0 or more and sum to 1 over the tokens of all scales together, so that the sum at
    one scale is that scale's share. They are in float32 or wider, without gradient. If the class token
    sees nothing but itself, to the last digit, there is nothing to share and all are NaN.

    Attributes:
        x20 (Tensor):
            (B, N20) of the 20x tokens.
        x10 (Tensor | None):
            (B, N10) of the 10x tokens: along the residuals of both cross-attentions and through the
            map of 10x alone. None where the network reads 20x alone.
        x5 (Tensor | None):
            (B, N5) of the 5x tokens. None likewise.
    """

    x20: Tensor
    x10: Tensor | None = None
    x5: Tensor | None = None


@torch.no_grad()
def rolled_attention(
    network: nn.Module, x5: Tensor, x10: Tensor, x20: Tensor
) -> RolledAttention | None:
    """Roll attention out from the class token to the tokens of the bags.

    Mass 1 starts at the class token after the last layer and goes back through the network, a vector
    times a matrix at each layer and never a matrix times a matrix, so that memory is linear in the
    tokens:

    - A layer of self-attention with map A (mean over the heads) and its residual hands it on by
      `(A + I) / 2`. So does a cross-attention: half of the mass goes along A to the other scale, the
      other half stays with the 10x tokens.
    - Norms and feed-forward networks act on each token alone and leave it where it is.
    - PPEG and the conv processor's convolutions are taken as the identity of places: their kernels
      have signs, which rollout knows no rule for, and their neighbours are those of the wrapped token
      order.
    - Where three maps are fused, the mass of a place is split among them by the norms of what they
      add there (see `conv_processor.shares_of_norms`), not by the three weights alone.
    - Padded copies give theirs to their originals. What stays with the class token belongs to no
      token of a bag: it is left out and the rest divided by its sum.

    All queries and keys of one forward pass are kept for the way back: 1.6 GiB at the largest bag of
    the paper.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3.

    Args:
        network (nn.Module):
            Any network; of an ensemble, the mean over its members is taken.
        x5 (Tensor):
            (B, N5, E) features at 5x.
        x10 (Tensor):
            (B, N10, E) features at 10x.
        x20 (Tensor):
            (B, N20, E) features at 20x.

    Returns:
        RolledAttention | None:
            None for a network that is not CrossFusion or one of its ablations.

    Raises:
        TiacfError:
            A bag does not fit the network.
    """
    if isinstance(network, Ensemble):
        return _mean([rolled_attention(member, x5, x10, x20) for member in network.members])
    inner = without_wrapper(network)
    if not isinstance(inner, ClassTokenReader):
        return None
    processor = inner.conv_processor
    layers: _Layers = {}
    shares = torch.empty(0)

    def keep(name: str, query: Tensor, key: Tensor) -> None:
        layers[name] = (query, key)

    def split(_: nn.Module, maps: tuple[Tensor, ...]) -> None:
        nonlocal shares
        shares = processor.shares(*maps)  # (B, maps, T)

    handle = processor.register_forward_pre_hook(split)
    try:
        with observe_attention(inner, keep):
            network(x5, x10, x20)
    finally:
        handle.remove()

    row = class_token_attention(*layers.pop(last_layer(inner)))  # (B, 1 + T)
    mass = row / 2
    mass[:, 0] += 0.5
    mass = _back_through(inner, "transform_final", mass, layers)[:, 1:]  # (B, T)
    mass = mass / mass.sum(dim=1, keepdim=True)
    on_maps = (mass[:, None] * shares).unbind(dim=1)  # (B, T) each

    if not isinstance(inner, CrossFusion):
        (on_fine,) = on_maps
        fine = _back_through(inner, "transform_fine", on_fine, layers)  # (B, T)
        return RolledAttention(x20=fold_copies(fine, x20.shape[1]))
    source, fine, coarse = (
        fold_copies(_back_through(inner, name, on_map, layers), x10.shape[1])  # (B, N10)
        for name, on_map in zip(
            ("transform_source", "transform_fine", "transform_coarse"), on_maps, strict=True
        )
    )
    return RolledAttention(
        x20=passed_attention(fine / 2, *layers.pop("cross_fine")),  # (B, N20)
        x10=source + (fine + coarse) / 2,
        x5=passed_attention(coarse / 2, *layers.pop("cross_coarse")),  # (B, N5)
    )


def _back_through(
    network: ClassTokenReader, transformer: str, mass: Tensor, layers: _Layers
) -> Tensor:
    """Take the mass (B, T) after a Pad-Transformer back to before it, and forget its layers."""
    for block in ("post", "pre"):
        for depth in reversed(range(network.depth)):
            name = f"{transformer}.{block}.{depth}"
            if name in layers:  # the last layer of all has been gone through already
                mass = (mass + passed_attention(mass, *layers.pop(name))) / 2
    return mass


def _mean(members: Sequence[RolledAttention | None]) -> RolledAttention | None:
    """Mean over the members of an ensemble, which are networks of one kind."""
    found = [member for member in members if member is not None]
    if not found:
        return None

    def mean(name: str) -> Tensor | None:
        given = [value for member in found if (value := getattr(member, name)) is not None]
        return torch.stack(given).mean(dim=0) if given else None

    x20 = torch.stack([member.x20 for member in found]).mean(dim=0)
    return RolledAttention(x20=x20, x10=mean("x10"), x5=mean("x5"))
