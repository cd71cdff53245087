"""The base of the multiple-instance baselines: one embedding of the tokens of all scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput
from tiacrossfusion.networks.pooling import family_rows
from tiacrossfusion.slides.spec import SCALES


class TokenEmbedding(nn.Module):
    """Embeds the tokens of all scales with one projection and a learnt vector for each scale.

    `h = Dropout(ReLU(W x + b + s))` with `s` the vector of the token's scale. So a network for a single set
    of tokens takes those of all scales as one bag, and can distinguish the scales.

    Args:
        encoder_width: E, width of the input features.
        embed_dim: D.
        scales: number of scales.
        dropout: dropout of the embedded tokens' channels.
    """

    def __init__(self, encoder_width: int, embed_dim: int, scales: int, dropout: float) -> None:
        """Create the layers."""
        super().__init__()
        self.project = nn.Linear(encoder_width, embed_dim)
        self.scale_embedding = nn.Parameter(torch.zeros(scales, embed_dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, *features: Tensor) -> list[Tensor]:
        """Embed the features (B, N, E) of each scale, from coarse to fine, to (B, N, D)."""
        return [
            self.dropout(torch.relu(self.project(x.to(self.project.weight.dtype)) + scale))
            for x, scale in zip(features, self.scale_embedding, strict=True)
        ]


def _read_all(
    self: BagNetwork, x5: Tensor, x10: Tensor, x20: Tensor, *, attention: bool = False
) -> SurvivalOutput:
    """Predict survival from the tokens of all scales."""
    self.check_features(x5=x5, x10=x10, x20=x20)
    return self.predict(self.embed(x5, x10, x20), attention=attention)


def _read_fine(self: BagNetwork, x20: Tensor, *, attention: bool = False) -> SurvivalOutput:
    """Predict survival from the 20x tokens."""
    self.check_features(x20=x20)
    return self.predict(self.embed(x20), attention=attention)


def _read_coarse(self: BagNetwork, x5: Tensor, *, attention: bool = False) -> SurvivalOutput:
    """Predict survival from the 5x tokens."""
    self.check_features(x5=x5)
    return self.predict(self.embed(x5), attention=attention)


class BagNetwork(SurvivalNetwork):
    """Base class of the baselines, which take the embedded tokens of all scales as one bag.

    Args:
        encoder_width: E, width of the input features.
        embed_dim: D, width of the embedded tokens.
        num_bins: K, time bins of the survival curve.
        dropout: dropout of the embedded tokens and of later layers.

    Raises:
        UsageError: a size is below 1 or too large.
    """

    attention_meanings: ClassVar[Mapping[str, str]] = dict.fromkeys(
        SCALES, "Weight of the patch in the pooled slide; not whether it raises the risk."
    )
    scales: ClassVar[tuple[str, ...]] = SCALES
    forward: Callable[..., SurvivalOutput] = _read_all

    def __init__(
        self,
        encoder_width: int = 1024,
        embed_dim: int = 512,
        num_bins: int = 4,
        *,
        dropout: float = 0.3,
    ) -> None:
        """Create the network with fresh weights."""
        self._create(encoder_width, embed_dim, num_bins, dropout)

    def _create(
        self, encoder_width: int, embed_dim: int, num_bins: int, dropout: float, **sizes: int
    ) -> None:
        super().__init__(encoder_width, num_bins, embed_dim=embed_dim, **sizes)
        self.embed = TokenEmbedding(encoder_width, embed_dim, len(self.scales), dropout)
        self._add_layers(embed_dim, num_bins, dropout, **sizes)
        self.apply(initialise)

    def _add_layers(self, embed_dim: int, num_bins: int, dropout: float) -> None:
        """Add the layers after the embedding."""
        raise NotImplementedError

    def predict(self, scales: list[Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict survival from embedded tokens (B, N, D) of each scale, from coarse to fine."""
        raise NotImplementedError

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return the one module that embeds the tokens of all scales."""
        return {self.embed: self.scales}

    def embedded_rows(
        self, inputs: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor, Tensor, int]]:
        """Yield each scale with its embedded tokens (N, D), their families (N,), and how many there are."""
        rows, count = family_rows(inputs), inputs["grid5"].shape[1]
        embedded = self.embed(*(inputs[f"x{scale[:-1]}"] for scale in self.scales))
        for scale, tokens in zip(self.scales, embedded, strict=True):
            yield scale, tokens[0], rows[scale], count

    def scores(self, weights: Tensor, tokens: Sequence[Tensor]) -> AttentionScores:
        """Split the weights (B, N) of the tokens of all scales by scale."""
        wide = weights.detach().to(torch.promote_types(weights.dtype, torch.float32))  # (B, N)
        parts = wide.split([scale.shape[1] for scale in tokens], dim=1)
        return AttentionScores(
            **{f"x{scale[:-1]}": part for scale, part in zip(self.scales, parts, strict=True)}
        )


class FineOnly(BagNetwork):
    """Makes a baseline read the 20x tokens alone."""

    scales = ("20x",)
    forward = _read_fine


class CoarseOnly(BagNetwork):
    """Makes a baseline read the 5x tokens alone."""

    scales = ("5x",)
    forward = _read_coarse


def initialise(module: nn.Module) -> None:
    """Draw the weights of one layer of a baseline; norms and convolutions keep torch's defaults.

    Linear layers follow Glorot and Bengio (AISTATS 2010), with biases 0. The vectors of the scales are
    drawn from N(0, 0.5^2), the order of magnitude of the projected tokens, so that from the start some
    units of the embedding respond more to one scale than to another.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, TokenEmbedding):
        nn.init.normal_(module.scale_embedding, std=0.5)
