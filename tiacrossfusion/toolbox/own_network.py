"""A user's own network, which has no bundle, as a model of the engine."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch
from tiatoolbox.models.models_abc import ModelABC
from torch import nn

from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.encoders.weights import state_dict_sha256
from tiacrossfusion.errors import ArgumentValueError, TiacfError, one_line
from tiacrossfusion.models.bundle import ModelBundle, read_weights
from tiacrossfusion.models.config import Architecture, BundleConfig, ModelCard
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_network, input_names
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.wrapper import PlainNetwork
from tiacrossfusion.slides.spec import SCALES, SamplingSpec

#: Tokens per scale with which a network is tried: the cells in one 5x cell.
_TOKENS = {"5x": 1, "10x": 4, "20x": 16}


def load_own_weights(network: nn.Module, path: Path) -> None:
    """Load weights into a network.

    Raises:
        TiacfError: the file cannot be read, or the weights do not fit.
    """
    try:
        network.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise TiacfError(
            f"{path}: the weights do not fit {type(network).__name__} ({one_line(error)}); save the "
            "state_dict() of the same network"
        ) from error


def own_bundle(network: nn.Module, sampling: SamplingSpec, encoder: EncoderSpec) -> ModelBundle:
    """Return a bundle around a network: without time bins, reference and training patients.

    The network takes some of x5, x10 and x20 (B, N, E) by name and returns logits (B, K) or a
    `SurvivalOutput`.

    Raises:
        ArgumentValueError: the network takes other inputs, or has its own `preproc` or `postproc`.
        TiacfError: the network fails on features of the encoder's width.
    """
    label = type(network).__name__
    if isinstance(network, ModelABC) and (
        network.preproc_func is not ModelABC.preproc
        or network.postproc_func is not ModelABC.postproc
    ):
        raise ArgumentValueError(
            f"{label}: preproc and postproc are not used, a survival model is valid for its encoder's own "
            "patches; use a network without them"
        )
    if not any(name.startswith("x") for name in input_names(network)):
        raise ArgumentValueError(f"{label}: forward must take features by the names x5, x10 or x20")
    network.eval()
    bins = _count_bins(network, encoder.width)
    if not isinstance(network, SurvivalNetwork):
        network = PlainNetwork(network, encoder.width, bins).eval()
    # Not validated: the network need not be registered, since it is never loaded by its name.
    config = BundleConfig.model_construct(
        name=re.sub(r"[^A-Za-z0-9.-]+", "-", label).strip("-.") or "network",
        version="0",
        architecture=Architecture.model_construct(
            name=label, package=None, encoder_width=encoder.width, num_bins=bins
        ),
        sampling=sampling,
        encoder=encoder,
        time_bins=None,
        risk_reference=None,
        card=ModelCard(
            description=f"The network {label}, given without a model bundle.",
            cohort="unknown",
            licence="unknown",
            notice="Research only: a network without a model card. Not for clinical use.",
        ),
    )
    described = f"{label} {config.model_dump_json()} {state_dict_sha256(network)}"
    return ModelBundle(config, network, hashlib.sha256(described.encode()).hexdigest())


def _count_bins(network: nn.Module, width: int) -> int:
    """Return K, the number of hazards, by calling the network on features that are all 0."""
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    tokens = SlideTokens(
        {scale: torch.zeros(1, _TOKENS[scale], width, device=device) for scale in SCALES}
    )
    try:
        with torch.inference_mode():
            return call_network(network, tokens).hazards.shape[1]
    except TiacfError:
        raise
    except Exception as error:  # the user's code
        raise TiacfError(
            f"{type(network).__name__}: fails on features of width {width} ({one_line(error)}); give the "
            "encoder that it was made for"
        ) from error
