"""Attention rolled back through all stages of a network to the tokens of a bag."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.models.bundle import ModelBundle


def rolled_scores(bag: FeatureBag, bundle: ModelBundle) -> dict[str, np.ndarray] | None:
    """Follow the class token's attention back to the tokens, see `networks.rollout`.

    Takes one forward pass with a second look at each attention layer; of an ensemble one of each
    member, of which the mean is given.

    Args:
        bag: features of the slide, made with the bundle's encoder and sampling.
        bundle: the model.

    Returns:
        "5x" (N5,), "10x" (N10,) and "20x" (N20,) float64, together 1, of the scales that the network
        reads; None where it has no layers of attention to follow.

    Raises:
        TiacfError: the bag does not fit the model.
    """
    import torch

    from tiacrossfusion.networks.rollout import rolled_attention

    with torch.inference_mode():
        rolled = rolled_attention(bundle.network, *bundle.tokens(bag).values())
    if rolled is None:
        return None
    return {
        scale: scores[0].cpu().double().numpy()
        for scale, scores in zip(SCALES, (rolled.x5, rolled.x10, rolled.x20), strict=True)
        if scores is not None
    }
