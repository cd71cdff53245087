"""Registries: encoders, networks, output formats, scores and bag stores by name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from tiacrossfusion.errors import TiacfError, UsageError, one_line

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name; asking for the names imports none of them.

    An entry is built in, or belongs to another installed package, which declares it as an entry point, or
    is registered by a program with the decorator::

        @NETWORKS.register("my-network")
        class MyNetwork(nn.Module): ...

    Args:
        kind: what an entry is, for messages, such as "network".
        group: entry-point group, such as "tiacrossfusion.networks".
        builtin: entries of this package: name to "module:attribute".
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        """Keep the built-in names."""
        self.kind, self.group = kind, group
        self._builtin = dict(builtin)
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers an entry under a name, in place of an earlier registration.

        Raises:
            UsageError: a built-in entry has the name.
        """
        if name in self._builtin:
            raise UsageError(
                f"{name}: is a built-in {self.kind}; register yours under another name"
            )

        def decorate(entry: T) -> T:
            self._registered[name] = entry
            return entry

        return decorate

    def names(self) -> tuple[str, ...]:
        """Return all names: built-in, registered, and of installed packages."""
        return tuple(dict.fromkeys([*self._builtin, *self._registered, *self._entry_points()]))

    def __contains__(self, name: object) -> bool:
        """Return whether there is an entry of this name."""
        return name in self.names()

    def __getitem__(self, name: str) -> T:
        """Import an entry and return it.

        Raises:
            UsageError: there is no entry of this name.
            TiacfError: the package of the entry cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            return cast(T, getattr(import_module(module), attribute))
        found = self._entry_points().get(name)
        if found is None:
            raise self.unknown(name)
        try:
            return cast(T, found.load())
        except Exception as error:  # another package may raise anything while it is imported
            raise TiacfError(
                f"{self.kind} {name}: its package {self.package(name)} cannot be imported "
                f"({one_line(error)}); repair or update that package"
            ) from error

    def unknown(self, name: str) -> UsageError:
        """Return the error for a name that has no entry."""
        names = self.names()
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        return UsageError(f"{name}: unknown {self.kind}; {hint}known are {', '.join(names)}")

    def package(self, name: str) -> str | None:
        """Return what has to be installed or loaded for an entry; None for a built-in one.

        That is the distribution of an entry point; of another entry the top package that registered it,
        or the name of the Python file.
        """
        if name in self._builtin:
            return None
        found = self._entry_points().get(name)
        if found is not None and found.dist is not None:
            return found.dist.name
        if name not in self._registered:
            return None
        top = cast(Any, self._registered[name]).__module__.partition(".")[0]
        module = sys.modules.get(top)
        file = getattr(module, "__file__", None)
        return Path(file).name if file and not hasattr(module, "__path__") else top

    def absent(self, name: str, package: str) -> TiacfError:
        """Return the error for an entry that a file asks for and that is not registered here.

        Args:
            name: of the entry.
            package: what registers it, as `package` returned it where the file was written.
        """
        remedy = f"give --plugin with the path of {package}"
        if not package.endswith(".py"):
            remedy = f"install {package}, or give --plugin with the name of its module"
        return TiacfError(
            f"{self.kind} {name}: comes from {package}, which is not loaded; {remedy}"
        )

    def _entry_points(self) -> dict[str, EntryPoint]:
        return _entry_points(self.group, tuple(sys.path))


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:  # noqa: ARG001
    """Look through what is installed once, and again where modules are looked for elsewhere."""
    return {point.name: point for point in entry_points(group=group)}
