"""Model bundles: a folder with `config.json` and `model.safetensors`, and nothing that executes."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from tiacrossfusion.bags.bag import EXTRACT_AGAIN, FeatureBag, check_same
from tiacrossfusion.encoders.hub import offline_variable
from tiacrossfusion.errors import (
    ArgumentValueError,
    MissingFileError,
    TiacfError,
    UsageError,
    first_fault,
    one_line,
)
from tiacrossfusion.io.arguments import usable_device
from tiacrossfusion.io.paths import is_file, is_folder, is_there, missing
from tiacrossfusion.io.text import FORMULA_SIGNS, printable
from tiacrossfusion.models.config import FORMAT_VERSION, BundleConfig
from tiacrossfusion.models.network import build_network
from tiacrossfusion.survival import interpolation

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"

#: In bytes; an ensemble of a thousand has a tenth of it.
_LARGEST_CONFIG = 2**24

#: Texts that are cells of predictions.csv; the unit of time is checked by `TimeBins`.
_IN_TABLES = re.compile(r"card\.notice$|risk_reference\.groups\.\d\.name$")

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


@dataclass(frozen=True)
class ModelBundle:
    """A trained model with all that belongs to it.

    Attributes:
        config: architecture, sampling, encoder, time bins, risk reference and model card.
        network: the network in eval mode.
        fingerprint: hash of `config.json` and the weights; results carry it.
    """

    config: BundleConfig
    network: nn.Module
    fingerprint: str

    def check_bag(self, bag: FeatureBag) -> None:
        """Refuse a bag made with another encoder or sampling, saying which field differs.

        Raises:
            TiacfError: a field differs.
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

    def tokens(self, bag: FeatureBag) -> dict[str, Tensor]:
        """Give the features of a bag as the network takes them.

        Returns:
            A batch of one for each scale, (1, N, E) float32 on the network's device.

        Raises:
            TiacfError: the bag was made with another encoder or sampling, or has no patches at a scale.
        """
        import torch

        self.check_bag(bag)
        empty = [scale for scale, patches in bag.counts().items() if patches == 0]
        if empty:
            raise TiacfError(
                f"bag of {bag.provenance.slide}: no patches at {', '.join(empty)}; extract it again"
            )
        device = next(self.network.parameters()).device
        return {
            scale: torch.from_numpy(features.features).to(device, torch.float32)[None]
            for scale, features in bag.scales.items()
        }

    def with_weights(self, path: Path) -> ModelBundle:
        """Return the same model with the weights of another file.

        Args:
            path: `.safetensors`, or a state dict that `torch.save` wrote; no code in it is run.

        Raises:
            MissingFileError: the file does not exist.
            TiacfError: it cannot be read or does not fit the architecture.
        """
        if not is_there(path):
            raise MissingFileError(f"{path}: {missing(path)}; check the path of the weights")
        network = _load_network(self.config, path)
        digest = hashlib.sha256(self.fingerprint.encode() + path.read_bytes()).hexdigest()
        return ModelBundle(self.config, network.eval(), digest)


def shipped_bundles() -> dict[str, Path]:
    """Bundles inside this package, by name."""
    root = Path(str(files("tiacrossfusion.models") / "bundles"))
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / CONFIG).is_file()}


def load_bundle(model: str | Path, device: str = "cpu") -> ModelBundle:
    """Load a model bundle by name, folder or hub id.

    Args:
        model: name of a shipped bundle ("crossfusion-demo"), a bundle folder, or a Hugging Face hub id
            ("owner/name"), which is the only case that may use the network.
        device: torch device of the network.

    Raises:
        TiacfError: there is no such bundle, it is damaged, of a newer format or inconsistent, or the
            device is not there.
    """
    usable_device(device)
    folder = model if isinstance(model, Path) else _find(model)
    config = read_config(folder)
    network = _load_network(config, folder / WEIGHTS)
    return ModelBundle(config, network.to(device).eval(), _fingerprint(folder))


def read_config(folder: Path) -> BundleConfig:
    """Read and check the `config.json` of a bundle folder, without its weights.

    Raises:
        TiacfError: it is missing, no JSON, of a newer format, or a field is wrong.
    """
    path = folder / CONFIG
    if is_there(path) and not path.is_file():  # reading a pipe would wait for ever
        raise TiacfError(f"{path}: is no file; get the bundle again")
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise TiacfError(f"{path}: is far too large for a {CONFIG}; get the bundle again")
        document = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_no_number
        )
    except OSError as error:
        raise TiacfError(
            f"{folder}: no readable {CONFIG}; a model bundle is a folder with {CONFIG} and {WEIGHTS}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TiacfError(
            f"{path}: not valid JSON ({one_line(error)}); get the bundle again"
        ) from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise TiacfError(
            f"{path}: bundle format {version}, this program reads up to {FORMAT_VERSION}; "
            "update tiacrossfusion"
        )
    try:
        config = BundleConfig.model_validate_json(json.dumps(document))
    except ValidationError as error:
        field, reason = first_fault(error)
        raise TiacfError(
            f"{path}: {field}: {reason}; mend the field or get the bundle again"
        ) from error
    _check_texts(path, document)
    return config


def save_bundle(folder: Path, config: BundleConfig, network: nn.Module) -> None:
    """Write a bundle into a folder, which is made if need be; each file is replaced in one step.

    Raises:
        TiacfError: the folder cannot be written.
    """
    from safetensors.torch import save

    weights = {key: tensor.contiguous().cpu() for key, tensor in network.state_dict().items()}
    text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in ((WEIGHTS, save(weights)), (CONFIG, text.encode())):
            part = folder / f".{name}.{uuid.uuid4().hex[:8]}.part"
            try:
                part.write_bytes(content)
                os.replace(part, folder / name)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise TiacfError(
            f"{folder}: the bundle cannot be written ({error.strerror}); check the folder's rights and "
            "free space, or give another"
        ) from error


def _find(model: str) -> Path:
    """Folder of a bundle given by name, path or hub id."""
    shipped = shipped_bundles()
    if model in shipped:
        return shipped[model]
    path = Path(model)
    if model and is_folder(path):  # of no name, Path makes the folder that we are in
        return path
    if is_file(path):
        raise ArgumentValueError(
            f"{model}: a file is no model bundle; give the folder that holds {CONFIG}, or make "
            "one from a checkpoint with: tiacf import-checkpoint"
        )
    try:
        path.stat()
    except PermissionError as error:
        raise ArgumentValueError(f"{model}: {missing(path)}; ask for the right to") from error
    except (OSError, ValueError):  # not there, or no path
        pass
    if _HUB_ID.match(model) and not model.startswith("."):
        return _download(model)
    near = difflib.get_close_matches(model, shipped, n=1, cutoff=0.4)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise ArgumentValueError(
        f"{model}: unknown model; {hint}"
        "`tiacf models` lists the names, a bundle folder or a hub id (owner/name) serve too"
    )


def _download(hub_id: str) -> Path:
    """Fetch a bundle from the Hugging Face hub, or from its cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                hub_id,
                allow_patterns=[CONFIG, WEIGHTS],
                local_files_only=offline_variable() is not None,
                etag_timeout=5,
            )
        )
    except Exception as error:  # network, proxy, authorisation, unknown id: many kinds
        forbidden = offline_variable()
        reason = f"{forbidden} forbids to ask it" if forbidden else one_line(error)
        raise TiacfError(
            f"{hub_id}: no such folder here, and the hub gave no such bundle ({reason}); "
            "download it elsewhere and give its folder"
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a field that is there twice: programs differ in which one they take."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(
            name for name, count in Counter(name for name, _ in pairs).items() if count > 1
        )
        raise ValueError(f"the field {twice!r} is there twice")
    return fields


def _no_number(constant: str) -> Any:
    """Refuse NaN and Infinity, which JSON does not know and Python reads all the same."""
    raise ValueError(f"{constant} is no number")


def _check_texts(path: Path, document: Any) -> None:
    """Refuse texts that do something where they are shown: on a terminal, or in a table's cell.

    Raises:
        TiacfError: a text holds control characters, or begins as a formula.
    """
    waiting = [("", document)]
    while waiting:
        field, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{field}.{name}".strip("."), each) for name, each in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{field}.{number}", each) for number, each in enumerate(value)]
        elif isinstance(value, str) and value != printable(value, keep="\n\t"):
            raise TiacfError(
                f"{path}: {printable(field)}: holds control characters; get the bundle again"
            )
        elif isinstance(value, str) and _IN_TABLES.match(field) and value.startswith(FORMULA_SIGNS):
            raise TiacfError(
                f"{path}: {printable(field)}: begins with {value[0]!r}, which spreadsheets take for a "
                "formula; mend the field or get the bundle again"
            )


def make_ensemble(members: Sequence[nn.Module], config: BundleConfig) -> nn.Module:
    """Put networks together as the ensemble that a config with `members` describes."""
    import torch

    from tiacrossfusion.networks.ensemble import Ensemble

    edges = np.asarray(config.time_bins.edges[1:]) if config.time_bins is not None else np.empty(0)
    weights = np.stack([interpolation(bins, edges) for bins in config.members])
    return Ensemble(members, torch.from_numpy(weights).float())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network without running code from the file.

    Args:
        path: `.safetensors`, or a state dict that `torch.save` wrote. The prefixes that `DataParallel` and
            `CrossFusionModel` give to names are removed.

    Raises:
        TiacfError: the file cannot be read, or holds something other than a state dict.
    """
    from safetensors.torch import load_file
    from torch import Tensor

    from tiacrossfusion.io.tensor_files import load_tensors

    if is_there(path) and not path.is_file():
        raise TiacfError(f"{path}: is no file; get the bundle again")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else load_tensors(path)
    except Exception as error:  # safetensors, torch and the file system raise many kinds
        raise TiacfError(
            f"{path}: the weights cannot be read ({one_line(error)}); get the bundle again"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise TiacfError(f"{path}: is no state dict; save it with torch.save(model.state_dict())")
    for prefix in ("module.", "network."):
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return content


def _load_network(config: BundleConfig, path: Path) -> nn.Module:
    """Make the network of a config with the weights of a file.

    Raises:
        TiacfError: the file cannot be read or does not fit.
    """
    import torch

    weights = read_weights(path)
    odd = next((name for name, tensor in weights.items() if not tensor.is_floating_point()), None)
    if odd is not None:
        raise TiacfError(
            f"{path}: the weights {odd!r} are {weights[odd].dtype}, not floats; get the bundle again"
        )
    weights = {name: tensor.float() for name, tensor in weights.items()}
    with torch.device("meta"):  # no random weights, which would also move the global seed
        try:
            networks = [build_network(config.architecture)]
        except UsageError as error:  # in training it is one, here it stands in a file
            raise TiacfError(f"{path.with_name(CONFIG)}: architecture: {error}") from error
        each, count = len(networks[0].state_dict()), len(config.members) or 1
        if config.members and len(weights) != each * count:  # before that many are made
            raise TiacfError(
                f"{path}: the weights do not fit {CONFIG} ({len(weights)} tensors for {count} members "
                f"of {each}); get the bundle again"
            )
        networks += [build_network(config.architecture) for _ in config.members[1:]]
    network = make_ensemble(networks, config) if config.members else networks[0]
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = one_line(error)
        raise TiacfError(
            f"{path}: the weights do not fit {CONFIG} ({reason}); get the bundle again"
        ) from error
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise TiacfError(f"{path}: the weights are not finite; get the bundle again")
    if not any(bool(tensor.any()) for tensor in weights.values()):
        raise TiacfError(f"{path}: all weights are 0, no model is like that; get the bundle again")
    return network


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()
