"""Turn amounts of haematoxylin and eosin into the colours of a scanned slide."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Amount = npt.NDArray[np.uint8]

# Optical densities in red, green and blue per unit of stain: the reference vectors of Macenko et al., "A
# method for normalizing histology slides for quantitative analysis" (ISBI 2009).
_HAEMATOXYLIN = np.array([0.5626, 0.7201, 0.4062])
_EOSIN = np.array([0.2159, 0.8012, 0.5581])
# Densities (natural logarithm) at the amount 255.
_HAEMATOXYLIN_RANGE = 3.4
_EOSIN_RANGE = 2.3

_NOISE_PERIOD = 512


@dataclass(frozen=True)
class Stain:
    """Colours of one slide: its two stains and its light, drawn independently of its tissue.

    Attributes:
        haematoxylin: (256, 1, 3) uint8, light transmitted by each amount of haematoxylin.
        eosin: (256, 1, 3) uint8, light transmitted by each amount of eosin.
        glass: (S, S, 3) uint8, empty glass with the scanner's noise, one period wider than a block.
    """

    haematoxylin: Pixels
    eosin: Pixels
    glass: Pixels

    @classmethod
    def draw(cls, rng: np.random.Generator, block: int) -> "Stain":
        """Draw the stains and the light of a slide that is painted in blocks of up to `block` pixels."""
        tables = []
        for vector, reach in ((_HAEMATOXYLIN, _HAEMATOXYLIN_RANGE), (_EOSIN, _EOSIN_RANGE)):
            hue = np.clip(vector + rng.normal(0, 0.03, 3), 0.03, None)
            strength = reach * np.exp(rng.normal(0, 0.1))
            density = np.arange(256)[:, None, None] / 255 * strength * hue
            tables.append(np.round(255 * np.exp(-density)).astype(np.uint8))
        white = rng.uniform(238, 247) + rng.normal(0, 1.0, 3)
        noise = rng.normal(0, 1.1, (_NOISE_PERIOD, _NOISE_PERIOD, 3)).astype(np.float32)
        tile = np.clip(np.round(white + noise), 0, 255).astype(np.uint8)
        repeats = -(-block // _NOISE_PERIOD) + 1
        return cls(tables[0], tables[1], np.tile(tile, (repeats, repeats, 1)))

    def empty(self, x: int, y: int, width: int, height: int) -> Pixels:
        """Empty glass at (x, y): (height, width, 3) uint8 RGB, a view that must not be written to."""
        top, left = y % _NOISE_PERIOD, x % _NOISE_PERIOD
        return self.glass[top : top + height, left : left + width]

    def develop(self, haematoxylin: Amount, eosin: Amount, glass: Pixels) -> Pixels:
        """Colours of stained tissue on glass by the Beer-Lambert law.

        Args:
            haematoxylin: (height, width) uint8, amount of haematoxylin.
            eosin: (height, width) uint8, amount of eosin.
            glass: (height, width, 3) uint8, the glass below.

        Returns:
            (height, width, 3) uint8 RGB.
        """
        blue = cv2.applyColorMap(haematoxylin, self.haematoxylin)
        pink = cv2.applyColorMap(eosin, self.eosin)
        through = cv2.multiply(blue, pink, dst=blue, scale=1 / 255)
        return cv2.multiply(through, glass, dst=through, scale=1 / 255)
