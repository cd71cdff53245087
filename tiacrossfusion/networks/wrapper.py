"""Networks around other networks: they take the inputs of the network inside, whichever these are."""

from __future__ import annotations

from torch import Tensor, nn

from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_with, input_names
from tiacrossfusion.networks.output import SurvivalOutput


class NetworkWrapper(SurvivalNetwork):
    """Base class of networks around other networks."""

    def unwrapped(self) -> nn.Module:
        """Return the innermost network, or that of the first member."""
        inner = self._inner()
        return inner.unwrapped() if isinstance(inner, SurvivalNetwork) else inner

    def needed_inputs(self) -> tuple[str, ...]:
        """Return those of the network inside, or of the first member."""
        inner = self._inner()
        return inner.needed_inputs() if isinstance(inner, SurvivalNetwork) else ()

    def forward(
        self, *positional: Tensor, attention: bool = False, **named: Tensor
    ) -> SurvivalOutput:
        """Predict survival; arguments by position are in the order of the network inside."""
        names = input_names(self)[: len(positional)]
        return self.predict(dict(zip(names, positional, strict=True)) | named, attention=attention)

    def predict(self, inputs: dict[str, Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict survival from the inputs of the network inside, by name."""
        return call_with(self._inner(), inputs, attention=attention)

    def _inner(self) -> nn.Module:
        raise NotImplementedError


class PlainNetwork(NetworkWrapper):
    """A plain `nn.Module` as a `SurvivalNetwork`.

    Args:
        network: its `forward` takes inputs as `SurvivalNetwork` describes.
        encoder_width: E.
        num_bins: K.
    """

    def __init__(self, network: nn.Module, encoder_width: int, num_bins: int) -> None:
        """Keep the module."""
        super().__init__(encoder_width, num_bins)
        self.plain = network

    def _inner(self) -> nn.Module:
        return self.plain
