"""`tiacf evaluate`: figures of predictions or of a model elsewhere, and whether scores are faithful."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tiatoolbox.cli.common import cli_device, cli_output_path

from tiacrossfusion.cli.checks import given, given_name, output_folder, refuse_given
from tiacrossfusion.cli.console import print_added_value, print_figures, print_subgroups
from tiacrossfusion.cli.options import cli_columns, cli_plugin, columns_from

if TYPE_CHECKING:
    from tiacrossfusion.evaluation.faithfulness import Faithfulness
    from tiacrossfusion.evaluation.judging import Judgement

#: Options that do not go with --faithfulness, and those that go with nothing else.
_NOT_OF_FAITHFULNESS = (
    "predictions",
    "against",
    "table",
    "covariates",
    "by",
    "at",
    "endpoints",
    "picture_format",
    "tables",
    "as_json",
)
_OF_FAITHFULNESS = ("truth", "slides")
#: Options of a finished model, and those of its predictions.
_OF_MODEL = ("bags", "model", "device")
_OF_PREDICTIONS = ("predictions", "against")
#: Options that need a table.
_OF_TABLE = (
    *("slide_column", "patient_column", "patient_characters", "time_column", "event_column"),
    *("censorship_column", "entry_column", "covariates", "ordinal", "drop_unusable"),
    *("time_unit", "by", "at", "cause", "endpoints"),
)


@click.command()
@click.option(
    "--predictions",
    type=Path,
    help="Folder of a model in the output of `tiacf train`, or the out_of_fold.csv in it; or, with --table, "
    "the patients.csv of `tiacf predict`.",
)
@click.option("--against", type=Path, help="The same of another model, to compare with.")
@click.option(
    "--faithfulness",
    is_flag=True,
    help="Judge the scores of tokens instead: does deleting those with the highest move the risk more "
    "than deleting others?",
)
@click.option(
    "--bags",
    type=Path,
    help="With --model: folder of feature bags of slides that the model has not seen.",
)
@click.option(
    "--model",
    type=str,
    help="Judge this model on another cohort, of --bags and --table: a name from `tiacf models`, a bundle "
    "folder, or a hub id (owner/name).",
)
@click.option(
    "--table",
    type=Path,
    help="Follow-up of the cohort, CSV or Parquet, a row a slide or a patient; or the table of the training, "
    "for --covariates and --by.",
)
@click.option("--time-unit", help="Unit of its times.  [default: that of the predictions]")
@cli_columns
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    help="An endpoint and its columns of time and event, such as OS=OS.time,OS; each is judged in a folder "
    "of its name. Repeatable.",
)
@click.option("--by", multiple=True, help="Subgroups by a column of the table. Repeatable.")
@click.option(
    "--at",
    type=float,
    help="With --covariates: time of AUC and decision curve.  [default: the middle bin edge]",
)
@click.option(
    "--cause",
    help="Column with the cause of the end of follow-up, for competing risks: 0 censored, 1 the event, 2 "
    "another cause.",
)
@click.option(
    "--truth",
    type=Path,
    help="Of --faithfulness: folder of what `tiacf simulate --slides` planted (<slide>.npz).",
)
@click.option(
    "--slides",
    default=20,
    show_default=True,
    help="Of --faithfulness: most slides to look at, drawn at random; each takes about 100 predictions.",
)
@click.option(
    "--figures",
    "picture_format",
    type=click.Choice(["png", "svg", "pdf"]),
    default="png",
    show_default=True,
    help="Format of the pictures.",
)
@click.option(
    "--tables",
    type=click.Choice(["xlsx", "tex"]),
    help="Write all figures as tables, too: a spreadsheet or LaTeX.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON instead of text.")
@cli_device()
@cli_output_path(usage_help="Folder for figures and pictures.")
@click.option("--draws", default=1000, show_default=True, help="Bootstrap draws.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@cli_plugin
@click.pass_context
def evaluate(
    context: click.Context,
    predictions: Path | None,
    against: Path | None,
    bags: Path | None,
    model: str | None,
    table: Path | None,
    time_unit: str | None,
    endpoints: tuple[str, ...],
    by: tuple[str, ...],
    at: float | None,
    cause: str | None,
    truth: Path | None,
    slides: int,
    device: str,
    picture_format: str,
    tables: str | None,
    output_path: str,
    draws: int,
    seed: int,
    plugins: tuple[str, ...],  # noqa: ARG001 - loaded by the option
    *,
    drop_unusable: bool,
    faithfulness: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Judge predictions, a finished model on another cohort, or the scores of tokens.

    Writes evaluation.json and pictures; with --against comparison.json, the paired difference of the
    two models' C-indices; with --covariates added_value.json, what the model adds to them, a forest plot and
    a decision curve; with --by subgroups.json; with --faithfulness faithfulness.json and faithfulness.csv.
    """
    columns = columns_from(options)
    if faithfulness:
        refuse_given(context, _NOT_OF_FAITHFULNESS, "with --faithfulness: leave one of them out")
    else:
        remedy = "without --faithfulness: leave the one out or add the other"
        refuse_given(context, _OF_FAITHFULNESS, remedy)
    external = model is not None and not faithfulness
    if external:
        refuse_given(context, _OF_PREDICTIONS, "with --model: leave one of them out")
        given("--table", table)
    elif not faithfulness:
        refuse_given(context, _OF_MODEL, "without --model: leave the one out or add the other")
    if table is None:
        refuse_given(context, _OF_TABLE, "without --table: leave the one out or add the other")
    if faithfulness or external:
        place = given("--bags", bags)
        network = given_name("--model", model)
    else:
        place = given("--predictions", predictions)
    folder = output_folder(output_path)

    from tiacrossfusion.cohorts.endpoints import read_endpoints
    from tiacrossfusion.evaluation import api
    from tiacrossfusion.evaluation.endpoints import evaluate_endpoints

    if faithfulness:
        figures = api.evaluate_faithfulness(
            place,
            network,
            folder,
            truth=truth,
            slides=slides,
            device=device,
            draws=draws,
            seed=seed,
            progress=True,
        )
        _echo_faithfulness(figures)
        click.echo(f"Figures: {folder}")
        return
    clinic = None
    if table is not None:
        clinic = api.Clinic(table, columns, time_unit, by, at, drop_unusable, cause)
    settings: dict[str, Any] = {
        "figures": picture_format,
        "tables": tables,
        "draws": draws,
        "seed": seed,
    }
    if external:
        settings |= {"device": device, "progress": True}

    def judge(clinic: api.Clinic | None, folder: Path) -> api.Judgement:
        if external and clinic is not None:
            return api.evaluate_external(network, place, clinic, folder, **settings)
        return api.evaluate_predictions(place, folder, against=against, clinic=clinic, **settings)

    if endpoints and clinic is not None:
        found = evaluate_endpoints(judge, clinic, read_endpoints(endpoints), folder)
        if as_json:
            click.echo(json.dumps({name: judged.as_dict() for name, judged in found.items()}))
            return
        for name, judged in found.items():
            _echo_judgement(f"{name}, ", judged, against, external=external)
    else:
        judged = judge(clinic, folder)
        if as_json:
            click.echo(json.dumps(judged.as_dict()))
            return
        _echo_judgement("", judged, against, external=external)
    click.echo(f"Figures and pictures: {folder}")


def _echo_judgement(
    prefix: str, judged: Judgement, against: Path | None, *, external: bool
) -> None:
    single = external or len(judged.evaluation.folds) == 1
    where = "in this cohort" if single else "out of fold"
    print_figures(f"{prefix}{judged.model}", judged.evaluation, where)
    if judged.comparison is not None:
        difference = judged.comparison.difference
        click.echo(
            f"C less that of {against}: {difference.value:.3f} (95 % interval {difference.low:.3f} to "
            f"{difference.high:.3f}), p = {judged.comparison.p:.2g}"
        )
    if judged.added is not None:
        print_added_value(judged.added)
    if judged.competing is not None:
        for name, c in (
            ("cause-specific C", judged.competing.cause_specific_c),
            ("C, competing events kept", judged.competing.c_with_competing_events_kept),
        ):
            click.echo(f"    {name:28}{c.note or f'{c.value:.3f} ({c.low:.3f} to {c.high:.3f})'}")
    for group in judged.subgroups:
        print_subgroups(group)


def _echo_faithfulness(figures: Faithfulness) -> None:
    click.echo("Change of the risk against that of random deletions (95 % interval):")
    for row in figures.deletions:
        click.echo(
            f"  {row.score:16} {row.end:7} {row.share:4.0%} of {row.scale:3}: "
            f"{row.ratio.value:5.2f} ({row.ratio.low:.2f} to {row.ratio.high:.2f})"
        )
    for found in figures.regions:
        click.echo(
            f"  {found.score:16} AUC of the planted tokens of {found.scale}: {found.auc.value:.3f} "
            f"({found.auc.low:.3f} to {found.auc.high:.3f})"
        )
    for note in figures.notes:
        click.echo(note)
