"""Call any network with the inputs that its `forward` names."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.tokens import INPUT_NAMES, SlideTokens


def input_names(network: nn.Module | type[nn.Module]) -> tuple[str, ...]:
    """Return which of `INPUT_NAMES` a network's `forward` takes, in their order.

    A network around another one, such as `TrainedNetwork`, tells those of the inner one with an attribute
    `input_names`.
    """
    told = getattr(network, "input_names", None)
    if told is not None:
        return tuple(told)
    taken = inspect.signature(network.forward).parameters
    return tuple(name for name in INPUT_NAMES if name in taken)


def required_inputs(network: nn.Module | type[nn.Module]) -> tuple[str, ...]:
    """Return the inputs without which a network cannot be called."""
    told = getattr(network, "required_inputs", None)
    if told is not None:
        return tuple(told)
    taken = inspect.signature(network.forward).parameters
    return tuple(
        name
        for name in input_names(network)
        if name in taken and taken[name].default is inspect.Parameter.empty
    )


def call_network(
    network: nn.Module, tokens: SlideTokens, *, attention: bool = False
) -> SurvivalOutput:
    """Predict survival with any network.

    Args:
        network (nn.Module):
            Takes some of `INPUT_NAMES`; returns a `SurvivalOutput`, or logits (B, K).
        tokens (SlideTokens):
            B slides with equal token counts.
        attention (bool):
            Ask for the attention of each token, of a network that gives it.

    Returns:
        SurvivalOutput:
            The prediction for the B slides.

    Raises:
        TiacfError:
            The network needs an input that the tokens lack.
    """
    there = tokens.inputs()
    lacking = [name for name in required_inputs(network) if name not in there]
    if lacking:
        raise TiacfError(
            f"{type(network).__name__} needs {', '.join(lacking)}, which these bags do not have"
        )
    inputs = {name: there[name] for name in input_names(network) if name in there}
    options = {"attention": attention} if takes_attention(network) else {}
    output = network(**inputs, **options)
    return SurvivalOutput.from_logits(output) if isinstance(output, Tensor) else output


def takes_attention(network: nn.Module) -> bool:
    """Return whether a network can be asked for the attention of its tokens."""
    return "attention" in inspect.signature(network.forward).parameters
