"""The files of a model bundle: finding the folder and reading `config.json`."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tiacrossfusion.encoders.hub import offline_variable
from tiacrossfusion.errors import ArgumentValueError, TiacfError, first_fault, one_line
from tiacrossfusion.io.paths import is_file, is_folder, is_there, missing
from tiacrossfusion.models.config import FORMAT_VERSION, BundleConfig
from tiacrossfusion.text import FORMULA_SIGNS, printable

CONFIG, WEIGHTS, FROM_COARSE = "config.json", "model.safetensors", "from_5x.safetensors"
NUISANCES = "nuisances.safetensors"

#: Files that a bundle may lack.
OPTIONAL = (FROM_COARSE, NUISANCES)

# In bytes; the config of an ensemble of a thousand members has a tenth of it.
_LARGEST_CONFIG = 2**24

# Texts that become cells of predictions.csv; `TimeBins` checks the unit of time.
_IN_TABLES = re.compile(r"card\.notice$|risk_reference\.groups\.\d\.name$")

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def shipped_bundles() -> dict[str, Path]:
    """Return the folders of the bundles in this package, by name."""
    root = Path(str(files("tiacrossfusion.models") / "bundles"))
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / CONFIG).is_file()}


def find_bundle(model: str) -> Path:
    """Return the folder of a bundle given by name, path or hub id; a hub id is downloaded.

    Raises:
        TiacfError: there is no such bundle.
    """
    shipped = shipped_bundles()
    if model in shipped:
        return shipped[model]
    path = Path(model)
    if model and is_folder(path):  # an empty name would be the current folder
        return path
    if is_file(path):
        raise ArgumentValueError(
            f"{model}: is a file; give a model bundle, which is a folder with {CONFIG}, or make one from a "
            "checkpoint with: tiacf import-checkpoint"
        )
    try:
        path.stat()
    except PermissionError as error:
        raise ArgumentValueError(f"{model}: {missing(path)}; ask for access to it") from error
    except (OSError, ValueError):  # does not exist, or is not a path
        pass
    if _HUB_ID.match(model) and not model.startswith("."):
        return _download(model)
    near = difflib.get_close_matches(model, shipped, n=1, cutoff=0.4)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise ArgumentValueError(
        f"{model}: unknown model; {hint}"
        "`tiacf models` lists the names; a bundle folder or a hub id (owner/name) works too"
    )


def _download(hub_id: str) -> Path:
    """Download a bundle from the Hugging Face hub, or find it in the cache."""
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
    except Exception as error:  # of many types: network, proxy, authorisation, unknown id
        forbidden = offline_variable()
        reason = (
            f"{forbidden} is set, so the hub was not contacted" if forbidden else one_line(error)
        )
        raise TiacfError(
            f"{hub_id}: no such folder, and it could not be downloaded from the hub ({reason}); download "
            "it elsewhere and give its folder"
        ) from error


def read_config(folder: Path) -> BundleConfig:
    """Read and check the `config.json` of a bundle folder.

    Raises:
        TiacfError: it is missing, not JSON, of a newer format, or a field is invalid.
    """
    path = folder / CONFIG
    if is_there(path) and not path.is_file():  # reading a pipe would block
        raise TiacfError(f"{path}: is not a file; get the bundle again")
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
            f"{path}: {field}: {reason}; correct the field or get the bundle again"
        ) from error
    _check_texts(path, document)
    return config


def fingerprint(folder: Path, optional: Sequence[str] = OPTIONAL) -> str:
    """Return a hash of the files of a bundle, and of some that it may lack."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS, *optional):
        if name not in optional or (folder / name).exists():
            digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a repeated field, since programs differ in which value they use."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(
            name for name, count in Counter(name for name, _ in pairs).items() if count > 1
        )
        raise ValueError(f"the field {twice!r} occurs twice")
    return fields


def _no_number(constant: str) -> Any:
    """Refuse NaN and Infinity, which Python reads although they are not JSON."""
    raise ValueError(f"{constant} is not a number")


def _check_texts(path: Path, document: Any) -> None:
    """Refuse control characters, which act in a terminal, and formulas in texts of a table."""
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
                "formula; correct the field or get the bundle again"
            )
