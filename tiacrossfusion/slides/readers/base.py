"""The interface of patch readers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from tiacrossfusion.slides.grid import PatchGrid

#: Reads the patch at an index of a scale's grid: (patch_size, patch_size, 3) uint8 RGB.
ReadPatch = Callable[[str, int], np.ndarray]


class UnreadableError(Exception):
    """A patch overlaps a damaged part of the file; the message says what is wrong with it."""


class PatchReader(AbstractContextManager["PatchReader"]):
    """Reads patches of one slide. Leave its `with` block before the slide is closed.

    Attributes:
        name: "tiles", or "WSIReader: " and why not tiles.
    """

    name: str

    @abstractmethod
    def reading(self, grids: dict[str, PatchGrid]) -> ReadPatch:
        """Prepare to read each patch of some grids once, in any order, from several threads.

        Args:
            grids: the cells to read, per scale.

        Returns:
            A function of scale and index that reads a patch; what lies beyond the slide is white. It
            raises `UnreadableError` where the file is damaged.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the files that the reader has opened."""

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        self.close()
