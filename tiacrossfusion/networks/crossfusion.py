"""CrossFusion: survival from the tokens of one slide at three magnifications."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tiacrossfusion.networks.attention import attention_received
from tiacrossfusion.networks.checks import check_bags
from tiacrossfusion.networks.class_token_reader import ClassTokenReader
from tiacrossfusion.networks.conv_processor import ConcatProcessor, ConvProcessor
from tiacrossfusion.networks.cross_attention import CrossAttentionBlock
from tiacrossfusion.networks.layout import fold_copies, pad_to_square
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput


class CrossFusion(ClassTokenReader):
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

    #: What fuses the three maps into one.
    processor: ClassVar[type[ConvProcessor | ConcatProcessor]] = ConvProcessor

    def _add_layers(self) -> None:
        """Add projections, cross-attention, Pad-Transformers and what fuses their maps."""
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
        check_bags(self.encoder_width, x5, x10, x20)
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

        # Final Pad-Transformer, with a class token before the map, which is square already; head.
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


class CrossFusionNoConv(CrossFusion):
    """CrossFusion "w/o CP": concatenation and a linear layer in the conv processor's place.

    Source: the paper's ablation of the conv processor. Its weights stand under `conv_processor`.
    """

    processor = ConcatProcessor
