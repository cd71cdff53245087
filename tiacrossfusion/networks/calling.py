"""Call any network with the inputs that its `forward` names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.families import nesting_fault
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.registry import NETWORKS
from tiacrossfusion.networks.tokens import INPUT_NAMES, SlideTokens
from tiacrossfusion.slides.spec import SCALES

Network = nn.Module | type[nn.Module]

#: What a bag without some inputs lacks, and the remedy, by the first letters of their names.
_LACKING = {
    "x": "no patches at {}; extract it again",
    "grid": "no positions on the grid at {}, which the network needs; extract the slide, since "
    "features of other programs may lack them, or use a network that needs none: {others}",
    "covariates": "no covariates, which the network needs; give them with the bag",
}


def _arguments(network: Network) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a network's `forward`, or of that of the network that it wraps."""
    inner = network.unwrapped() if isinstance(network, SurvivalNetwork) else network
    return inspect.signature(inner.forward).parameters


def input_names(network: Network) -> tuple[str, ...]:
    """Return the names of `INPUT_NAMES` that a network takes: those of its `forward`, then further ones."""
    named = tuple(name for name in _arguments(network) if name in INPUT_NAMES)
    further = network.further_inputs() if isinstance(network, SurvivalNetwork) else ()
    return named + tuple(name for name in further if name not in named)


def required_inputs(network: Network) -> tuple[str, ...]:
    """Return the inputs without which a network cannot be called."""
    taken = _arguments(network)
    needed = network.needed_inputs() if isinstance(network, SurvivalNetwork) else ()
    return tuple(
        name
        for name in input_names(network)
        if name in needed or (name in taken and taken[name].default is inspect.Parameter.empty)
    )


def scales_read(network: Network) -> tuple[str, ...]:
    """Return the scales whose features a network takes, from coarse to fine."""
    return tuple(scale for scale in SCALES if f"x{scale[:-1]}" in input_names(network))


def needs_nesting(network: Network) -> bool:
    """Return whether a network compares the grids of several scales, which therefore have to nest."""
    return sum(name.startswith("grid") for name in required_inputs(network)) > 1


def networks_without_grids() -> list[str]:
    """Return the names of the networks that read all scales and need no positions on grids."""
    return [
        name
        for name in NETWORKS.names()
        if scales_read(NETWORKS[name]) == SCALES
        and not any(needed.startswith("grid") for needed in required_inputs(NETWORKS[name]))
    ]


def takes_attention(network: Network) -> bool:
    """Return whether a network can return attention scores."""
    return "attention" in _arguments(network)


def inputs_of(network: nn.Module, tokens: SlideTokens) -> dict[str, Tensor]:
    """Return the inputs that a network takes, by name.

    Raises:
        TiacfError: the network needs an input that the tokens lack.
    """
    there = tokens.inputs()
    lacking = [name for name in required_inputs(network) if name not in there]
    if lacking:
        raise TiacfError(
            f"{type(network).__name__} needs {', '.join(lacking)}, which these bags do not have"
        )
    return {name: there[name] for name in input_names(network) if name in there}


def check_tokens(network: Network, tokens: SlideTokens, label: str) -> None:
    """Check, before anything is computed, that tokens have all inputs that a network needs.

    Args:
        network: a network or its class.
        tokens: of a slide.
        label: names the slide in the error, such as "bag of a.svs".

    Raises:
        TiacfError: an input is missing; the message says what to do.
    """
    lacking = [name for name in required_inputs(network) if name not in tokens.inputs()]
    for kind, message in _LACKING.items():
        names = [name.removeprefix(kind) + "x" for name in lacking if name.startswith(kind)]
        if names:
            others = ", ".join(networks_without_grids()) if kind == "grid" else ""
            raise TiacfError(f"{label}: {message.format(', '.join(names), others=others)}")
    nested = [scale for scale in SCALES if f"grid{scale[:-1]}" in required_inputs(network)]
    if fault := nesting_fault(tokens, nested):
        raise TiacfError(
            f"{label}: {fault}, and the network needs nested grids; extract the slide again, or use a "
            f"network that needs no grid: {', '.join(networks_without_grids())}"
        )


def as_output(returned: SurvivalOutput | Tensor) -> SurvivalOutput:
    """Return the result of a network, logits (B, K) or a `SurvivalOutput`, as a `SurvivalOutput`."""
    return SurvivalOutput.from_logits(returned) if isinstance(returned, Tensor) else returned


def call_with(
    network: nn.Module, inputs: Mapping[str, Tensor], *, attention: bool = False
) -> SurvivalOutput:
    """Predict survival with inputs by name, as `inputs_of` returns them."""
    options = {"attention": attention} if takes_attention(network) else {}
    return as_output(network(**inputs, **options))


def call_network(
    network: nn.Module, tokens: SlideTokens, *, attention: bool = False
) -> SurvivalOutput:
    """Predict survival with any network.

    Args:
        network: takes some of `INPUT_NAMES`; returns a `SurvivalOutput`, or logits (B, K).
        tokens: B slides with equal token counts.
        attention: request attention scores, where the network has them.

    Raises:
        TiacfError: the network needs an input that the tokens lack.
    """
    return call_with(network, inputs_of(network, tokens), attention=attention)
