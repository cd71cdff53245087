"""CrossFusion: survival from the tokens of a slide at three magnifications; and its ablations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from tiacrossfusion.networks.attention import attention_received, passed_attention
from tiacrossfusion.networks.class_token_reader import ClassTokenReader, LayerMaps
from tiacrossfusion.networks.conv_processor import ConcatProcessor, ConvProcessor
from tiacrossfusion.networks.cross_attention import CrossAttentionBlock
from tiacrossfusion.networks.layout import fold_copies, pad_to_square
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput

_ORDER = "It also depends on the order of the patches, which makes the network's map."


class CrossFusion(ClassTokenReader):
    """Multi-scale cross-attention and convolutional fusion for survival prediction.

    The 10x tokens ("source") attend to the 5x ("coarse") and to the 20x tokens ("fine"). Three
    Pad-Transformers and a conv processor fuse the three resulting maps into one, from which a class token
    reads the hazards. `docs/crossfusion.md` has the equations of the released checkpoints.

    Source: Soraki, Wang, Liu, Elmore and Shapiro, "CrossFusion: A Multi-Scale Cross-Attention Convolutional
    Fusion Model for Cancer Survival Prediction", MIDL 2026, PMLR 315:2906-2921 (arXiv 2503.02064).

    Args:
        encoder_width: E, width of the input features, which are not projected if it equals `embed_dim`.
        embed_dim: D, width inside the network; even, and a multiple of `num_heads`.
        num_heads: H, attention heads.
        depth: L, layers in each of the two blocks of a Pad-Transformer.
        num_bins: K, time bins of the survival curve.
        layout: how 10x tokens become a map: "square" wraps their order into a square, padded with copies of
            the first tokens. It is not tissue geometry.
        dropout: dropout of the feed-forward networks and of the conv processor's channels.
        attention_dropout: dropout of the self-attention weights (not in the cross-attention).

    Raises:
        UsageError: a size is below 1 or too large, `embed_dim` is odd or not a multiple of `num_heads`, or
            the layout is unknown.
    """

    #: The module that fuses the three maps into one.
    processor: ClassVar[type[ConvProcessor | ConcatProcessor]] = ConvProcessor
    map_transformers = ("transform_source", "transform_fine", "transform_coarse")
    attention_meanings: ClassVar[Mapping[str, str]] = {
        "5x": "How much the 10x patches attend to the 5x patch; not whether it raises the risk.",
        "20x": "How much the 10x patches attend to the 20x patch; not whether it raises the risk.",
        "10x": f"How much the 10x patches attend to the 10x patch. {_ORDER}",
        "fused": f"How much the prediction's token attends to the 10x patch after fusion. {_ORDER}",
        "rolled": f"Attention of all layers, traced back to the patch; 1 is the average. {_ORDER}",
    }

    def _add_layers(self) -> None:
        self.project_coarse = self._projection()
        self.project_source = self._projection()
        self.project_fine = self._projection()
        sizes = (self.embed_dim, self.num_heads, self.dropout)
        self.cross_coarse = CrossAttentionBlock(*sizes)
        self.cross_fine = CrossAttentionBlock(*sizes)
        self.transform_coarse = self._transformer()
        self.transform_source = self._transformer()
        self.transform_fine = self._transformer()
        self.conv_processor = self.processor(self.embed_dim, self.dropout)

    def forward(
        self, x5: Tensor, x10: Tensor, x20: Tensor, *, attention: bool = False
    ) -> SurvivalOutput:
        """Predict survival. The order of the 10x tokens matters: it makes the map."""
        self.check_features(x5=x5, x10=x10, x20=x20)
        precision = self.class_token.dtype

        # Projection: each scale to width D.
        coarse = self.project_coarse(x5.to(precision))  # (B, N5, D)
        source = self.project_source(x10.to(precision))  # (B, N10, D)
        fine = self.project_fine(x20.to(precision))  # (B, N20, D)

        # Cross-attention: 10x to 5x and to 20x, on the axis of the 10x tokens.
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

        # Final Pad-Transformer, with a class token before the square map; head.
        logits, scores_fused = self._read(fused, attention=attention)  # (B, K), (B, T)

        if scores_fused is None:
            return SurvivalOutput.from_logits(logits)
        tokens = x10.shape[1]
        scores = AttentionScores(
            x5=scores5,
            x10=fold_copies(scores10, tokens),
            x20=scores20,
            fused=fold_copies(scores_fused, tokens),
        )
        return SurvivalOutput.from_logits(logits, scores)

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return the projection of each scale."""
        return {
            self.project_coarse: ("5x",),
            self.project_source: ("10x",),
            self.project_fine: ("20x",),
        }

    def _rolled_to_tokens(self, on_maps: list[Tensor], layers: LayerMaps) -> AttentionScores:
        source, fine, coarse = on_maps
        return AttentionScores(
            x20=passed_attention(fine / 2, *layers.pop("cross_fine")),  # (B, N20)
            x10=source + (fine + coarse) / 2,
            x5=passed_attention(coarse / 2, *layers.pop("cross_coarse")),  # (B, N5)
        )


class CrossFusionNoConv(CrossFusion):
    """CrossFusion "w/o CP", the paper's ablation of the conv processor: concatenation and a linear layer."""

    processor = ConcatProcessor


class CrossFusion20x(ClassTokenReader):
    """CrossFusion "w/o F&C": one Pad-Transformer on the map of the 20x tokens, nothing to fuse.

    Projection, Pad-Transformer on the square 20x map, conv processor of one map, final Pad-Transformer with
    a class token, head. Self-attention runs over all 20x tokens, so time grows with N20 squared. Arguments
    and errors as in `CrossFusion`.

    Source: the paper's ablation of fusion and context.
    """

    map_input = "x20"
    map_transformers = ("transform_fine",)
    attention_meanings: ClassVar[Mapping[str, str]] = {
        "20x": f"How much the prediction's token attends to the 20x patch. {_ORDER}",
        "rolled": f"Attention of all layers, traced back to the patch; 1 is the average. {_ORDER}",
    }

    def _add_layers(self) -> None:
        self.project_fine = self._projection()
        self.transform_fine = self._transformer()
        self.conv_processor = ConvProcessor(self.embed_dim, self.dropout, maps=1)

    def forward(self, x20: Tensor, *, attention: bool = False) -> SurvivalOutput:
        """Predict survival from the 20x tokens, whose order makes the map.

        Their scores are the class token's row in the last layer.
        """
        self.check_features(x20=x20)
        tokens = self.project_fine(x20.to(self.class_token.dtype))  # (B, N20, D)
        fine, _ = self.transform_fine(pad_to_square(tokens))  # (B, T, D)
        logits, scores = self._read(self.conv_processor(fine), attention=attention)  # (B, K)
        if scores is None:
            return SurvivalOutput.from_logits(logits)
        folded = fold_copies(scores, x20.shape[1])  # (B, N20)
        return SurvivalOutput.from_logits(logits, AttentionScores(x20=folded))

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return the projection of the 20x tokens."""
        return {self.project_fine: ("20x",)}

    def _rolled_to_tokens(self, on_maps: list[Tensor], layers: LayerMaps) -> AttentionScores:
        del layers
        return AttentionScores(x20=on_maps[0])
