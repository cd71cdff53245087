"""`tiacf models`: list the models that work without a download, or the networks that can be trained."""

from __future__ import annotations

import click

from tiacrossfusion.cli.options import cli_plugin


@click.command()
@click.option(
    "--networks",
    is_flag=True,
    help="List the networks that `tiacf train` takes, with the recipe of each, instead of models.",
)
@cli_plugin
def models(*, networks: bool, plugins: tuple[str, ...]) -> None:  # noqa: ARG001 - loaded by the option
    """List the models that work offline."""
    if networks:
        _list_networks()
        return

    from tiacrossfusion.models.files import read_config, shipped_bundles

    for name, folder in shipped_bundles().items():
        config = read_config(folder)
        click.echo(f"{name}  (version {config.version}, encoder {config.encoder.name})")
        for text in (config.card.description, config.card.performance, config.card.notice):
            if text:
                click.echo(f"    {text}")
    click.echo("--model also takes a bundle folder or a hub id (owner/name).")


def _list_networks() -> None:
    from tiacrossfusion.networks.registry import CLINICAL, FUSIONS, NETWORKS, recipe_of

    for name in NETWORKS.names():
        click.echo(f"{name}: {(NETWORKS[name].__doc__ or '').strip().splitlines()[0]}")
        click.echo(f"    {recipe_of(name).summary()}")
    click.echo(
        f"{CLINICAL}: Ridge Cox regression on the clinical record (--covariates), no slides."
    )
    click.echo(
        f"{', '.join(FUSIONS)}: one of these networks (--slide-model) and the record together."
    )
    click.echo(
        "Options of `tiacf train` override a recipe; `--recipe paper` takes the CrossFusion paper's for all."
    )
