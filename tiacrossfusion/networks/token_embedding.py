"""How the multiple-instance baselines take in the three scales, and give their scores back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.checks import check_bags, check_sizes
from tiacrossfusion.networks.output import AttentionScores


class TokenEmbedding(nn.Module):
    """Embeds the tokens of all scales with one projection, and marks each with its scale.

    `h = Dropout(ReLU(W x + b + s))` with `s` one learnt vector a scale. A network made for single
    tokens sees the tokens of the three scales as one bag, and can still tell them apart.

    Args:
        encoder_width (int):
            E, width of the input features.
        embed_dim (int):
            D.
        fine_only (bool):
            Read the 20x tokens alone.
        dropout (float):
            Dropout of the embedded tokens' channels.

    Raises:
        TiacfError:
            A size is below 1.
    """

    def __init__(
        self, encoder_width: int, embed_dim: int, *, fine_only: bool, dropout: float
    ) -> None:
        """Create the layers."""
        super().__init__()
        check_sizes(encoder_width=encoder_width, embed_dim=embed_dim)
        self.encoder_width = encoder_width
        self.scales = ("x20",) if fine_only else ("x5", "x10", "x20")
        self.project = nn.Linear(encoder_width, embed_dim)
        self.scale_embedding = nn.Parameter(torch.zeros(len(self.scales), embed_dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x5: Tensor, x10: Tensor, x20: Tensor) -> list[Tensor]:
        """Embed the bags of a batch of slides.

        Args:
            x5 (Tensor):
                (B, N5, E) features at 5x.
            x10 (Tensor):
                (B, N10, E) features at 10x.
            x20 (Tensor):
                (B, N20, E) features at 20x.

        Returns:
            list[Tensor]:
                (B, N5, D), (B, N10, D) and (B, N20, D), or the last alone.

        Raises:
            TiacfError:
                A bag is empty, has the wrong width or type, or another batch size than the rest;
                one that is not read too.
        """
        check_bags(self.encoder_width, x5, x10, x20)
        bags = (x5, x10, x20)[-len(self.scales) :]
        return [
            self.dropout(torch.relu(self.project(bag.to(self.project.weight.dtype)) + scale))
            for bag, scale in zip(bags, self.scale_embedding, strict=True)
        ]

    def scores(self, weights: Tensor, tokens: Sequence[Tensor]) -> AttentionScores:
        """Give the weights of all tokens, (B, N) in the order of `forward`, back to their scales."""
        wide = weights.detach().to(torch.promote_types(weights.dtype, torch.float32))  # (B, N)
        parts = wide.split([scale.shape[1] for scale in tokens], dim=1)
        return AttentionScores(**dict(zip(self.scales, parts, strict=True)))


def initialise(module: nn.Module) -> None:
    """Draw the weights of one layer of a baseline; norms and convolutions keep torch's.

    Linear layers are drawn after Glorot and Bengio (AISTATS 2010), which keeps the variance of what
    passes through them, and have no bias at first. The scales' marks are drawn from N(0, 0.5^2), of the
    order of the projected tokens, so that units of the embedding respond to one scale more than to
    another from the beginning.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, TokenEmbedding):
        nn.init.normal_(module.scale_embedding, std=0.5)
