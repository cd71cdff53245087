"""Judge the scores of tokens: what `tiacf evaluate --faithfulness` does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.arguments import at_least, usable_seed
from tiacrossfusion.io.paths import is_file, is_folder, missing

if TYPE_CHECKING:
    from tiacrossfusion.evaluation.faithfulness import Faithfulness


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
