"""`tiacf evaluate`: figures of predictions, and two models compared."""

from __future__ import annotations

from pathlib import Path

import click
from tiatoolbox.cli.common import cli_output_path

from tiacrossfusion.checks import at_least
from tiacrossfusion.cli.checks import given, output_folder
from tiacrossfusion.cli.train import say_figures


@click.command()
@click.option(
    "--predictions",
    type=Path,
    help="Folder of a model in the output of `tiacf train`, with its out_of_fold.csv.",
)
@click.option("--against", type=Path, help="The same of another model, to compare with.")
@cli_output_path(usage_help="Folder for figures and pictures.")
@click.option("--draws", default=1000, show_default=True, help="Bootstrap draws.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
def evaluate(
    predictions: Path | None, against: Path | None, output_path: str, draws: int, seed: int
) -> None:
    """Judge out-of-fold predictions again, or compare two models on the same patients.

    Writes evaluation.json and pictures; with --against comparison.json, the paired difference of the
    two models' C-indices.
    """
    at_least("--draws", draws, 1)
    at_least("--seed", seed, 0)
    source = given("--predictions", None if predictions is None else str(predictions))
    folder = output_folder(given("--output-path", output_path))

    from tiacrossfusion.evaluation import compare, read_predictions, write_report
    from tiacrossfusion.evaluation import evaluate as judge
    from tiacrossfusion.evaluation.evaluation_files import read_evaluation
    from tiacrossfusion.evaluation.prediction_files import write_text

    folds = read_predictions(source)
    other = None if against is None else read_predictions(against)
    earlier = read_evaluation(source)
    evaluation = judge(folds, draws=draws, seed=seed, optimistic=earlier.optimistic)
    write_report(folder, folds, evaluation, title=source.absolute().name, note="Research use only.")
    say_figures(source.absolute().name, evaluation)
    if other is not None:
        comparison = compare(folds, other, draws=draws, seed=seed)
        write_text(folder / "comparison.json", comparison.model_dump_json(indent=1) + "\n")
        difference = comparison.difference
        click.echo(
            f"C less that of {against}: {difference.value:.3f} (95 % interval {difference.low:.3f} to "
            f"{difference.high:.3f}), p = {comparison.p:.2g}"
        )
    click.echo(f"Figures and pictures: {folder}")
