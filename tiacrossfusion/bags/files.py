"""Find the feature bags at a path."""

from __future__ import annotations

from pathlib import Path

from tiacrossfusion.bags.stores import bag_suffixes
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.paths import is_there, missing


def find_bags(source: Path, remedy: str = "make them with tiacf extract") -> list[Path]:
    """Return the bags at a path, a bag or a folder of bags, sorted by name.

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
        found = bags_in(source)
    except OSError as error:
        raise TiacfError(f"{source}: cannot be read ({error.strerror}); check --bags") from error
    if not found:
        raise UsageError(f"{source}: holds no bag ({kinds}); {remedy}")
    names: dict[str, str] = {}
    for bag in found:
        other = names.setdefault(bag.stem, bag.name)
        if other != bag.name:
            raise UsageError(
                f"{source}: {other} and {bag.name} are bags of one name; move one of them away"
            )
    return found


def bags_in(folder: Path) -> list[Path]:
    """Return the bags in a folder, sorted by name; a leading dot marks one that is being written.

    Raises:
        OSError: the folder cannot be read.
    """
    suffixes = bag_suffixes()
    return sorted(
        path for path in folder.iterdir() if path.name[0] != "." and path.suffix in suffixes
    )
