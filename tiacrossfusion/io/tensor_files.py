"""PyTorch's files of tensors, read without running code and without allocating more than they hold."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor


def load_tensors(path: str | Path, map_location: Any = "cpu") -> Any:
    """Unpickle tensors and plain containers, and nothing else.

    A file of a few bytes may declare tensors that fill any memory: compressed in its archive, or as one
    number that is repeated. Both are refused; weights and features are never stored so.

    Args:
        path: file that `torch.save` wrote.
        map_location: as for `torch.load`.

    Returns:
        What was saved.

    Raises:
        pickle.UnpicklingError: the file holds more than tensors and plain values.
        OSError: it cannot be read.
        ValueError: it declares more than it holds.
        Exception: it is not a file of tensors, or damaged: KeyError, IndexError, EOFError,
            UnicodeDecodeError, RuntimeError and others were seen.
    """
    path = Path(path)
    if zipfile.is_zipfile(path):
        _check_archive(path)
        content = torch.load(path, map_location=map_location, weights_only=True)
    else:  # the format before PyTorch 1.6, or another file
        # Reading from a file allocates as many bytes as the pickle declares; a memory map returns only
        # those that exist.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            content = torch.load(
                cast(IO[bytes], view), map_location=map_location, weights_only=True
            )
    _check_tensors(content)
    return content


def _check_archive(path: Path) -> None:
    """Refuse a compressed archive; torch stores tensors uncompressed."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError(f"packed to {path.stat().st_size} of {unpacked} bytes")


def _check_tensors(content: object) -> None:
    """Refuse tensors with more values than the file holds."""
    waiting: list[object] = [content]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if value.device.type == "meta" or value.layout is not torch.strided:
                raise ValueError("holds tensors without their values")
            if value.untyped_storage().nbytes() < value.numel() * value.element_size():
                raise ValueError(f"a tensor {tuple(value.shape)} repeats fewer values")
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # a list may contain itself
            waiting += value.values() if isinstance(value, Mapping) else value
