"""Tokens of slides for tests of networks."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES


def tokens_of(*features: Tensor) -> SlideTokens:
    """Tokens with features (B, N, E) at 5x, 10x and 20x."""
    return SlideTokens(dict(zip(SCALES, features, strict=True)))


def run(
    network: nn.Module, features: Iterable[Tensor], *, attention: bool = False
) -> SurvivalOutput:
    """Predict with any network; it takes what it reads of the features at 5x, 10x and 20x."""
    return call_network(network, tokens_of(*features), attention=attention)
