"""Attention rolled back through all stages of a network to the tokens of a bag."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.models.bundle import ModelBundle


def rolled_scores(bag: FeatureBag, bundle: ModelBundle) -> dict[str, np.ndarray] | None:
    """Follow the class token's attention back to the tokens, see `SurvivalNetwork.rollout`.

    Takes one forward pass and computes each layer's attention once more. Of an ensemble it is the mean over
    the members.

    Args:
        bag: features of the slide, made with the bundle's encoder and sampling.
        bundle: the model.

    Returns:
        "5x" (N5,), "10x" (N10,) and "20x" (N20,) float64 of the scales that the network reads, with the sum
        1 over all of them; None where the network has no rollout.

    Raises:
        TiacfError: the bag does not fit the model.
    """
    import torch

    with torch.inference_mode():
        rolled = bundle.network.rollout(bundle.tokens(bag))
    if rolled is None:
        return None
    return {
        scale: scores[0].cpu().double().numpy()
        for scale, scores in zip(SCALES, (rolled.x5, rolled.x10, rolled.x20), strict=True)
        if scores is not None
    }
