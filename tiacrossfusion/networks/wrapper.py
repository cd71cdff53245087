"""Networks that wrap other networks and take the same inputs."""

from __future__ import annotations

from torch import Tensor, nn

from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_with, input_names
from tiacrossfusion.networks.output import SurvivalOutput


class NetworkWrapper(SurvivalNetwork):
    """Base class of networks that wrap other networks."""

    def unwrapped(self) -> nn.Module:
        """Return the innermost network; of an ensemble, that of the first member."""
        inner = self._inner()
        return inner.unwrapped() if isinstance(inner, SurvivalNetwork) else inner

    def needed_inputs(self) -> tuple[str, ...]:
        """Return those of the wrapped network; of an ensemble, those of the first member."""
        inner = self._inner()
        return inner.needed_inputs() if isinstance(inner, SurvivalNetwork) else ()

    def further_inputs(self) -> tuple[str, ...]:
        """Return those of the wrapped network; of an ensemble, those of the first member."""
        inner = self._inner()
        return inner.further_inputs() if isinstance(inner, SurvivalNetwork) else ()

    def forward(
        self, *positional: Tensor, attention: bool = False, **named: Tensor
    ) -> SurvivalOutput:
        """Predict survival; positional arguments are in the order of the wrapped network."""
        names = input_names(self)[: len(positional)]
        return self.predict(dict(zip(names, positional, strict=True)) | named, attention=attention)

    def predict(self, inputs: dict[str, Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict survival from the inputs of the wrapped network, by name."""
        return call_with(self._inner(), inputs, attention=attention)

    def _inner(self) -> nn.Module:
        raise NotImplementedError


class PlainNetwork(NetworkWrapper):
    """A plain `nn.Module` as a `SurvivalNetwork`.

    Args:
        network: has a `forward` as described in `SurvivalNetwork`.
        encoder_width: E, width of the input features.
        num_bins: K, time bins.
    """

    def __init__(self, network: nn.Module, encoder_width: int, num_bins: int) -> None:
        """Wrap the module."""
        super().__init__(encoder_width, num_bins)
        self.plain = network

    def _inner(self) -> nn.Module:
        return self.plain
