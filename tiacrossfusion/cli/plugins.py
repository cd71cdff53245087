"""The option that loads a user's own encoders, networks and the like."""

from __future__ import annotations

import click

from tiacrossfusion.io.plugins import load_plugins


def _load(
    context: click.Context,  # noqa: ARG001
    parameter: click.Parameter,  # noqa: ARG001
    value: tuple[str, ...],
) -> tuple[str, ...]:
    return load_plugins(value)


#: Passes `plugins`, names of modules and absolute paths of files, after they were imported here.
cli_plugin = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    is_eager=True,
    callback=_load,
    help="Python file (own_encoder.py) or module that registers encoders, networks or output formats of "
    "your own; may be repeated.",
)
