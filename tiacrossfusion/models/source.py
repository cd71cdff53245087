"""Models and encoders by name, from which each process of a run loads them once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

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
        encoder: turns patches into features; None where there are bags already.
        bundle: the model; None where only features are made.
    """

    encoder: Encoder | None = None
    bundle: ModelBundle | None = None

    def load(self) -> LoadedModel:
        """Return self, as `ModelSource.load` returns a loaded model."""
        return self

    @property
    def identity(self) -> str:
        """What decides results; the workers of a cluster must agree on it."""
        encoder = "" if self.encoder is None else self.encoder.spec.model_dump_json()
        return encoder + ("" if self.bundle is None else self.bundle.fingerprint)

    def config(self) -> BundleConfig:
        """Return the description of the model.

        Raises:
            UsageError: there is no model.
        """
        return self.need_bundle().config

    def need_encoder(self) -> Encoder:
        """Return the encoder.

        Raises:
            UsageError: there is no encoder.
        """
        if self.encoder is None:
            raise UsageError("no encoder is given; see --encoder and --encoder-weights")
        return self.encoder

    def need_bundle(self) -> ModelBundle:
        """Return the model bundle.

        Raises:
            UsageError: there is no model.
        """
        if self.bundle is None:
            raise UsageError("no model is given; see --model")
        return self.bundle


@dataclass(frozen=True)
class ModelSource:
    """Names from which each process loads an encoder and a model once.

    Attributes:
        encoder: name of an encoder; None takes the model's.
        model: name of a model, folder of a bundle or hub id; None where only features are made.
        model_weights: weights file of the network to take instead of the bundle's.
        weights: local weights file of the encoder.
        device: torch device.
        precision: of the encoder's arithmetic; "auto" fits the device.
        with_encoder: False where there are bags already.
        plugins: modules or Python files that register the user's own encoders and networks.
    """

    encoder: str | None = None
    model: str | None = None
    model_weights: str | None = None
    weights: str | None = None
    device: str = "cpu"
    precision: str = "auto"
    with_encoder: bool = True
    plugins: tuple[str, ...] = ()

    def load(self) -> LoadedModel:
        """Load them, or return what this process has loaded before.

        Raises:
            TiacfError: a name is unknown, a file missing or damaged, or the device is not there.
        """
        return _load(self)

    def absolute(self) -> ModelSource:
        """Return the same with absolute paths, which processes with other working folders find too."""

        def absolute(path: str | None) -> str | None:
            return None if path is None else str(Path(path).absolute())

        return replace(
            self,
            model=absolute(self.model)
            if self.model and is_folder(Path(self.model))
            else self.model,
            model_weights=absolute(self.model_weights),
            weights=absolute(self.weights),
        )

    def config(self) -> BundleConfig:
        """Return the description of the model, read here: the device may be one of the workers'.

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
    encoder = None
    weights, device, precision = source.weights, source.device, source.precision
    if source.encoder is not None:
        encoder = load_encoder(source.encoder, weights=weights, device=device, precision=precision)
    elif bundle is not None and source.with_encoder:
        encoder = load_encoder_of(
            bundle.config.encoder, weights=weights, device=device, precision=precision
        )
    return LoadedModel(encoder, bundle)
