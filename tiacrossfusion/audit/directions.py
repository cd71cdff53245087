"""Directions in which the mean features of slides differ: between sites, along components, by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tiacrossfusion.networks.perturbed import Audited, risks
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES

#: Principal components of the slides' means, and random directions, that are compared.
COMPONENTS, RANDOM = 5, 20


@dataclass(frozen=True)
class Direction:
    """What moving all slides along a direction does to their risks.

    Attributes:
        name: "site A" (its mean less that of the others), "component 1" or "random".
        length: root of the mean square over features and scales, in SDs of a token.
        size: mean size of the change of the risk, in SDs of the risks.
        per_length: the same at a length of .1.
    """

    name: str
    length: float
    size: float
    per_length: float


def site_directions(means: np.ndarray, sites: np.ndarray, least: int) -> dict[str, np.ndarray]:
    """Return for each site its mean less that of the others, (S, E).

    Args:
        means: (N, S, E) standardised mean features of patients at each scale.
        sites: (N,) names.
        least: patients of a site, and of the others.
    """
    found = {}
    for site in np.unique(sites):
        own = sites == site
        if min(own.sum(), (~own).sum()) >= least:
            found[f"site {site}"] = means[own].mean(axis=0) - means[~own].mean(axis=0)
    return found


def component_directions(means: np.ndarray) -> dict[str, np.ndarray]:
    """Return the principal components (S, E) of the means (N, S, E), each one SD long."""
    flat = means.reshape(len(means), -1)
    _, values, vectors = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    return {
        f"component {place + 1}": (values[place] / np.sqrt(len(means)) * vectors[place]).reshape(
            means.shape[1:]
        )
        for place in range(min(COMPONENTS, len(values) - 1))
    }


def compare_directions(
    audited: Audited,
    slides: Sequence[SlideTokens],
    directions: dict[str, np.ndarray],
    before: Tensor,
    seed: int,
) -> list[Direction]:
    """Move all slides along each direction (S, E), and along random ones of the median length.

    Args:
        audited: the network, with S scales.
        slides: whose risks are looked at.
        directions: by name.
        before: (N,) their risks.
        seed: of the random directions.

    Returns:
        Those of the largest change of the risk first, at their own length.
    """
    rng = np.random.default_rng(seed)
    lengths = [np.sqrt((each**2).mean()) for each in directions.values()]
    shape = next(iter(directions.values())).shape
    every = dict(directions)
    for number in range(RANDOM):
        drawn = rng.standard_normal(shape)
        every[f"random {number + 1}"] = drawn * np.median(lengths) / np.sqrt((drawn**2).mean())
    sd = float(before.std(correction=0)) or 1.0
    found = []
    for name, direction in every.items():
        delta = {
            scale: torch.from_numpy(row).to(audited.sd)
            for scale, row in zip(audited.scales, direction, strict=True)
        }
        size = float((risks(audited, slides, delta) - before).abs().mean()) / sd
        length = float(np.sqrt((direction**2).mean()))
        found.append(Direction(name, length, size, size * 0.1 / length if length else 0.0))
    return sorted(found, key=lambda one: -one.size)


def mean_features(audited: Audited, slides: Sequence[SlideTokens]) -> np.ndarray:
    """Return the standardised mean features (N, S, E) of slides at the network's scales."""
    rows = []
    for slide in slides:
        of_scales = []
        for scale in audited.scales:
            place = SCALES.index(scale)
            mean = slide.features[scale][0].to(audited.sd).mean(dim=0)
            of_scales.append(((mean - audited.mean[place]) / audited.sd[place]).cpu())
        rows.append(torch.stack(of_scales))
    return torch.stack(rows).double().numpy()
