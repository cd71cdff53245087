"""ABMIL: gated attention pooling of single tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.checks import check_sizes
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.token_embedding import TokenEmbedding, initialise

# L, width of the attention's hidden layer: that of the paper's experiments.
_HIDDEN = 128


class ABMIL(nn.Module):
    """Attention-based multiple-instance learning with gated attention.

    With h_n the embedded tokens (see `TokenEmbedding`)::

        a_n    = softmax_n(w^T (tanh(V h_n) * sigmoid(U h_n)))
        logits = Linear(Dropout(sum_n a_n h_n))

    `*` is element by element; V and U have biases. The head gives one logit a time bin in place of
    the paper's one probability. Scores are a_n.

    Source: Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    equations 7 and 9.

    Args:
        encoder_width (int):
            E, width of the input features.
        embed_dim (int):
            D, width of the embedded tokens.
        num_bins (int):
            K, time bins of the survival curve.
        dropout (float):
            Dropout of the embedded tokens and of the pooled one.

    Raises:
        TiacfError:
            A size is below 1.
    """

    fine_only: ClassVar[bool] = False

    def __init__(
        self,
        encoder_width: int = 1024,
        embed_dim: int = 512,
        num_bins: int = 4,
        *,
        dropout: float = 0.3,
    ) -> None:
        """Create the network with fresh weights."""
        super().__init__()
        check_sizes(num_bins=num_bins)
        self.encoder_width = encoder_width
        self.num_bins = num_bins
        self.embed = TokenEmbedding(
            encoder_width, embed_dim, fine_only=self.fine_only, dropout=dropout
        )
        self.content = nn.Linear(embed_dim, _HIDDEN)  # V
        self.gate = nn.Linear(embed_dim, _HIDDEN)  # U
        self.score = nn.Linear(_HIDDEN, 1, bias=False)  # w; a softmax does not see a bias
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_bins)
        self.apply(initialise)

    def forward(
        self, x5: Tensor, x10: Tensor, x20: Tensor, *, attention: bool = False
    ) -> SurvivalOutput:
        """Predict survival from the bags of a batch of slides; the order of tokens does not matter.

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
        scales = self.embed(x5, x10, x20)
        tokens = torch.cat(scales, dim=1)  # (B, N, D)
        gated = torch.tanh(self.content(tokens)) * torch.sigmoid(self.gate(tokens))  # (B, N, L)
        weights = torch.softmax(self.score(gated).squeeze(2), dim=1)  # (B, N)
        pooled = (weights[:, None].to(tokens.dtype) @ tokens).squeeze(1)  # (B, D)
        logits = self.head(self.dropout(pooled))  # (B, K)
        scores = self.embed.scores(weights, scales) if attention else None
        return SurvivalOutput.from_logits(logits, scores)


class ABMIL20x(ABMIL):
    """ABMIL on the 20x tokens alone."""

    fine_only = True
