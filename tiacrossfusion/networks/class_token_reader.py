"""The base class of CrossFusion and its ablations: parts, class token, attention rollout."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import UsageError
from tiacrossfusion.networks.attention import (
    class_token_attention,
    observe_attention,
    passed_attention,
)
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.conv_processor import ConcatProcessor, ConvProcessor
from tiacrossfusion.networks.layout import fold_copies
from tiacrossfusion.networks.output import AttentionLayers, AttentionScores
from tiacrossfusion.networks.pad_transformer import PadTransformer
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.networks.tokens import SlideTokens

#: Query and key of each layer of attention, by its name.
LayerMaps = dict[str, tuple[Tensor, Tensor]]


class ClassTokenReader(SurvivalNetwork):
    """Base class of CrossFusion and its ablations, in which a class token reads one square map.

    `_add_layers` of a subclass adds the layers before that map. Arguments and errors as in `CrossFusion`.
    """

    recipe: ClassVar[Recipe] = SEARCHED
    reads_order = True

    #: The input whose tokens, padded to a square, make the map.
    map_input: ClassVar[Literal["x10", "x20"]] = "x10"

    #: The Pad-Transformers whose maps are fused, in the order of fusion.
    map_transformers: ClassVar[tuple[str, ...]]

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
        super().__init__(
            encoder_width, num_bins, embed_dim=embed_dim, num_heads=num_heads, depth=depth
        )
        if layout != "square":
            raise UsageError(f"layout {layout!r} is unknown: use 'square'")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.depth = depth
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
        """Add the layers before the map that the class token reads."""
        raise NotImplementedError

    def _projection(self) -> nn.Module:
        """Return the projection of one scale, from E to D."""
        if self.encoder_width == self.embed_dim:
            return nn.Identity()
        linear = nn.Linear(self.encoder_width, self.embed_dim)
        return nn.Sequential(OrderedDict(linear=linear, norm=nn.LayerNorm(self.embed_dim)))

    def _transformer(self, *, class_token: bool = False) -> PadTransformer:
        """Return a Pad-Transformer of the network's sizes."""
        return PadTransformer(
            self.embed_dim,
            self.num_heads,
            self.depth,
            class_token=class_token,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )

    def _read(self, fused: Tensor, *, attention: bool) -> tuple[Tensor, Tensor | None]:
        """Predict from a square map (B, T, D) of T = side * side tokens.

        Returns:
            The logits (B, K), and, if requested, the attention (B, T) that the class token pays in the last
            layer, without its own column.
        """
        class_token = self.class_token.expand(len(fused), -1, -1)  # (B, 1, D)
        fused, scores = self.transform_final(
            torch.cat([class_token.to(fused.dtype), fused], dim=1),
            class_token_attention if attention else None,
        )  # (B, 1 + T, D), (B, 1 + T)
        return self.head(fused[:, 0]), None if scores is None else scores[:, 1:]

    def attention_layers(self) -> AttentionLayers:
        """Return the cross-attentions, and the self-attentions of all Pad-Transformers."""
        transformers = {n: m for n, m in self.named_children() if isinstance(m, PadTransformer)}
        return AttentionLayers(
            network=self,
            sequence=self.map_input,
            before_sequence={name: each.off_map for name, each in transformers.items()},
            last=f"transform_final.post.{self.depth - 1}",
        )

    @torch.no_grad()
    def rollout(self, tokens: SlideTokens) -> AttentionScores:
        """Roll attention out from the class token to the tokens of B slides.

        Mass 1 starts at the class token after the last layer and is passed back through the network. Each
        step multiplies a vector by a matrix, never two matrices, so memory is linear in the tokens:

        - Self-attention with map A (mean over the heads) and its residual pass the mass on by
          `(A + I) / 2`. So does cross-attention: half of the mass goes along A to the other scale, the
          other half stays with the 10x tokens.
        - Norms and feed-forward networks act on each token separately and do not move its mass.
        - PPEG and the conv processor's convolutions are treated as the identity: their kernels have
          negative entries, for which rollout has no rule, and their neighbours follow the wrapped order.
        - Where three maps are fused, the mass at a place is split by the norms of what each map adds there
          (see `conv_processor.shares_of_norms`), not by the three weights alone.
        - Repeated tokens have the mean over their appearances, and the mass is kept. Mass that stays with
          the class token belongs to no token: it is left out, and the rest is divided by its sum.

        All queries and keys of one forward pass are stored: 1.6 GiB for the largest bag of the paper.

        Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3.

        Raises:
            TiacfError: the tokens do not fit the network.
        """
        layers: LayerMaps = {}
        shares = torch.empty(0)

        def keep(name: str, query: Tensor, key: Tensor) -> None:
            layers[name] = (query, key)

        def split(_: nn.Module, maps: tuple[Tensor, ...]) -> None:
            nonlocal shares
            shares = self.conv_processor.shares(*maps)  # (B, maps, T)

        handle = self.conv_processor.register_forward_pre_hook(split)
        try:
            with observe_attention(self, keep):
                call_network(self, tokens)
        finally:
            handle.remove()

        mass = class_token_attention(*layers.pop(self.attention_layers().last)) / 2  # (B, 1 + T)
        mass[:, 0] += 0.5
        mass = self._back_through("transform_final", mass, layers)[:, 1:]  # (B, T)
        mass = mass / mass.sum(dim=1, keepdim=True)
        maps = (mass[:, None] * shares).unbind(dim=1)  # (B, T) each
        count = tokens.inputs()[self.map_input].shape[1]
        back = [
            fold_copies(self._back_through(name, on_map, layers), count)  # (B, N)
            for name, on_map in zip(self.map_transformers, maps, strict=True)
        ]
        return self._rolled_to_tokens(back, layers)

    def _rolled_to_tokens(self, on_maps: list[Tensor], layers: LayerMaps) -> AttentionScores:
        """Pass mass (B, N), which arrived at the inputs of `map_transformers`, back to the tokens."""
        raise NotImplementedError

    def _back_through(self, transformer: str, mass: Tensor, layers: LayerMaps) -> Tensor:
        """Pass the mass (B, T) at a Pad-Transformer's output back to its input, and drop its layers."""
        for block in ("post", "pre"):
            for depth in reversed(range(self.depth)):
                name = f"{transformer}.{block}.{depth}"
                if name in layers:  # the last layer of all has been passed already
                    mass = (mass + passed_attention(mass, *layers.pop(name))) / 2
        return mass


def _initialise(module: nn.Module) -> None:
    """Draw the weights of one layer; norms keep torch's 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
