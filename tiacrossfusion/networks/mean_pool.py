"""Mean pooling with an MLP: prediction from the average token of each scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.token_embedding import BagNetwork, FineOnly


class MeanPool(BagNetwork):
    """The mean embedded token of each scale, side by side, through an MLP.

    With m_s the mean of the embedded tokens of scale s (see `TokenEmbedding`)::

        logits = Linear(Dropout(ReLU(Linear(concat_s(m_s)))))

    The embedding comes before the mean, so the network can count tokens of a kind; the MLP comes after it
    and sees all scales, so it can take their product. Scores are what the mean gives: 1/N_s to each token
    of scale s.
    """

    def _add_layers(self, embed_dim: int, num_bins: int, dropout: float) -> None:
        self.hidden = nn.Linear(len(self.scales) * embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_bins)

    def predict(self, scales: list[Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict survival from embedded tokens (B, N, D) of each scale, from coarse to fine."""
        means = torch.cat([tokens.mean(dim=1) for tokens in scales], dim=1)  # (B, scales * D)
        logits = self.head(self.dropout(torch.relu(self.hidden(means))))  # (B, K)
        scores = None
        if attention:
            uniform = [tokens.new_full(tokens.shape[:2], 1 / tokens.shape[1]) for tokens in scales]
            scores = self.scores(torch.cat(uniform, dim=1), scales)
        return SurvivalOutput.from_logits(logits, scores)


class MeanPool20x(FineOnly, MeanPool):
    """Mean pooling of the 20x tokens alone."""
