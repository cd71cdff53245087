"""`tiacf pretrain`: learn from records and slides without follow-up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
from tiatoolbox.cli.common import cli_output_path

from tiacrossfusion.cli.checks import given, output_folder, refuse_given
from tiacrossfusion.cli.options import cli_columns, columns_from
from tiacrossfusion.errors import UsageError

_OF_FOLLOW_UP = (
    "time_column",
    "event_column",
    "censorship_column",
    "entry_column",
    "drop_unusable",
)


@click.command()
@click.option("--bags", type=Path, help="Folder of feature bags.")
@click.option(
    "--table", type=Path, help="Clinical records, CSV or Parquet, a row a slide or a patient."
)
@cli_output_path(usage_help="Folder for what is learnt, for `tiacf train --init`.")
@cli_columns
@click.option(
    "--way",
    type=click.Choice(["closed", "neural"]),
    default="closed",
    show_default=True,
    help="closed: regression of the record on the slide; neural: a network that rebuilds masked parts.",
)
@click.option(
    "--own-side",
    is_flag=True,
    help="Neural: rebuild each side from its own rest alone, to see what the other side is worth.",
)
@click.option("--seed", default=0, show_default=True, help="Of folds and bootstrap draws.")
@click.pass_context
def pretrain(
    context: click.Context,
    bags: Path | None,
    table: Path | None,
    output_path: str,
    way: Literal["closed", "neural"],
    seed: int,
    *,
    own_side: bool,
    drop_unusable: bool,  # noqa: ARG001 - refused
    **options: Any,
) -> None:
    """Learn what slide and clinical record share, from patients without follow-up.

    Says for each variable of the record whether the slide helps to rebuild it. Writes pretrained.json,
    pretrained.safetensors and variables.csv. Then `tiacf train --init FOLDER --model joint-fusion` weighs
    what was learnt by the patients who have follow-up.
    """
    refuse_given(
        context, _OF_FOLLOW_UP, "is of follow-up, which pretraining does not read; leave it out"
    )
    if own_side and way == "closed":
        raise UsageError("--own-side is of the neural way; add --way neural, or leave it out")
    columns = columns_from(options)
    table, bags = given("--table", table), given("--bags", bags)
    folder = output_folder(output_path)

    from tiacrossfusion.training.pretraining import pretrain as learn

    learn(
        table,
        bags,
        folder,
        columns=columns,
        way=way,
        cross=not own_side,
        seed=seed,
        say=click.echo,
    )
    click.echo(f"Pretrained: {folder}")
