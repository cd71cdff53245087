"""Options of commands that work on slides here or on a cluster."""

from __future__ import annotations

import click

cli_cluster = click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Work on the slides on a Dask cluster: its scheduler's address (tcp://host:8786) or "
    "scheduler file. --device is then the workers'.",
)

cli_precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the encoder's arithmetic; auto is float16 on a GPU and float32 elsewhere.",
)
