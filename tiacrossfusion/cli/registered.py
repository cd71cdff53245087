"""An option whose values are the names in a registry."""

from __future__ import annotations

from typing import Any

import click

from tiacrossfusion.io.registry import Registry


class RegisteredName(click.ParamType):
    """A name in a registry, in upper or lower case; plugins loaded before the option count."""

    name = "name"

    def __init__(self, registry: Registry[Any]) -> None:
        """Keep the registry."""
        self.registry = registry

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """List the names in the help."""
        return f"[{'|'.join(self.registry.names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is registered."""
        names = self.registry.names()
        for name in names:
            if name.casefold() == value.casefold():
                return name
        known = ", ".join(map(repr, names))
        raise click.BadParameter(f"{value!r} is not one of {known}.", ctx, param)
