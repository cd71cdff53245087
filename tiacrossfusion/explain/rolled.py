"""Attention rolled out from the prediction of a network to the tokens of a bag."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.models.bundle import ModelBundle


def rolled_scores(
    bag: FeatureBag, bundle: ModelBundle, covariates: np.ndarray | None = None
) -> dict[str, np.ndarray] | None:
    """Return the attention rollout of a slide (see `SurvivalNetwork.rollout`), by scale.

    Costs one forward pass and a second computation of each layer's attention. Arguments and errors are
    those of `attribution.attribute`.

    Returns:
        "5x" (N5,), "10x" (N10,) and "20x" (N20,) float64 for the scales that the network reads, with sum 1
        over all of them; None if the network has no rollout.
    """
    import torch

    with torch.inference_mode():
        rolled = bundle.network.rollout(bundle.tokens(bag, covariates))
    if rolled is None:
        return None
    return {
        scale: scores[0].cpu().double().numpy()
        for scale, scores in zip(SCALES, (rolled.x5, rolled.x10, rolled.x20), strict=True)
        if scores is not None
    }
