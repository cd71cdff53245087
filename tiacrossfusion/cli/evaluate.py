"""`tiacf evaluate`: figures of predictions, two models compared, and whether scores are faithful."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from tiatoolbox.cli.common import cli_device, cli_output_path

from tiacrossfusion.cli.checks import given, output_folder, refuse_given
from tiacrossfusion.cli.console import print_figures
from tiacrossfusion.cli.options import cli_plugin

if TYPE_CHECKING:
    from tiacrossfusion.evaluation.faithfulness import Faithfulness

#: Options of only one of the two things that the command does.
_OF_PREDICTIONS = ("predictions", "against")
_OF_FAITHFULNESS = ("bags", "model", "truth", "slides", "device")


@click.command()
@click.option(
    "--predictions",
    type=Path,
    help="Folder of a model in the output of `tiacf train`, or the out_of_fold.csv in it.",
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
    help="Of --faithfulness: folder of feature bags, of slides that the model has not seen.",
)
@click.option(
    "--model",
    type=str,
    help="Of --faithfulness: a name from `tiacf models`, a bundle folder, or a hub id (owner/name).",
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
    truth: Path | None,
    slides: int,
    device: str,
    output_path: str,
    draws: int,
    seed: int,
    plugins: tuple[str, ...],  # noqa: ARG001 - loaded by the option
    *,
    faithfulness: bool,
) -> None:
    """Judge out-of-fold predictions again, compare two models, or judge the scores of tokens.

    Writes evaluation.json and pictures; with --against comparison.json, the paired difference of the
    two models' C-indices; with --faithfulness faithfulness.json and faithfulness.csv.
    """
    needless = _OF_PREDICTIONS if faithfulness else _OF_FAITHFULNESS
    remedy = "with --faithfulness: leave one of them out"
    if not faithfulness:
        remedy = "without --faithfulness: leave the one out or add the other"
    refuse_given(context, needless, remedy)
    if faithfulness:
        place = given("--bags", bags)
        network = str(given("--model", model))
    else:
        place = given("--predictions", predictions)
    folder = output_folder(output_path)

    from tiacrossfusion.evaluation import api

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
    judged = api.evaluate_predictions(place, folder, against=against, draws=draws, seed=seed)
    print_figures(judged.model, judged.evaluation)
    if judged.comparison is not None:
        difference = judged.comparison.difference
        click.echo(
            f"C less that of {against}: {difference.value:.3f} (95 % interval {difference.low:.3f} to "
            f"{difference.high:.3f}), p = {judged.comparison.p:.2g}"
        )
    click.echo(f"Figures and pictures: {folder}")


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
