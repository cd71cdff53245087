"""CrossFusion: survival from the tokens of one slide at three magnifications."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.attention import attention_received, class_token_attention
from tiacrossfusion.networks.conv_processor import ConvProcessor
from tiacrossfusion.networks.cross_attention import CrossAttentionBlock
from tiacrossfusion.networks.layout import fold_copies, pad_to_square
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput
from tiacrossfusion.networks.pad_transformer import PadTransformer


class CrossFusion(nn.Module):
    """Multi-scale cross-attention and convolutional fusion for survival prediction.

    The 10x tokens ("source") gather what the 5x ("coarse") and the 20x ("fine") tokens saw; three
    Pad-Transformers and a conv processor fuse the three views into one map; a class token reads the
    hazards off it. The equations are those of the released checkpoints.

    Source: Soraki, Wang, Liu, Elmore and Shapiro, "CrossFusion: A Multi-Scale Cross-Attention
    Convolutional Fusion Model for Cancer Survival Prediction", MIDL 2026, PMLR 315:2906-2921
    (arXiv 2503.02064).

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
            How 10x tokens become a map: "square" wraps their order into a square, padded with
            copies of the first tokens. It is not tissue geometry.
        dropout (float):
            Dropout of the feed-forward networks and of the conv processor's channels.
        attention_dropout (float):
            Dropout of the self-attention weights. The cross-attention has none.

    Raises:
        TiacfError:
            A size is below 1, `embed_dim` cannot be split, or the layout is unknown.
    """

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
        sizes = {
            "encoder_width": encoder_width,
            "embed_dim": embed_dim,
            "num_heads": num_heads,
            "depth": depth,
            "num_bins": num_bins,
        }
        _check_sizes(sizes, layout)
        self.encoder_width = encoder_width
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.depth = depth
        self.num_bins = num_bins
        self.layout = layout

        def projection() -> nn.Module:
            if encoder_width == embed_dim:
                return nn.Identity()
            linear = nn.Linear(encoder_width, embed_dim)
            return nn.Sequential(OrderedDict(linear=linear, norm=nn.LayerNorm(embed_dim)))

        def transformer(class_token: bool = False) -> PadTransformer:
            return PadTransformer(
                embed_dim,
                num_heads,
                depth,
                class_token=class_token,
                dropout=dropout,
                attention_dropout=attention_dropout,
            )

        self.project_coarse = projection()
        self.project_source = projection()
        self.project_fine = projection()
        self.cross_coarse = CrossAttentionBlock(embed_dim, num_heads, dropout)
        self.cross_fine = CrossAttentionBlock(embed_dim, num_heads, dropout)
        self.transform_coarse = transformer()
        self.transform_source = transformer()
        self.transform_fine = transformer()
        self.conv_processor = ConvProcessor(embed_dim, dropout)
        self.class_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.transform_final = transformer(class_token=True)
        self.head = nn.Linear(embed_dim, num_bins)

        self.apply(_initialise)
        nn.init.normal_(self.class_token, std=1e-6)

    def forward(
        self, x5: Tensor, x10: Tensor, x20: Tensor, *, attention: bool = False
    ) -> SurvivalOutput:
        """Predict survival from the bags of a batch of slides.

        The order of the 5x and of the 20x tokens does not matter; that of the 10x tokens makes the
        map. Features are converted to the precision of the weights, so bags may hold float16.

        Args:
            x5 (Tensor):
                (B, N5, E) features at 5x.
            x10 (Tensor):
                (B, N10, E) features at 10x.
            x20 (Tensor):
                (B, N20, E) features at 20x.
            attention (bool):
                Also score the tokens. Changes nothing else of the output.

        Returns:
            SurvivalOutput:
                The prediction, with `attention` filled in if asked for.

        Raises:
            TiacfError:
                A bag is empty, has the wrong width or type, or another batch size than the rest.
        """
        self._check_bags(x5, x10, x20)
        precision = self.class_token.dtype

        # Projection: each scale to width D.
        coarse = self.project_coarse(x5.to(precision))  # (B, N5, D)
        source = self.project_source(x10.to(precision))  # (B, N10, D)
        fine = self.project_fine(x20.to(precision))  # (B, N20, D)

        # Cross-attention: what 10x gathers from 5x and from 20x, on the axis of the 10x tokens.
        coarse, scores5 = self.cross_coarse(source, coarse, attention=attention)  # (B, N10, D)
        fine, scores20 = self.cross_fine(source, fine, attention=attention)  # (B, N10, D)

        # Pad-Transformers, each on a square map of T = side * side tokens.
        coarse, _ = self.transform_coarse(pad_to_square(coarse))  # (B, T, D)
        source, scores10 = self.transform_source(
            pad_to_square(source), attention_received if attention else None
        )  # (B, T, D), (B, T)
        fine, _ = self.transform_fine(pad_to_square(fine))  # (B, T, D)

        # Conv processor: three maps to one.
        fused = self.conv_processor(source, fine, coarse)  # (B, T, D)

        # Final Pad-Transformer, with a class token before the map, which is square already.
        class_token = self.class_token.expand(len(fused), -1, -1)  # (B, 1, D)
        fused, scores_fused = self.transform_final(
            torch.cat([class_token.to(fused.dtype), fused], dim=1),
            class_token_attention if attention else None,
        )  # (B, 1 + T, D), (B, 1 + T)

        # Head: the class token to one logit a time bin.
        logits = self.head(fused[:, 0])  # (B, K)

        if not attention:
            return SurvivalOutput.from_logits(logits)
        tokens = x10.shape[1]
        scores = AttentionScores(
            x5=scores5,
            x10=fold_copies(scores10, tokens),
            x20=scores20,
            fused=fold_copies(scores_fused[:, 1:], tokens),
        )
        return SurvivalOutput.from_logits(logits, scores)

    def _check_bags(self, x5: Tensor, x10: Tensor, x20: Tensor) -> None:
        """Refuse bags that do not fit, naming the first that is at fault."""
        for name, bag in (("x5", x5), ("x10", x10), ("x20", x20)):
            shape = tuple(bag.shape)
            if len(shape) != 3:
                raise TiacfError(f"{name} has shape {shape}: give (batch, tokens, features)")
            if 0 in shape[:2]:
                raise TiacfError(f"{name} has shape {shape}: give at least one slide and one token")
            if shape[2] != self.encoder_width:
                raise TiacfError(
                    f"{name} has features of width {shape[2]}, this network takes "
                    f"{self.encoder_width}: use the encoder that it was trained with"
                )
            if not bag.is_floating_point():
                raise TiacfError(f"{name} holds {bag.dtype}: give float features")
            if shape[0] != len(x5):
                raise TiacfError(
                    f"{name} has {shape[0]} slides, x5 has {len(x5)}: give the same at each scale"
                )


def _check_sizes(sizes: dict[str, int], layout: str) -> None:
    """Refuse sizes of which no network can be built."""
    for name, size in sizes.items():
        if size < 1:
            raise TiacfError(f"{name} is {size}: give 1 or more")
    embed_dim, num_heads = sizes["embed_dim"], sizes["num_heads"]
    if embed_dim % num_heads:
        raise TiacfError(
            f"embed_dim {embed_dim} does not split into {num_heads} heads: give a num_heads that "
            "divides it"
        )
    if embed_dim % 2:
        raise TiacfError(f"embed_dim {embed_dim} is odd: the conv processor halves it")
    if layout != "square":
        raise TiacfError(f"layout {layout!r} is unknown: use 'square'")


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
