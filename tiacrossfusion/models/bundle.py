"""Model bundles: folders with `config.json` and `model.safetensors`, which contain no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tiacrossfusion.bags.bag import EXTRACT_AGAIN, FeatureBag, check_same
from tiacrossfusion.errors import MissingFileError, TiacfError, UsageError, one_line
from tiacrossfusion.io.arguments import usable_device
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.io.paths import is_there, missing
from tiacrossfusion.models.config import BundleConfig
from tiacrossfusion.models.files import (
    CONFIG,
    OPTIONAL,
    WEIGHTS,
    find_bundle,
    fingerprint,
    read_config,
)
from tiacrossfusion.models.from_coarse import FromCoarse
from tiacrossfusion.models.network import network_of, student_of
from tiacrossfusion.models.nuisances import Nuisances
from tiacrossfusion.networks.registry import STUDENTS
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.survival import interpolation

if TYPE_CHECKING:
    from torch import Tensor

    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.ensemble import Ensemble
    from tiacrossfusion.networks.tokens import SlideTokens


@dataclass(frozen=True)
class ModelBundle:
    """A trained model with its description.

    Attributes:
        config: architecture, sampling, encoder, time bins, risk reference and model card.
        network: the network in eval mode.
        fingerprint: hash of the bundle's files, which results record.
        from_coarse: what 5x tells of the patches inside, for predictions from a part of a slide; None if
            the bundle does not have it.
        nuisances: how far nuisances move the risk; None if the model was not audited on slides.
    """

    config: BundleConfig
    network: SurvivalNetwork
    fingerprint: str
    from_coarse: FromCoarse | None = None
    nuisances: Nuisances | None = None

    @cached_property
    def on_cpu(self) -> SurvivalNetwork:
        """The network on the CPU, a copy if it is elsewhere."""
        from tiacrossfusion.networks.pooling import on_cpu

        return on_cpu(self.network)

    @property
    def scales(self) -> tuple[str, ...]:
        """Scales that are read of a slide for the model, down to the finest that its network takes."""
        from tiacrossfusion.networks.calling import input_names

        taken = input_names(self.network)
        return SCALES[: 1 + max(i for i, s in enumerate(SCALES) if f"x{s[:-1]}" in taken)]

    def check_bag(self, bag: FeatureBag) -> None:
        """Check that a bag was made with the model's encoder and sampling.

        Raises:
            TiacfError: a field differs; the message names it.
        """
        made, label = bag.provenance, f"bag of {bag.provenance.slide}"
        remedy = (
            "convert its files with other options (--encoder, --units, --patch-size) if those say what "
            "is not so, else extract the slide for this model"
            if made.imported
            else EXTRACT_AGAIN
        )
        check_same(self.config.encoder, made.encoder, "encoder", label, remedy)
        check_same(self.config.sampling, made.sampling, "sampling", label, remedy)

    def covariates_of(self, values: Mapping[str, Any]) -> np.ndarray:
        """Return the covariates (C,) of the model, in its order, from raw values by name.

        Of a model of slide and record they are the codes of the record, NaN where a value is missing.

        Raises:
            TiacfError: a covariate of the model is missing, or is not a finite number.
        """
        record = self.config.architecture.record
        if record is not None:
            return record.codes(pd.DataFrame([dict(values)]))[0][0]
        names = self.config.architecture.covariates
        odd = [name for name in names if not np.isfinite(values.get(name, np.nan))]
        if odd:
            raise TiacfError(
                f"the model needs the covariates {', '.join(odd)}; give numbers for them"
            )
        return np.array([values[name] for name in names], dtype=np.float64)

    def tokens(self, bag: FeatureBag, covariates: np.ndarray | None = None) -> SlideTokens:
        """Return the tokens of a bag: a batch of one slide, float32, on the network's device.

        Args:
            bag: features of the slide.
            covariates: (C,) raw values of the patient, as `covariates_of` returns them, for a network that
                takes covariates; it standardises them by moments in its weights.

        Raises:
            TiacfError: the bag was made with another encoder or sampling, or an input of the network is
                missing or has the wrong length.
        """
        import torch

        from tiacrossfusion.networks.calling import check_tokens
        from tiacrossfusion.networks.tokens import SlideTokens

        self.check_bag(bag)
        tokens = SlideTokens.from_bag(bag)
        if covariates is not None:
            record = self.config.architecture.record
            names = self.config.architecture.covariates if record is None else record.names
            if names and covariates.shape != (len(names),):
                raise TiacfError(
                    f"covariates of shape {covariates.shape}; give one number for each of {', '.join(names)}"
                )
            tokens = replace(tokens, covariates=torch.from_numpy(covariates)[None])
        check_tokens(self.network, tokens, f"bag of {bag.provenance.slide}")
        return tokens.to(next(self.network.parameters()).device, torch.float32)

    def with_orders(self, orders: int) -> ModelBundle:
        """Return the model with predictions averaged over 8 orders of the tokens; the same one for 1.

        Raises:
            UsageError: it is neither, or the network does not depend on the order.
        """
        from tiacrossfusion.networks.orders import ORDERS, AveragedOrders

        if orders == 1:
            return self
        if orders != len(ORDERS):
            raise UsageError(f"orders is {orders}: give 1 or {len(ORDERS)}")
        digest = hashlib.sha256(f"{self.fingerprint} orders {orders}".encode()).hexdigest()
        return ModelBundle(self.config, AveragedOrders(self.network).eval(), digest)

    def with_weights(self, path: Path, device: str = "cpu") -> ModelBundle:
        """Return the same model on a device with the weights of another file, see `read_weights`.

        Raises:
            MissingFileError: the file does not exist.
            TiacfError: it cannot be read or does not fit the architecture.
        """
        if not is_there(path):
            raise MissingFileError(f"{path}: {missing(path)}; check the path of the weights")
        network = _load_network(self.config, path)
        digest = hashlib.sha256(self.fingerprint.encode() + path.read_bytes()).hexdigest()
        return ModelBundle(self.config, network.to(device).eval(), digest)


def load_bundle(model: str | Path, device: str = "cpu") -> ModelBundle:
    """Load a model bundle by name, folder or hub id.

    Args:
        model: name of a shipped bundle ("crossfusion-demo"), a bundle folder, or a Hugging Face hub id
            ("owner/name"); only a hub id may access the internet.
        device: torch device of the network.

    Raises:
        TiacfError: the bundle does not exist, is damaged, inconsistent or of a newer format, or the device
            is unavailable.
    """
    usable_device(device)
    folder = model if isinstance(model, Path) else find_bundle(model)
    config = read_config(folder)
    network = _load_network(config, folder / WEIGHTS)
    return ModelBundle(
        config,
        network.to(device).eval(),
        fingerprint(folder),
        FromCoarse.load(folder),
        Nuisances.load(folder, config.encoder.width),
    )


def save_bundle(folder: Path, config: BundleConfig, network: SurvivalNetwork) -> None:
    """Write a bundle into a folder, creating it if necessary; each file is replaced atomically.

    Raises:
        TiacfError: the folder cannot be written.
    """
    from safetensors.torch import save

    weights = {key: tensor.contiguous().cpu() for key, tensor in network.state_dict().items()}
    text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in OPTIONAL:  # of other weights
            (folder / name).unlink(missing_ok=True)
        for name, content in ((WEIGHTS, save(weights)), (CONFIG, text.encode())):
            with replacing(folder / name) as part:
                part.write_bytes(content)
    except OSError as error:
        raise TiacfError(
            f"{folder}: the bundle cannot be written ({error.strerror}); check the folder's permissions "
            "and free space, or give another folder"
        ) from error


def make_ensemble(members: Sequence[SurvivalNetwork], config: BundleConfig) -> Ensemble:
    """Return networks as the ensemble that a config with `members` describes."""
    import torch

    from tiacrossfusion.networks.ensemble import Ensemble

    edges = np.asarray(config.time_bins.edges[1:]) if config.time_bins is not None else np.empty(0)
    weights = np.stack([interpolation(bins, edges) for bins in config.members])
    return Ensemble(members, torch.from_numpy(weights).float())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network, `.safetensors` or a state dict from `torch.save`, running no code in it.

    The prefixes that `DataParallel` and `CrossFusionModel` add to names are removed.

    Raises:
        TiacfError: the file cannot be read, or does not hold a state dict.
    """
    from safetensors.torch import load_file
    from torch import Tensor

    from tiacrossfusion.io.tensor_files import load_tensors

    if is_there(path) and not path.is_file():
        raise TiacfError(f"{path}: is not a file; get the bundle again")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else load_tensors(path)
    except Exception as error:  # safetensors, torch and the file system raise many kinds
        raise TiacfError(
            f"{path}: the weights cannot be read ({one_line(error)}); get the bundle again"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise TiacfError(
            f"{path}: is not a state dict; save it with torch.save(model.state_dict())"
        )
    for prefix in ("module.", "network."):
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return content


def _load_network(config: BundleConfig, path: Path) -> SurvivalNetwork:
    """Return the network of a config with the weights of a file."""
    import torch

    weights = read_weights(path)
    # On "meta" no weights are drawn; a user's own network may need values while it is built.
    own = config.architecture.package is not None
    # Of a student in closed form, the members are those of its teacher.
    student = config.architecture if config.architecture.name in STUDENTS else None
    single = config.architecture if student is None else student.slide
    assert single is not None  # noqa: S101 - the schema has looked
    with torch.random.fork_rng(devices=()), torch.device("cpu" if own else "meta"):
        try:
            networks = [network_of(single)]
            network = networks[0] if student is None else student_of(student, networks[0])
        except UsageError as error:  # the file is wrong, not an option
            raise TiacfError(f"{path.with_name(CONFIG)}: architecture: {error}") from error
        each, count = len(networks[0].state_dict()), len(config.members) or 1
        further = len(network.state_dict()) - each
        if config.members and len(weights) != each * count + further:  # before so many are built
            raise TiacfError(
                f"{path}: the weights do not fit {CONFIG} ({len(weights)} tensors for {count} members "
                f"of {each}); get the bundle again"
            )
        networks += [network_of(single) for _ in config.members[1:]]
    if config.members:
        network = make_ensemble(networks, config)
        network = network if student is None else student_of(student, network)
    wanted = network.state_dict()
    for name, tensor in weights.items():
        if not tensor.is_floating_point() and (
            name not in wanted or wanted[name].is_floating_point()
        ):
            raise TiacfError(
                f"{path}: the weights {name!r} are {tensor.dtype}, not floats; get the bundle again"
            )
        weights[name] = tensor.float() if tensor.is_floating_point() else tensor
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise TiacfError(
            f"{path}: the weights do not fit {CONFIG} ({one_line(error)}); get the bundle again"
        ) from error
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise TiacfError(f"{path}: the weights are not finite; get the bundle again")
    if not any(bool(tensor.any()) for tensor in weights.values()):
        raise TiacfError(f"{path}: all weights are 0; get the bundle again")
    return network
