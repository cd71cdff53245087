"""Small pictures: photographs as WebP, tiles as a PNG of one pixel each."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
from PIL import Image

#: Colours of a map. More cannot be told apart over tissue and would make the file larger. The number is
#: odd, so that one colour is exactly zero.
LEVELS = 31


def photograph(image: np.ndarray, side: int, quality: int) -> str:
    """Encode an image, (h, w, 3) uint8 RGB, with its longer side at most `side` pixels, as a data URI.

    WebP of the given quality (0 to 100) shows nuclei sharper than JPEG of the same size, and browsers
    have supported it since 2020.
    """
    height, width = image.shape[:2]
    shrink = min(1.0, side / max(height, width))
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(
        ".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality]
    )
    return _uri("webp", data.tobytes())


def tiles_picture(cells: np.ndarray, shares: np.ndarray, colours: np.ndarray) -> str:
    """Draw each tile as one pixel; pixels without a tile or with an unknown value are transparent.

    Args:
        cells: (N, 2) column and row of each tile, N at least 1.
        shares: (N,) place on the colour scale, 0 to 1; NaN where unknown.
        colours: (M, 4) uint8 RGBA of the scale.

    Returns:
        A data URI of a PNG from the first column and row to the last.
    """
    picked = colours[np.rint(np.linspace(0, len(colours) - 1, LEVELS)).astype(np.intp)]
    known = np.isfinite(shares)
    level = np.rint(np.clip(np.where(known, shares, 0), 0, 1) * (LEVELS - 1)).astype(np.uint8)
    place = cells - cells.min(axis=0)
    pixels = np.zeros((place[:, 1].max() + 1, place[:, 0].max() + 1), np.uint8)
    pixels[place[:, 1], place[:, 0]] = np.where(known, level + 1, 0)
    palette = np.vstack([np.zeros((1, 4), np.uint8), picked])
    image = Image.fromarray(pixels)
    image.putpalette(palette[:, :3].tobytes())
    data = io.BytesIO()
    image.save(data, "PNG", transparency=palette[:, 3].tobytes(), optimize=True)
    return _uri("png", data.getvalue())


def colour_bar(colours: np.ndarray) -> str:
    """Draw a colour scale, (M, 4) uint8 RGBA, from left to right; a data URI of a PNG."""
    data = io.BytesIO()
    Image.fromarray(colours[None]).save(data, "PNG", optimize=True)
    return _uri("png", data.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
