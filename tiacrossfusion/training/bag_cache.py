"""Uncompressed features of bags on disk, read memory-mapped.

Reading a bag means decompression and checksums, every epoch again once a cohort does not fit into memory. A
memory-mapped file takes none of this, and its pages go back to the system when memory is short.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import torch

from tiacrossfusion.io.atomic import replacing, writing
from tiacrossfusion.networks.tokens import SlideTokens

#: Room that is left on the disk, as a share of what the cache takes.
_SPARE = 0.1


class BagCache:
    """A folder with one file for the features, and one for the grid, of each scale of a bag.

    Files are named after the hash of the bag's content and get their name once they are complete. So several
    runs may share a folder, and a run that was killed goes on with what is there.

    Args:
        folder: made when the first bag is written.
    """

    def __init__(self, folder: Path) -> None:
        """Set the folder; the disk is not touched."""
        self.folder = folder

    def lacking(self, needed: int) -> str:
        """Return why `needed` bytes cannot be written; empty if they can."""
        place = next(p for p in (self.folder, *self.folder.absolute().parents) if p.is_dir())
        free = shutil.disk_usage(place).free
        if free >= needed * (1 + _SPARE):
            return ""
        return f"{place} has {free / 2**30:.1f} GiB free, {needed * (1 + _SPARE) / 2**30:.1f} are needed"

    def write(self, name: str, tokens: SlideTokens) -> None:
        """Write the features and grids of one slide under the hash of its bag.

        Raises:
            TiacfError: the folder cannot be written.
        """
        with writing(self.folder):
            self._write(name, tokens)

    def _write(self, name: str, tokens: SlideTokens) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for kind, parts in (("x", tokens.features), ("grid", tokens.grid)):
            for scale, values in parts.items():
                path = self._path(name, kind, scale)
                array = values[0].numpy()
                if path.exists() and path.stat().st_size == _size(array):
                    continue
                with replacing(path) as part, part.open("wb") as file:
                    np.save(file, array)

    def read(self, name: str, scales: tuple[str, ...], grids: tuple[str, ...]) -> SlideTokens:
        """Return the tokens of one slide, whose arrays are read from disk as they are used."""
        return SlideTokens(
            {scale: self._mapped(name, "x", scale) for scale in scales},
            {scale: self._mapped(name, "grid", scale) for scale in grids},
        )

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str, kind: str, scale: str) -> Path:
        return self.folder / f"{name}-{kind}{scale}.npy"

    def _mapped(self, name: str, kind: str, scale: str) -> torch.Tensor:
        # Copy-on-write, so that torch takes the array as writable; nothing writes to it.
        return torch.from_numpy(np.lib.format.open_memmap(self._path(name, kind, scale), mode="c"))[
            None
        ]


def _size(array: np.ndarray) -> int:
    """Return the bytes of the file of an array."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return len(header.getvalue()) + array.nbytes
