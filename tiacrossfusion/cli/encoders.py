"""`tiacf encoders`: what turns patches into features, and what works offline."""

from __future__ import annotations

import click

from tiacrossfusion.cli.options import cli_plugin


@click.command()
@cli_plugin
def encoders(plugins: tuple[str, ...]) -> None:  # noqa: ARG001 - loaded by the option
    """List the encoders and say which work offline."""
    from tiacrossfusion.encoders.available import available_encoders

    for encoder in available_encoders():
        width = f"width {encoder.width}" if encoder.width else ""
        click.echo(
            f"{encoder.name:32} {width:12} {'offline' if encoder.offline else '':8} {encoder.note}"
        )
