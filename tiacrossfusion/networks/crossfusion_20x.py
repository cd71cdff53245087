"""CrossFusion's single-scale ablation: survival from the 20x tokens alone."""

from __future__ import annotations

from torch import Tensor

from tiacrossfusion.networks.checks import check_bags
from tiacrossfusion.networks.class_token_reader import ClassTokenReader
from tiacrossfusion.networks.conv_processor import ConvProcessor
from tiacrossfusion.networks.layout import fold_copies, pad_to_square
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput


class CrossFusion20x(ClassTokenReader):
    """CrossFusion "w/o F&C": one Pad-Transformer on the map of the 20x tokens, nothing to fuse.

    Projection, Pad-Transformer on the square 20x map, conv processor of one map, final
    Pad-Transformer with a class token, head. Self-attention runs over all 20x tokens, so time grows
    with N20 squared.

    Source: the paper's ablation of fusion and context.

    Args:
        encoder_width (int):
            As in `CrossFusion`, and so are all the others.
        embed_dim (int):
            D.
        num_heads (int):
            H.
        depth (int):
            L.
        num_bins (int):
            K.
        layout (Literal["square"]):
            How the 20x tokens become a map.
        dropout (float):
            Dropout of the feed-forward networks and of the conv processor's channels.
        attention_dropout (float):
            Dropout of the self-attention weights.

    Raises:
        TiacfError:
            A size is below 1, `embed_dim` cannot be split, or the layout is unknown.
    """

    map_bag = "x20"

    def _add_layers(self) -> None:
        """Add projection, Pad-Transformer and conv processor."""
        self.project_fine = self._projection()
        self.transform_fine = self._transformer()
        self.conv_processor = ConvProcessor(self.embed_dim, self.dropout, maps=1)

    def forward(
        self, x5: Tensor, x10: Tensor, x20: Tensor, *, attention: bool = False
    ) -> SurvivalOutput:
        """Predict survival from the 20x bags of a batch of slides.

        Args:
            x5 (Tensor):
                (B, N5, E), checked but not used.
            x10 (Tensor):
                (B, N10, E), checked but not used.
            x20 (Tensor):
                (B, N20, E) features at 20x, whose order makes the map.
            attention (bool):
                Also score the 20x tokens: the class token's row in the last layer, copies folded
                back and its own column dropped. Changes nothing else of the output.

        Returns:
            SurvivalOutput:
                The prediction, with `attention` filled in if asked for.

        Raises:
            TiacfError:
                A bag is empty, has the wrong width or type, or another batch size than the rest.
        """
        check_bags(self.encoder_width, x5, x10, x20)
        tokens = self.project_fine(x20.to(self.class_token.dtype))  # (B, N20, D)
        fine, _ = self.transform_fine(pad_to_square(tokens))  # (B, T, D)
        logits, scores = self._read(self.conv_processor(fine), attention=attention)  # (B, K)
        if scores is None:
            return SurvivalOutput.from_logits(logits)
        return SurvivalOutput.from_logits(
            logits, AttentionScores(x20=fold_copies(scores, x20.shape[1]))
        )
