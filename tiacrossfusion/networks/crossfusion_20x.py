"""CrossFusion's single-scale ablation: survival from the 20x tokens alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from tiacrossfusion.networks.class_token_reader import ClassTokenReader, LayerMaps
from tiacrossfusion.networks.conv_processor import ConvProcessor
from tiacrossfusion.networks.layout import fold_copies, pad_to_square
from tiacrossfusion.networks.output import AttentionScores, RolledAttention, SurvivalOutput


class CrossFusion20x(ClassTokenReader):
    """CrossFusion "w/o F&C": one Pad-Transformer on the map of the 20x tokens, nothing to fuse.

    Projection, Pad-Transformer on the square 20x map, conv processor of one map, final Pad-Transformer with
    a class token, head. Self-attention runs over all 20x tokens, so time grows with N20 squared.

    Source: the paper's ablation of fusion and context.

    The arguments are those of `CrossFusion`.
    """

    map_input = "x20"
    _map_transformers = ("transform_fine",)

    def _add_layers(self) -> None:
        """Add projection, Pad-Transformer and conv processor."""
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
        return SurvivalOutput.from_logits(
            logits, AttentionScores(x20=fold_copies(scores, x20.shape[1]))
        )

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return the projection of the 20x tokens."""
        return {self.project_fine: ("20x",)}

    def _rolled_to_tokens(self, on_maps: list[Tensor], layers: LayerMaps) -> RolledAttention:
        del layers
        return RolledAttention(x20=on_maps[0])
