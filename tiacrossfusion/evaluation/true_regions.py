"""Which tokens of a simulated slide show the pattern that was planted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.simulation.truth import SlideTruth


def planted_tokens(bag: FeatureBag, truth: SlideTruth) -> dict[str, np.ndarray]:
    """Find the tokens of which at least half of the area shows the adverse pattern of their scale.

    Returns:
        "5x" (N5,) by the architecture and "20x" (N20,) by the nuclei, bool. The glands of 10x are no
        part of what `simulate_slides` plants.

    Raises:
        TiacfError: it is not known where the patches lie.
    """
    from tiacrossfusion.errors import TiacfError

    made, found = bag.provenance, {}
    for scale, pattern in (("5x", truth.architecture), ("20x", truth.nuclei)):
        bounds = bag.scales[scale].bounds
        if bounds is None or made.mpp is None:
            raise TiacfError(
                f"bag of {made.slide}: it is not known where its patches lie, so not which show the "
                "planted pattern; make the bag with tiacf extract"
            )
        # Sums over rectangles from sums over those that begin at the corner.
        sums = np.zeros(np.add(pattern.shape, 1), np.int64)
        sums[1:, 1:] = pattern.cumsum(axis=0).cumsum(axis=1)
        pixels = np.rint(bounds * np.tile(made.mpp, 2) / truth.mpp_of_maps).astype(np.int64)
        x0, y0, x1, y1 = pixels.T
        inside = [np.clip(y, 0, pattern.shape[0]) for y in (y0, y1)]
        across = [np.clip(x, 0, pattern.shape[1]) for x in (x0, x1)]
        (top, bottom), (left, right) = inside, across
        area = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        found[scale] = 2 * area >= (x1 - x0) * (y1 - y0)
    return found
