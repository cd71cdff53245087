"""Find the feature bags that a path stands for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from tiacrossfusion.bags.stores import bag_suffixes
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.paths import is_there, missing


def find_bags(source: Path, remedy: str = "make them with tiacf extract") -> list[Path]:
    """Return the bags that a path stands for, sorted by name.

    Args:
        source: a bag, or a folder of bags.
        remedy: for the message where no bag is found.

    Raises:
        TiacfError: the path does not exist, or holds no bag.
    """
    suffixes = bag_suffixes()
    kinds = ", ".join(f"*{suffix}" for suffix in suffixes)
    try:
        if not is_there(source):
            raise UsageError(f"{source}: {missing(source)}; check --bags")
        if source.suffix in suffixes:
            return [source]
        if not source.is_dir():
            raise UsageError(
                f"{source}: a file is no bag; give a folder of bags ({kinds}) or one bag"
            )
        # A name with a dot first is that of a bag that is being written.
        found = [
            store
            for store in sorted(source.iterdir())
            if store.name[0] != "." and store.suffix in suffixes
        ]
    except OSError as error:
        raise TiacfError(f"{source}: cannot be read ({error.strerror}); check --bags") from error
    if not found:
        raise UsageError(f"{source}: holds no bag ({kinds}); {remedy}")
    for one, other in pairwise(found):
        if one.stem == other.stem:
            raise UsageError(
                f"{source}: {one.name} and {other.name} are bags of one name; move one of them away"
            )
    return found
