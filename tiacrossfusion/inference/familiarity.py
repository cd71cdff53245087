"""Whether a model knows a slide, or slides like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.bags.identity import bag_identities
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.models.bundle import ModelBundle

#: A slide is unlike the training slides when its distance is above this share of theirs.
_USUAL = 0.99


def distance(means: np.ndarray, centre: np.ndarray, sd: np.ndarray) -> float:
    """Return how far the mean features of a slide lie from those of the training patients' tokens.

    The Mahalanobis distance with the diagonal of the covariance, divided by the root of the number of
    features so that widths can be compared: the root of the mean of squared differences in SD.

    Args:
        means: (3, E) mean features at 5x, 10x and 20x, NaN at an absent scale.
        centre: (3, E) mean of the training patients' tokens.
        sd: (3, E) their standard deviation.
    """
    return float(np.sqrt(np.nanmean(np.square((means - centre) / sd))))


def familiarity_caveats(
    bag: FeatureBag, bundle: ModelBundle, *, of_part: bool = False
) -> list[str]:
    """Return warnings that a model was trained on a slide, or on no slides like it; empty texts if not.

    Args:
        bag: of the slide.
        bundle: the model.
        of_part: the bag is of a part of the slide, whose mean features vary more than those of whole slides.
    """
    config, trained, unlike = bundle.config, "", ""
    if set(bag_identities(bag)) & set(config.training_slides):
        trained = (
            f"{config.name} was trained on this slide, so its risk tells nothing about new slides"
        )
    moments = bundle.network.moments()
    if config.training_distances and moments is not None and not of_part:
        centre, sd = (values.cpu().double().numpy() for values in moments)
        found = distance(mean_features(bag, centre.shape[1]), centre, sd)
        known = np.array(config.training_distances)
        share = float(np.interp(found, known, np.linspace(0, 1, len(known))))
        if share > _USUAL:
            unlike = (
                f"unlike the slides of the training: its mean features lie {found:.2g} SD from theirs, "
                f"percentile {100 * share:.0f} of the training slides (median {np.median(known):.2g})"
            )
    return [trained, unlike]


def mean_features(bag: FeatureBag, width: int) -> np.ndarray:
    """Return the mean features (3, E) float64 of a bag at 5x, 10x and 20x, NaN at an absent scale."""
    means = np.full((len(SCALES), width), np.nan)
    for row, scale in enumerate(SCALES):
        if scale in bag.scales and len(bag.scales[scale]):
            means[row] = bag.scales[scale].features.mean(axis=0, dtype=np.float64)
    return means
