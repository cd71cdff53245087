"""`tiacf evaluate`: figures of predictions, two models compared, and whether scores are faithful."""

from __future__ import annotations

from pathlib import Path

import click
from tiatoolbox.cli.common import cli_device, cli_output_path

from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cli.checks import given, output_folder, refuse_given
from tiacrossfusion.cli.plugins import cli_plugin
from tiacrossfusion.cli.train import say_figures
from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.arguments import at_least, usable_seed
from tiacrossfusion.io.paths import is_file, is_folder, missing
from tiacrossfusion.io.text import printable

#: What only one of the two things that the command does has a use for.
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
    at_least("--draws", draws, 1)
    usable_seed("--seed", seed)
    at_least("--slides", slides, 1)
    needless = _OF_PREDICTIONS if faithfulness else _OF_FAITHFULNESS
    remedy = "with --faithfulness: leave one of them out"
    if not faithfulness:
        remedy = "without --faithfulness: leave the one out or add the other"
    refuse_given(context, needless, remedy)
    if faithfulness:
        _judge_scores(
            given("--bags", None if bags is None else str(bags)),
            str(given("--model", model)),
            truth,
            output_folder(given("--output-path", output_path)),
            slides,
            device,
            draws=draws,
            seed=seed,
        )
        return
    source = given("--predictions", None if predictions is None else str(predictions))
    folder = output_folder(given("--output-path", output_path))

    from tiacrossfusion.evaluation.comparison import compare
    from tiacrossfusion.evaluation.evaluation_files import read_evaluation
    from tiacrossfusion.evaluation.measuring import evaluate as judge
    from tiacrossfusion.evaluation.prediction_files import read_predictions
    from tiacrossfusion.evaluation.report import write_evaluation
    from tiacrossfusion.io.atomic import write_text

    folds = read_predictions(source)
    other = None if against is None else read_predictions(against)
    model_folder = source.parent if is_file(source) else source
    earlier = read_evaluation(model_folder)
    evaluation = judge(folds, draws=draws, seed=seed, optimistic=earlier.optimistic)
    # Before anything is written: the two may not go together.
    comparison = None if other is None else compare(folds, other, draws=draws, seed=seed)
    title = printable(model_folder.absolute().name)
    write_evaluation(folder, folds, evaluation, title=title, note="Research use only.")
    say_figures(title, evaluation)
    if comparison is not None:
        write_text(folder / "comparison.json", comparison.model_dump_json(indent=1) + "\n")
        difference = comparison.difference
        click.echo(
            f"C less that of {against}: {difference.value:.3f} (95 % interval {difference.low:.3f} to "
            f"{difference.high:.3f}), p = {comparison.p:.2g}"
        )
    click.echo(f"Figures and pictures: {folder}")


def _judge_scores(
    bags: Path,
    model: str,
    truth: Path | None,
    folder: Path,
    slides: int,
    device: str,
    *,
    draws: int,
    seed: int,
) -> None:
    """Measure, write and say the faithfulness of a model's scores.

    Raises:
        TiacfError: bags, their truth or the model are not there or do not go together.
    """
    stores = find_bags(bags)

    import numpy as np

    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.evaluation.faithfulness import faithfulness
    from tiacrossfusion.evaluation.faithfulness_files import write_faithfulness
    from tiacrossfusion.models.bundle import load_bundle

    if len(stores) > slides:
        drawn = np.random.default_rng(seed).choice(len(stores), slides, replace=False)
        stores = [stores[number] for number in sorted(drawn)]
    if truth is not None:
        for store in stores:
            if not is_file(truth / f"{store.stem}.npz"):
                reason = f"holds no {store.stem}.npz" if is_folder(truth) else missing(truth)
                raise UsageError(f"{truth}: {reason}; check --truth")
    bundle = load_bundle(model, device)
    regions = None
    if truth is not None:
        from tiacrossfusion.evaluation.true_regions import planted_tokens
        from tiacrossfusion.simulation.truth import SlideTruth

        regions = (
            planted_tokens(FeatureBag.load(store), SlideTruth.load(truth / f"{store.stem}.npz"))
            for store in stores
        )
    with click.progressbar(stores, label="Slides") as shown:
        figures = faithfulness(
            (FeatureBag.load(store) for store in shown),
            bundle,
            regions=regions,
            draws=draws,
            seed=seed,
        )
    write_faithfulness(folder, figures)
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
    click.echo(f"Figures: {folder}")
