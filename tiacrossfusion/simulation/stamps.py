"""Draw pictures of single nuclei, which are pasted many times."""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from tiacrossfusion.simulation.nuclei import NucleusKind

N_DIRECTIONS = 16


@dataclass(frozen=True)
class Stamps:
    """Pictures of one kind of nucleus, for every look in every direction.

    Attributes:
        haematoxylin: (looks, 16, S, S) uint8, amount of haematoxylin; 0 outside the nucleus.
        eosin: (looks, 16, S, S) uint8, upper limit of the amount of eosin; 255 outside the nucleus.
    """

    haematoxylin: npt.NDArray[np.uint8]
    eosin: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Look:
    """How the nuclei of a kind vary; lengths in µm, amounts of haematoxylin from 0 to 255."""

    n_looks: int
    radius: float
    size_spread: float  # standard deviation of the logarithm of the radius
    elongation: tuple[float, float]  # long axis over short axis
    irregularity: float  # relative depth of the waves of the outline
    body: tuple[float, float]  # amount of haematoxylin of the palest and of the darkest look
    rim: float  # amount added along the membrane
    grain: float  # standard deviation of the chromatin texture
    nucleoli: float  # amount added in nucleoli


_LOOKS = {
    NucleusKind.REGULAR: _Look(16, 2.95, 0.05, (1.1, 1.4), 0.03, (125, 145), 12, 14, 0),
    NucleusKind.ATYPICAL: _Look(40, 4.3, 0.22, (1.0, 1.6), 0.09, (40, 130), 45, 18, 80),
    NucleusKind.MITOSIS: _Look(16, 2.5, 0.15, (1.3, 2.3), 0.22, (205, 225), 0, 12, 0),
    NucleusKind.FIBROBLAST: _Look(16, 2.2, 0.12, (3.5, 6.0), 0.06, (110, 140), 0, 14, 0),
    NucleusKind.LYMPHOCYTE: _Look(16, 2.75, 0.06, (1.0, 1.15), 0.03, (165, 190), 6, 26, 0),
}


@lru_cache(maxsize=4)
def draw_stamps(mpp: float) -> dict[NucleusKind, Stamps]:
    """Draw the pictures of every kind of nucleus at a resolution; they are the same for all slides."""
    return {kind: _draw(np.random.default_rng(kind), look, mpp) for kind, look in _LOOKS.items()}


def _draw(rng: np.random.Generator, look: _Look, mpp: float) -> Stamps:
    n = look.n_looks
    radius = look.radius * np.exp(np.clip(rng.normal(0, look.size_spread, n), -0.5, 0.5))
    stretch = np.sqrt(rng.uniform(*look.elongation, n))
    long, short = radius * stretch, radius / stretch
    half = math.ceil((float(long.max()) * (1 + 2 * look.irregularity) + 1.0) / mpp)
    across = (np.arange(2 * half + 1) - half) * mpp
    y, x = np.meshgrid(across, across, indexing="ij")
    directions = np.arange(N_DIRECTIONS) * math.pi / N_DIRECTIONS
    cosine, sine = (f(directions)[:, None, None] for f in (np.cos, np.sin))
    # Coordinates along and across the long axis: (16, S, S), one look at a time from here on.
    turned_x, turned_y = cosine * x + sine * y, cosine * y - sine * x

    haematoxylin = np.empty((n, N_DIRECTIONS, *x.shape), np.uint8)
    eosin = np.empty_like(haematoxylin)
    for number in range(n):
        u, v = turned_x / long[number], turned_y / short[number]
        polar = np.arctan2(v, u)
        outline = np.ones_like(polar)
        for wave in range(2, 6):
            depth = look.irregularity * rng.normal(0, 1) * 2 / wave
            outline += depth * np.cos(wave * polar + rng.uniform(0, 2 * math.pi))
        inwards = (outline - np.hypot(u, v)) * short[number]
        # The lens blurs about half a micrometre.
        cover = np.clip(inwards / max(0.7, mpp) + 0.5, 0, 1)

        dark = rng.random() ** 1.5
        body = look.body[0] + (look.body[1] - look.body[0]) * dark
        pale = 1 - dark
        amount = np.full_like(u, body)
        amount += look.rim * pale * np.exp(-((inwards / 0.6 - 0.8) ** 2))
        grain = cv2.GaussianBlur(rng.standard_normal((x.shape[0], x.shape[0])), (0, 0), 0.5 / mpp)
        amount += look.grain * grain / grain.std()
        if look.nucleoli:
            for _ in range(int(rng.integers(1, 3))):
                at_u, at_v = rng.normal(0, 0.28, 2)
                gap = np.hypot((u - at_u) * long[number], (v - at_v) * short[number])
                amount += look.nucleoli * pale * np.exp(-((gap / rng.uniform(0.8, 1.2)) ** 4))
        haematoxylin[number] = np.clip(cover * amount, 0, 255)
        eosin[number] = np.clip(255 - cover * (255 - 38), 0, 255)
    return Stamps(haematoxylin, eosin)
