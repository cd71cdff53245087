"""Paint blocks of a slide from its maps and nuclei."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from tiacrossfusion.simulation.aperio import BLOCK
from tiacrossfusion.simulation.epithelium import MICRONS_PER_PIXEL
from tiacrossfusion.simulation.fields import Field
from tiacrossfusion.simulation.nuclei import Nuclei, NucleusKind
from tiacrossfusion.simulation.staining import Stain
from tiacrossfusion.simulation.stamps import N_DIRECTIONS, draw_stamps

Pixels = npt.NDArray[np.uint8]
Amount = npt.NDArray[np.uint8]

Value = TypeVar("Value", bound=np.generic)

# Signed distances are stored as bytes: this value is 0, and a step an eighth of a micrometre.
_EDGE = 128
_STEPS_PER_MICRON = 8

_CYTOPLASM_EOSIN = 62
_CYTOPLASM_HAEMATOXYLIN = 34
_STROMA_HAEMATOXYLIN = 7
_FIBRE_PERIOD = 512  # µm
_GRAIN_PERIODS = (512, 441)  # px


@dataclass(frozen=True)
class TissueMaps:
    """Maps of the tissue for the painter, at 2 µm/px (H2, W2) or 8 µm/px (H8, W8).

    Attributes:
        empty: (H2, W2) uint8, signed distance from lumens, fat vacuoles and glass; see
            :func:`encode_distance`.
        epithelium: (H2, W2) uint8, signed distance from the edge of glands and nests.
        collagen: (H2, W2) uint8, amount of eosin in the stroma.
        fibres: (H8, W8, 2) float32, position along and across the fibres in µm.
        tissue: (H8, W8) uint8, 0 where there is only glass.
    """

    empty: Amount
    epithelium: Amount
    collagen: Amount
    fibres: Field
    tissue: Amount


def encode_distance(distance: Field) -> Amount:
    """Encode signed distances in µm (positive inside, up to 16) as uint8, with 128 on the edge."""
    return np.clip(distance * _STEPS_PER_MICRON + _EDGE, 0, 255).astype(np.uint8)


class Painter:
    """Paints any block of one slide; blocks do not depend on each other."""

    def __init__(self, maps: TissueMaps, nuclei: Nuclei, stain: Stain, mpp: float) -> None:
        """Prepare to paint a slide.

        Args:
            maps: the tissue.
            nuclei: its nuclei.
            stain: its colours.
            mpp: micrometres per pixel to paint at.
        """
        self._maps = maps
        self._nuclei = nuclei
        self._stain = stain
        self._mpp = mpp
        self._stamps = draw_stamps(mpp)
        self._reach = max(stamps.eosin.shape[-1] // 2 + 1 for stamps in self._stamps.values())
        self._grain = _grain(mpp)
        blur = max(0.7, mpp)
        self._inside = _ramp(0.0, blur)
        self._tissue_left = 255 - _ramp(0.0, 1.2 * blur)

    def __call__(self, x: int, y: int, width: int, height: int) -> Pixels:
        """Paint the block at (x, y), in level-0 pixels: (height, width, 3) uint8 RGB."""
        glass = self._stain.empty(x, y, width, height)
        if not self._crop(self._maps.tissue, 8.0, (x, y, width, height), 64).any():
            return glass
        haematoxylin, eosin = self._paint_ground(x, y, width, height)
        self._stamp_nuclei(x, y, haematoxylin, eosin)
        return self._stain.develop(haematoxylin, eosin, glass)

    def _paint_ground(self, x: int, y: int, width: int, height: int) -> tuple[Amount, Amount]:
        """Everything but nuclei: amounts of haematoxylin and eosin, (height, width) each."""
        block = (x, y, width, height)
        maps = self._maps
        inside = cv2.LUT(self._crop(maps.epithelium, MICRONS_PER_PIXEL, block, 1), self._inside)
        left = cv2.LUT(self._crop(maps.empty, MICRONS_PER_PIXEL, block, 1), self._tissue_left)
        collagen = self._crop(maps.collagen, MICRONS_PER_PIXEL, block, 1)

        # The map of fibres distorts a straight texture into waves. Fibres are coarser than pixels, so
        # half the resolution is enough.
        where = self._crop(maps.fibres, 8.0, block, 2)
        where -= np.floor(where[0, 0] / _FIBRE_PERIOD) * np.float32(_FIBRE_PERIOD)
        texture = cv2.remap(_fibres(), where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        texture = cv2.resize(texture, (width, height), interpolation=cv2.INTER_LINEAR)
        stroma = cv2.multiply(collagen, texture, dst=texture, scale=1 / 128)

        # Two textures whose periods have no common divisor: their sum does not repeat on the slide.
        first, second = (
            tile[y % period : y % period + height, x % period : x % period + width]
            for tile, period in zip(self._grain, _GRAIN_PERIODS, strict=True)
        )
        grain = cv2.add(first, second)
        # Both parts of the mixture: cell * inside + stroma * (1 - inside).
        eosin = cv2.multiply(grain, inside, scale=_CYTOPLASM_EOSIN / (255 * 128))
        outside = cv2.bitwise_not(inside)
        eosin = cv2.add(eosin, cv2.multiply(stroma, outside, dst=stroma, scale=1 / 255), dst=eosin)
        haematoxylin = cv2.multiply(
            grain, inside, scale=(_CYTOPLASM_HAEMATOXYLIN - _STROMA_HAEMATOXYLIN) / (255 * 128)
        )
        haematoxylin = cv2.add(haematoxylin, _STROMA_HAEMATOXYLIN, dst=haematoxylin)
        cv2.multiply(eosin, left, dst=eosin, scale=1 / 255)
        cv2.multiply(haematoxylin, left, dst=haematoxylin, scale=1 / 255)
        return haematoxylin, eosin

    def _crop(
        self, values: npt.NDArray[Value], mpp: float, block: tuple[int, ...], step: int
    ) -> npt.NDArray[Value]:
        """A map at `mpp` within a block, sampled once every `step` pixels of the slide."""
        x, y, width, height = block
        scale = step * self._mpp / mpp
        # Centre of the first sample, in pixels of the map.
        left, top = ((corner + step / 2) * self._mpp / mpp - 0.5 for corner in (x, y))
        to_map = np.array([[scale, 0, left], [0, scale, top]])
        return cv2.warpAffine(
            values,
            to_map,
            (math.ceil(width / step), math.ceil(height / step)),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def _stamp_nuclei(self, x: int, y: int, haematoxylin: Amount, eosin: Amount) -> None:
        """Stamp every nucleus that reaches into a block, in place."""
        height, width = eosin.shape
        nuclei = self._nuclei
        reach = self._reach
        top, bottom = ((y - reach) * self._mpp, (y + height + reach) * self._mpp)
        first, last = np.searchsorted(nuclei.points[:, 1], [top, bottom]).tolist()
        points = np.floor(nuclei.points[first:last] / self._mpp).astype(int) - (x, y)
        near = np.nonzero((points[:, 0] >= -reach) & (points[:, 0] < width + reach))[0]
        directions = np.round(nuclei.angles[first:last][near] * (N_DIRECTIONS / math.pi))
        drawn = zip(
            points[near].tolist(),
            nuclei.kinds[first:last][near].tolist(),
            nuclei.looks[first:last][near].tolist(),
            (directions.astype(int) % N_DIRECTIONS).tolist(),
            strict=True,
        )
        for (column, row), kind, look, direction in drawn:
            stamps = self._stamps[NucleusKind(kind)]
            look %= len(stamps.eosin)
            blue = stamps.haematoxylin[look, direction]
            pink = stamps.eosin[look, direction]
            half = blue.shape[0] // 2
            y0, x0 = row - half, column - half
            if y0 < 0 or x0 < 0 or row + half >= height or column + half >= width:
                cut = (
                    slice(max(0, -y0), max(0, height - y0)),
                    slice(max(0, -x0), max(0, width - x0)),
                )
                blue, pink = blue[cut], pink[cut]
                y0, x0 = max(0, y0), max(0, x0)
            here = (slice(y0, y0 + blue.shape[0]), slice(x0, x0 + blue.shape[1]))
            ground = haematoxylin[here]
            np.maximum(ground, blue, out=ground)
            ground = eosin[here]
            np.minimum(ground, pink, out=ground)


def _ramp(edge: float, blur: float) -> Amount:
    """Table from encoded distances to 255 inside and 0 outside, with a blurred edge (µm)."""
    distance = (np.arange(256) - _EDGE) / _STEPS_PER_MICRON
    return np.round(255 * np.clip((distance - edge) / blur + 0.5, 0, 1)).astype(np.uint8)


@lru_cache(maxsize=1)
def _fibres() -> Amount:
    """Texture of fibres that run along the rows, at 1 µm/px, three periods: (1536, 1536) uint8."""
    rng = np.random.default_rng(11)
    texture = np.zeros((_FIBRE_PERIOD, _FIBRE_PERIOD), np.float32)
    for along, across, weight in ((6, 0.6, 0.6), (10, 1.6, 0.6), (12, 6.0, 0.35)):
        texture += weight * _periodic_noise(rng, _FIBRE_PERIOD, along, across)
    return np.tile(np.clip(128 + 20 * texture, 30, 240).astype(np.uint8), (3, 3))


@lru_cache(maxsize=4)
def _grain(mpp: float) -> list[Amount]:
    """Two textures of cytoplasm whose sum is about 128, one period and one block wide."""
    rng = np.random.default_rng(12)
    tiles = []
    for period in _GRAIN_PERIODS:
        texture = np.zeros((period, period), np.float32)
        for size, weight in ((0.5, 0.5), (1.6, 0.6), (5.0, 0.7)):
            texture += weight * _periodic_noise(rng, period, size / mpp, size / mpp)
        tile = np.clip(64 + 14 * texture, 10, 120).astype(np.uint8)
        tiles.append(np.pad(tile, (0, BLOCK), mode="wrap"))
    return tiles


def _periodic_noise(rng: np.random.Generator, period: int, along: float, across: float) -> Field:
    """Periodic Gaussian noise of the given widths in pixels, (period, period) float32."""
    noise = rng.standard_normal((period, period))
    frequency = 2 * np.pi * np.fft.fftfreq(period)
    kept = np.exp(-0.5 * ((frequency[:, None] * across) ** 2 + (frequency[None, :] * along) ** 2))
    smooth = np.fft.ifft2(np.fft.fft2(noise) * kept).real
    return (smooth / smooth.std()).astype(np.float32)
