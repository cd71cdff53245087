"""Options of commands that work on slides here or on a cluster."""

from __future__ import annotations

from typing import Any

import click


def cli_cluster(command: Any) -> Any:
    """Add --cluster."""
    return click.option(
        "--cluster",
        metavar="ADDRESS",
        help="Work on the slides on a Dask cluster: its scheduler's address (tcp://host:8786) or "
        "scheduler file. --device is then the workers'.",
    )(command)


def cli_precision(command: Any) -> Any:
    """Add --precision."""
    return click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Of the encoder's arithmetic; auto is float16 on a GPU and float32 elsewhere.",
    )(command)
