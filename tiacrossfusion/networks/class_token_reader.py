"""What CrossFusion and its ablations share: how they are built of parts and how they read a map."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import UsageError
from tiacrossfusion.networks.attention import class_token_attention
from tiacrossfusion.networks.checks import check_heads, check_sizes
from tiacrossfusion.networks.conv_processor import ConcatProcessor, ConvProcessor
from tiacrossfusion.networks.pad_transformer import PadTransformer


class ClassTokenReader(nn.Module):
    """A network that ends with a class token, which reads the hazards off one square map.

    A network of the family says in `_add_layers` what comes before that map.

    Args:
        encoder_width (int):
            E, width of the input features. If it equals `embed_dim` they are not projected.
        embed_dim (int):
            D, width inside the network; even, and a multiple of `num_heads`.
        num_heads (int):
            H, attention heads.
        depth (int):
            L, layers in each of the two blocks of a Pad-Transformer.
        num_bins (int):
            K, time bins of the survival curve.
        layout (Literal["square"]):
            How tokens become a map: "square" wraps their order into a square, padded with copies
            of the first tokens. It is not tissue geometry.
        dropout (float):
            Dropout of the feed-forward networks and of what fuses the maps.
        attention_dropout (float):
            Dropout of the self-attention weights.

    Raises:
        TiacfError:
            A size is below 1, `embed_dim` cannot be split, or the layout is unknown.
    """

    #: The bag whose tokens, squared, make the map that is read.
    map_bag: ClassVar[Literal["x10", "x20"]] = "x10"

    conv_processor: ConvProcessor | ConcatProcessor

    def __init__(
        self,
        encoder_width: int = 1024,
        embed_dim: int = 512,
        num_heads: int = 4,
        depth: int = 1,
        num_bins: int = 4,
        layout: Literal["square"] = "square",
        *,
        dropout: float = 0.3,
        attention_dropout: float = 0.2,
    ) -> None:
        """Create the network with fresh weights."""
        super().__init__()
        check_sizes(
            encoder_width=encoder_width,
            embed_dim=embed_dim,
            num_heads=num_heads,
            depth=depth,
            num_bins=num_bins,
        )
        check_heads(embed_dim, num_heads)
        if layout != "square":
            raise UsageError(f"layout {layout!r} is unknown: use 'square'")
        self.encoder_width = encoder_width
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.depth = depth
        self.num_bins = num_bins
        self.layout = layout
        self.dropout = dropout
        self.attention_dropout = attention_dropout

        self._add_layers()
        self.class_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.transform_final = self._transformer(class_token=True)
        self.head = nn.Linear(embed_dim, num_bins)

        self.apply(_initialise)
        nn.init.normal_(self.class_token, std=1e-6)

    def _add_layers(self) -> None:
        """Add the layers between the bags and the map that is read."""
        raise NotImplementedError

    def _projection(self) -> nn.Module:
        """Make the projection of one scale, from E to D."""
        if self.encoder_width == self.embed_dim:
            return nn.Identity()
        linear = nn.Linear(self.encoder_width, self.embed_dim)
        return nn.Sequential(OrderedDict(linear=linear, norm=nn.LayerNorm(self.embed_dim)))

    def _transformer(self, *, class_token: bool = False) -> PadTransformer:
        """Make a Pad-Transformer of the network's sizes."""
        return PadTransformer(
            self.embed_dim,
            self.num_heads,
            self.depth,
            class_token=class_token,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )

    def _read(self, fused: Tensor, *, attention: bool) -> tuple[Tensor, Tensor | None]:
        """Read the hazards off a map.

        Args:
            fused (Tensor):
                (B, T, D), a square map of T = side * side tokens.
            attention (bool):
                Also score the tokens of the map.

        Returns:
            tuple[Tensor, Tensor | None]:
                The logits (B, K), and the attention (B, T) that the class token pays in the last
                layer, without its own column, if asked for.
        """
        class_token = self.class_token.expand(len(fused), -1, -1)  # (B, 1, D)
        fused, scores = self.transform_final(
            torch.cat([class_token.to(fused.dtype), fused], dim=1),
            class_token_attention if attention else None,
        )  # (B, 1 + T, D), (B, 1 + T)
        return self.head(fused[:, 0]), None if scores is None else scores[:, 1:]


def _initialise(module: nn.Module) -> None:
    """Draw the weights of one layer; norms keep torch's (1, 0)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
