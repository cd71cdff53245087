"""`tiacf audit`: is the risk stable?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tiatoolbox.cli.common import cli_device, cli_model, cli_output_path

from tiacrossfusion.cli.checks import check_masks, given_name, output_folder, refuse_given
from tiacrossfusion.cli.log_file import log_to
from tiacrossfusion.cli.options import (
    READ_OPTIONS,
    cli_columns,
    cli_plugin,
    cli_precision,
    cli_read,
    cli_slides,
    cli_verbose,
    columns_from,
    find_listed,
    split_names,
)
from tiacrossfusion.errors import UsageError
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.text import printable

if TYPE_CHECKING:
    from tiacrossfusion.audit.slides import NuisanceAudit

#: What only slides, and only bags, have a use for.
_FOR_SLIDES = (
    *READ_OPTIONS,
    *("encoder_weights", "precision", "families", "update_model", "overwrite", "retry_failed"),
)
_FOR_BAGS = ("table", "time_unit", "fold_by", "strengths", "tokens", "transfer")


@click.command()
@cli_model(usage_help="Bundle folder, name or hub id of the model.", default=None)
@cli_slides
@click.option("--bags", type=Path, help="Folder of feature bags, instead of slides or beside them.")
@click.option("--table", type=Path, help="Follow-up and sites, CSV or Parquet; optional.")
@cli_output_path(usage_help="Folder for tables, pictures and page; finished slides are kept.")
@cli_columns
@click.option("--time-unit", default="months", show_default=True, help="Unit of the times.")
@click.option("--fold-by", help="Column of the sites; tcga-site reads them from the barcodes.")
@click.option(
    "--strengths",
    default="0.05,0.1,0.25,0.5",
    show_default=True,
    help="Of the universal adversary, in SDs of the training features.",
)
@click.option(
    "--most", type=int, default=40, show_default=True, help="Slides and bags that are audited."
)
@click.option(
    "--transfer",
    multiple=True,
    help="Another model of the same features, such as that of another fold, which the generator is tried "
    "on; may be repeated.",
)
@click.option("--tokens", type=int, default=4000, show_default=True, help="Of a bag.")
@click.option(
    "--families",
    type=int,
    default=64,
    show_default=True,
    help="5x patches of a slide, with all 10x and 20x patches inside, that are read.",
)
@click.option(
    "--update-model",
    is_flag=True,
    help="Add what was learnt to the bundle, so that its predictions get an interval under nuisances.",
)
@click.option("--encoder-weights", type=str, help="Local weights file of the encoder.")
@cli_read
@click.option("--overwrite", is_flag=True, help="Read finished slides again.")
@click.option("--retry-failed", is_flag=True, help="Try again the slides that failed before.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all draws.")
@cli_device()
@cli_precision
@cli_plugin
@cli_verbose
def audit(
    model: str | None,
    img_input: tuple[str, ...],
    bags: Path | None,
    table: Path | None,
    output_path: str,
    time_unit: str,
    fold_by: str | None,
    strengths: str,
    most: int,
    transfer: tuple[str, ...],
    tokens: int,
    families: int,
    encoder_weights: str | None,
    read: ReadOptions,
    mpp_table: Path | None,
    file_types: str,
    seed: int,
    device: str,
    precision: str,
    plugins: tuple[str, ...],
    *,
    update_model: bool,
    overwrite: bool,
    retry_failed: bool,
    verbose: bool,
    drop_unusable: bool,  # noqa: ARG001 - slides without a bag are left out in any case
    **options: Any,
) -> None:
    """Measure how far a model's risk moves when nothing that matters has changed.

    Slides (--img-input) are read again under nuisances of stain, scanner and sampling. Features (--bags) are
    moved by chance, along directions between sites, by one perturbation for all slides, by a generator that
    needs one forward pass, and in a few patches. Writes tables, pictures and report.html.
    """
    bundle = given_name("--model", model)
    if not img_input and bags is None:
        raise UsageError("give slides with --img-input, or feature bags with --bags, or both")
    if not img_input:
        refuse_given(
            click.get_current_context(),
            _FOR_SLIDES,
            "goes with --img-input; leave it out with --bags alone",
        )
    if bags is None:
        refuse_given(
            click.get_current_context(),
            _FOR_BAGS,
            "goes with --bags; leave it out with --img-input alone",
        )
    columns = columns_from(options)
    if fold_by is not None:
        if table is None:
            raise UsageError("--fold-by is a column of --table; add the table, or leave it out")
        columns = columns.model_copy(update={"fold_by": fold_by})
    try:
        numbers = [float(text) for text in split_names(strengths)]
    except ValueError:
        raise UsageError(f"--strengths {strengths}: give numbers such as 0.05,0.25") from None
    if update_model and not Path(bundle).is_dir():
        raise UsageError(
            f"--update-model writes into a bundle folder, and {bundle} is not one; give the folder, or leave "
            "it out"
        )
    slides: list[Path] = []
    if img_input:
        slides, read = find_listed(img_input, file_types, read, mpp_table, output_path)
        check_masks(read.mask, slides)
    folder = output_folder(output_path)

    from tiacrossfusion.audit.api import audit_model, check_settings
    from tiacrossfusion.audit.files import PAGE, summary, write_audit, write_page
    from tiacrossfusion.audit.nuisance_files import nuisance_summary, write_nuisances
    from tiacrossfusion.audit.slides import audit_slides, check_slide_settings, teach_bundle
    from tiacrossfusion.io.atomic import writing
    from tiacrossfusion.models.source import ModelSource
    from tiacrossfusion.runs.slides import RunOptions

    check_settings(strengths=numbers, most=most, tokens=tokens, seed=seed)
    check_slide_settings(most=most, families=families, seed=seed)
    nuisances: NuisanceAudit | None = None
    lines = []
    if img_input:
        source = ModelSource(
            model=bundle,
            weights=encoder_weights,
            device=device,
            precision=precision,
            plugins=plugins,
        )
        source.load()  # before the folder is made
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with log_to(folder, verbose=verbose):
            nuisances = audit_slides(
                source,
                slides,
                folder,
                RunOptions(read, overwrite=overwrite, retry_failed=retry_failed),
                most=most,
                families=families,
                seed=seed,
            )
        write_nuisances(nuisances, folder)
        write_page(folder, nuisances, None)  # kept, should the bags fail
        lines += nuisance_summary(nuisances)
        if update_model:
            teach_bundle(Path(bundle), nuisances)
            lines.append(f"{bundle}: its predictions now have risk_nuisance_sd.")
    found = None
    if bags is not None:
        found = audit_model(
            bundle,
            bags,
            table=table,
            columns=columns,
            transfer_to=transfer,
            time_unit=time_unit,
            strengths=numbers,
            most=most,
            tokens=tokens,
            seed=seed,
            device=device,
            say=click.echo,
        )
        write_audit(found, folder)
        lines += summary(found)
    write_page(folder, nuisances, found)
    for line in lines:
        click.echo(printable(line))
    click.echo(f"Page: {folder / PAGE}")
