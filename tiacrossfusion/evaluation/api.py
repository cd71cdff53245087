"""Judge predictions and the scores of tokens: what `tiacf evaluate` does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import UsageError
from tiacrossfusion.evaluation.comparison import compare
from tiacrossfusion.evaluation.evaluation_files import COMPARISON, read_evaluation
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.prediction_files import read_predictions
from tiacrossfusion.evaluation.report import write_evaluation
from tiacrossfusion.evaluation.scores import Comparison, Evaluation
from tiacrossfusion.io.arguments import at_least, usable_seed
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.io.paths import is_file, is_folder, missing
from tiacrossfusion.text import printable

if TYPE_CHECKING:
    from tiacrossfusion.evaluation.faithfulness import Faithfulness


@dataclass(frozen=True)
class Judgement:
    """Figures of a model, and its comparison with another if there was one."""

    model: str
    evaluation: Evaluation
    comparison: Comparison | None


def evaluate_predictions(
    predictions: str | Path,
    output_path: str | Path | None = None,
    *,
    against: str | Path | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Judgement:
    """Judge the out-of-fold predictions of a model, and compare them with those of another.

    Args:
        predictions: folder of a model in the output of `train`, or the `out_of_fold.csv` in it.
        output_path: folder for `evaluation.json`, pictures and, with `against`, `comparison.json`; None
            writes nothing.
        against: the same of another model, trained on the same folds.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UsageError: a file is not there, or a number is wrong.
        TiacfError: a file is damaged, or the two models do not go together.
    """
    at_least("--draws", draws, 1)
    usable_seed("--seed", seed)
    source = Path(predictions)
    folds = read_predictions(source)
    other = None if against is None else read_predictions(Path(against))
    folder = source.parent if is_file(source) else source
    optimistic = read_evaluation(folder).optimistic
    evaluation = evaluate(folds, draws=draws, seed=seed, optimistic=optimistic)
    # Before anything is written: the two may not go together.
    comparison = None if other is None else compare(folds, other, draws=draws, seed=seed)
    model = printable(folder.absolute().name)
    if output_path is not None:
        output = Path(output_path)
        write_evaluation(output, folds, evaluation, title=model, note="Research use only.")
        if comparison is not None:
            write_text(output / COMPARISON, comparison.model_dump_json(indent=1) + "\n")
    return Judgement(model, evaluation, comparison)


def evaluate_faithfulness(
    bags: str | Path,
    model: str | Path,
    output_path: str | Path | None = None,
    *,
    truth: str | Path | None = None,
    slides: int = 20,
    device: str = "cpu",
    draws: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Faithfulness:
    """Judge the scores of tokens: does deleting the highest move the risk more than deleting others?

    Args:
        bags: folder of feature bags, of slides that the model has not seen.
        model: name of a shipped model, a bundle folder, or a hub id.
        output_path: folder for `faithfulness.json` and `faithfulness.csv`; None writes nothing.
        truth: folder of what `tiacf simulate --slides` planted (`<slide>.npz`).
        slides: most slides to look at, drawn at random.
        device: where the model runs.
        draws: of the bootstrap.
        seed: of everything random.
        progress: draw a bar.

    Raises:
        UsageError: a file is not there, or a number is wrong.
        TiacfError: bags, their truth and the model do not go together.
    """
    from tqdm.auto import tqdm

    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.bags.files import find_bags
    from tiacrossfusion.evaluation.faithfulness import faithfulness
    from tiacrossfusion.evaluation.faithfulness_files import write_faithfulness
    from tiacrossfusion.models.bundle import load_bundle

    at_least("--draws", draws, 1)
    usable_seed("--seed", seed)
    at_least("--slides", slides, 1)
    stores = find_bags(Path(bags))
    if len(stores) > slides:
        drawn = np.random.default_rng(seed).choice(len(stores), slides, replace=False)
        stores = [stores[number] for number in sorted(drawn)]
    regions = None if truth is None else _regions(stores, Path(truth))
    figures = faithfulness(
        (
            FeatureBag.load(store)
            for store in tqdm(stores, desc="Slides", disable=None if progress else True)
        ),
        load_bundle(model, device),
        regions=regions,
        draws=draws,
        seed=seed,
    )
    if output_path is not None:
        write_faithfulness(Path(output_path), figures)
    return figures


def _regions(stores: list[Path], truth: Path) -> Iterable[dict[str, np.ndarray]]:
    """Return which tokens of each bag show what was planted, read one after the other."""
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.evaluation.true_regions import planted_tokens
    from tiacrossfusion.simulation.truth import SlideTruth

    for store in stores:
        if not is_file(truth / f"{store.stem}.npz"):
            reason = f"holds no {store.stem}.npz" if is_folder(truth) else missing(truth)
            raise UsageError(f"{truth}: {reason}; check --truth")
    return (
        planted_tokens(FeatureBag.load(store), SlideTruth.load(truth / f"{store.stem}.npz"))
        for store in stores
    )
