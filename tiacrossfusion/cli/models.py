"""`tiacf models`: list the models that work without a download."""

from __future__ import annotations

import click


@click.command()
def models() -> None:
    """List the models that work offline."""
    from tiacrossfusion.models.files import read_config, shipped_bundles

    for name, folder in shipped_bundles().items():
        config = read_config(folder)
        click.echo(f"{name}  (version {config.version}, encoder {config.encoder.name})")
        for text in (config.card.description, config.card.performance, config.card.notice):
            if text:
                click.echo(f"    {text}")
    click.echo("--model also takes a bundle folder or a hub id (owner/name).")
