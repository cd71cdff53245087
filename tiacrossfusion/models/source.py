"""Models and encoders by name, which each process of a run loads once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.paths import is_folder

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.models.config import BundleConfig


@dataclass(frozen=True)
class LoadedModel:
    """A model bundle and an encoder in memory, or one of them.

    Attributes:
        encoder: computes features of patches; None for predictions from bags.
        bundle: the model; None if only features are extracted.
    """

    encoder: Encoder | None = None
    bundle: ModelBundle | None = None

    def load(self) -> LoadedModel:
        """Return self, so that a loaded model can be used as a `ModelSource`."""
        return self

    @property
    def identity(self) -> str:
        """What the results depend on, which must be equal on all workers of a cluster."""
        encoder = "" if self.encoder is None else self.encoder.spec.model_dump_json()
        return encoder + ("" if self.bundle is None else self.bundle.fingerprint)

    def config(self) -> BundleConfig:
        """Return the description of the model, or raise as `need_bundle`."""
        return self.need_bundle().config

    def need_encoder(self) -> Encoder:
        """Return the encoder, or raise UsageError if it is missing."""
        if self.encoder is None:
            raise UsageError("no encoder is given; see --encoder and --encoder-weights")
        return self.encoder

    def need_bundle(self) -> ModelBundle:
        """Return the model bundle, or raise UsageError if it is missing."""
        if self.bundle is None:
            raise UsageError("no model is given; see --model")
        return self.bundle


@dataclass(frozen=True)
class ModelSource:
    """Names of an encoder and a model, which each process loads once.

    Attributes:
        encoder: name of an encoder; None for the model's.
        model: name of a model, folder of a bundle or hub id; None if only features are extracted.
        model_weights: weights file of the network, instead of the bundle's.
        weights: local weights file of the encoder.
        device: torch device.
        precision: of the encoder's arithmetic; "auto" depends on the device.
        with_encoder: False for predictions from bags.
        orders: 8 averages predictions over eight orders of the tokens.
        plugins: modules or Python files that register a user's encoders and networks.
    """

    encoder: str | None = None
    model: str | None = None
    model_weights: str | None = None
    weights: str | None = None
    device: str = "cpu"
    precision: str = "auto"
    with_encoder: bool = True
    orders: int = 1
    plugins: tuple[str, ...] = ()

    def load(self) -> LoadedModel:
        """Load encoder and model, or return those that this process has already loaded.

        Raises:
            TiacfError: a name is unknown, a file is missing or damaged, or the device is unavailable.
        """
        return _load(self)

    def absolute(self) -> ModelSource:
        """Return the same with absolute paths, for processes with other working folders."""

        def absolute(path: str | None) -> str | None:
            return None if path is None else str(Path(path).absolute())

        model = self.model
        return replace(
            self,
            model=absolute(model) if model and is_folder(Path(model)) else model,
            model_weights=absolute(self.model_weights),
            weights=absolute(self.weights),
        )

    def config(self) -> BundleConfig:
        """Return the description of the model, read on the CPU: only workers may have the device.

        Raises:
            TiacfError: no model is named, or it is unknown or damaged.
        """
        return replace(self, encoder=None, device="cpu", with_encoder=False).load().config()


@cache
def _load(source: ModelSource) -> LoadedModel:
    from tiacrossfusion.encoders.loading import load_encoder
    from tiacrossfusion.encoders.stored import load_encoder_of
    from tiacrossfusion.io.arguments import usable_device
    from tiacrossfusion.io.plugins import load_plugins
    from tiacrossfusion.models.bundle import load_bundle

    load_plugins(source.plugins)
    usable_device(source.device)
    bundle = None if source.model is None else load_bundle(source.model, source.device)
    if bundle is not None and source.model_weights is not None:
        bundle = bundle.with_weights(Path(source.model_weights), source.device)
    if bundle is not None:
        bundle = bundle.with_orders(source.orders)
    encoder = None
    how: Any = {"weights": source.weights, "device": source.device, "precision": source.precision}
    if source.encoder is not None:
        encoder = load_encoder(source.encoder, **how)
    elif bundle is not None and source.with_encoder:
        encoder = load_encoder_of(bundle.config.encoder, **how)
    return LoadedModel(encoder, bundle)
