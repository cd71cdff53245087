"""Kinds of bag stores by suffix: zarr, those of installed packages, and your own.

Your own store is a class with two methods::

    @STORES.register("npz")
    class NpzStore:
        def save(self, bag: FeatureBag, path: Path) -> None: ...
        def load(self, path: Path) -> FeatureBag: ...

A package declares the class as an entry point of the group `tiacrossfusion.bag_stores`; a file is given
with `--plugin`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from tiacrossfusion.io.registry import Registry


class BagStore(Protocol):
    """Writes and reads one kind of file or folder with all that a bag holds."""

    def save(self, bag: Any, path: Path) -> None:
        """Write a `FeatureBag` to a path where nothing lies; `FeatureBag.save` moves it into place.

        Raises:
            OSError: it cannot be written.
        """

    def load(self, path: Path) -> Any:
        """Read a `FeatureBag`.

        Raises:
            TiacfError: it is damaged. `FeatureBag.load` turns other errors into one line.
        """


#: Each is registered under its suffix, without the dot.
STORES: Registry[type[BagStore]] = Registry(
    "bag store", "tiacrossfusion.bag_stores", {"zarr": "tiacrossfusion.bags.zarr_store:ZarrStore"}
)


def bag_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all kinds of stores, such as ".zarr"."""
    return tuple(f".{name}" for name in STORES.names())


def store_of(path: Path) -> BagStore:
    """Return the kind of store that the suffix of a path names; without a suffix it is zarr.

    Raises:
        UsageError: there is no such kind.
    """
    return STORES[path.suffix.removeprefix(".") or "zarr"]()


def bag_stem(name: str) -> str:
    """Return the name of a bag without the suffix of its store; another name as it is."""
    path = Path(name)
    return path.stem if path.suffix in bag_suffixes() else name
