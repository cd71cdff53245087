"""The encoder that ships with the package: stain, texture and blob statistics of H&E patches.

Nothing here is learned. A patch is unmixed into haematoxylin and eosin, and its maps are described
on a pyramid of 2 x 2 means, so that the full-resolution work is a handful of passes and the rest
is done on 1/4, 1/16, ... of the pixels. Every feature is a mean over the patch, which makes the
description the same (up to rounding) for flipped and quarter-turned patches.

At 20x the fine bands and the blob responses follow the size, darkness and number of nuclei; at 10x
glass by scale and the middle bands follow lumens and solid sheets; at 5x the coarse bands,
autocorrelations and the 4 x 4 layout follow nests and the mix of tumour and stroma.

References:
    Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution",
    Analytical and Quantitative Cytology and Histology 23:291-299, 2001 (stain vectors).
    Burt and Adelson, "The Laplacian pyramid as a compact image code", IEEE Transactions on
    Communications 31:532-540, 1983 (band energies).
    Bigun and Granlund, "Optimal orientation detection of linear symmetry", ICCV 1987 (coherence).
    Lindeberg, "Feature detection with automatic scale selection", IJCV 30:79-116, 1998 (blobs).
"""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

#: Raised whenever a feature changes its meaning; it is part of the hash of the weights.
VERSION = 1

#: RGB absorption of haematoxylin and eosin (Ruifrok and Johnston 2001).
HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)

#: From RGB optical density to haematoxylin and eosin: the inverse of their normalised vectors and
#: of a residual at right angles to both. The last row is the mean density. Written out, and not
#: inverted when needed, so that the hash is the same on every machine; a test does the inversion.
UNMIXING = (
    (1.482222, -0.161461, 0.509921),
    (-1.075411, 1.116222, -0.283925),
    (1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0),
)

#: Optical densities between which the soft cumulative histogram of each stain climbs from 0 to 1;
#: spread over what tissue pixels of five slides from four sources show.
HISTOGRAM_EDGES = (
    (0.0, 0.10, 0.18, 0.28, 0.42, 0.60, 0.85, 1.25),
    (0.0, 0.05, 0.10, 0.15, 0.20, 0.27, 0.36, 0.50),
)

#: Mean optical density at which a pixel counts as half glass, and the width of that decision. On
#: the same slides bare glass had medians of 0.02 to 0.05 and 95th percentiles up to 0.065.
GLASS_DENSITY = 0.07
GLASS_WIDTH = 0.015

#: Share of glass, cellular or stromal area in a block above which the block begins to count as
#: made of it.
BLOCK_SHARE = 0.6

#: Blob contrast (optical density above the surround) at which a local maximum counts in full.
BLOB_CONTRAST = 0.08

#: Surplus of haematoxylin over eosin, averaged over 8 pixels, at which tissue counts as half
#: cellular rather than stromal, and the width of that decision.
CELLULAR_SURPLUS = 0.10
CELLULAR_WIDTH = 0.06

#: Side of the map that every pyramid starts from, relative to the patch: levels 1 to 5 are maps of
#: 1/2 to 1/32 of the side (128 to 8 for a patch of 256).
LEVELS = (1, 2, 3, 4, 5)
COHERENCE_LEVELS = (1, 2, 3)
BLOB_LEVELS = (1, 2, 3, 4)
CORRELATION_LEVELS = (1, 3, 5)
AUTOCORRELATION_LAGS = (1, 2, 4, 8)  # pixels of level 3, that is 8 to 64 px of the patch

_LOG10_E = math.log10(math.e)
_STAINS = ("haematoxylin", "eosin")

# What each group of features is multiplied by, so that its standard deviation between tissue
# patches of real and simulated slides (5x, 10x and 20x) is between about 0.1 and 0.6, and its
# values stay below 5: far from the limits of float16 on both sides.
_SCALES = {
    "density": 4.0,
    "spread": 8.0,
    "histogram": 2.0,
    "band": 20.0,
    "coherence": 4.0,
    "glass": 2.0,
    "blob": 40.0,
    "peak": 60.0,
    "area": 4.0,
    "darkness": 3.0,
    "correlation": 2.0,
    "layout": 8.0,
    "cellular": 2.0,
}


def _names() -> Iterable[str]:
    yield from (f"od_mean_{channel}" for channel in ("red", "green", "blue"))
    yield from (f"mean_{stain}" for stain in _STAINS)
    yield from (f"sd_{stain}" for stain in _STAINS)
    for stain, edges in zip(_STAINS, HISTOGRAM_EDGES, strict=True):
        yield from (f"above_{edge:g}_{stain}" for edge in edges[:-1])
    for kind in ("abs", "rms"):
        yield from (f"band0_{kind}_{channel}" for channel in ("red", "green"))
    for level in LEVELS:
        for kind in ("abs", "rms"):
            yield from (f"band{level}_{kind}_{stain}" for stain in _STAINS)
    for level in COHERENCE_LEVELS:
        yield from (f"coherence{level}_{stain}" for stain in _STAINS)
    yield from (f"alignment_{stain}" for stain in _STAINS)
    yield from (f"glass{level}" for level in LEVELS)
    for level in BLOB_LEVELS:
        yield from (f"blob{level}_{kind}" for kind in ("contrast", "area", "peaks", "density"))
    yield from (f"correlation{level}" for level in CORRELATION_LEVELS)
    for lag in AUTOCORRELATION_LAGS:
        yield from (f"autocorrelation{lag}_{stain}" for stain in _STAINS)
    yield from ("cellular_area", "cellular_outline")
    for level in (4, 5):
        yield from (f"{tissue}{level}" for tissue in ("nests", "stroma"))
    yield from (f"layout_{kind}" for kind in (*_STAINS, "glass", "cellular", "blobs"))


#: What each column of the result is, in order.
FEATURE_NAMES: tuple[str, ...] = tuple(_names())


def _halve(maps: torch.Tensor) -> torch.Tensor:
    """Mean of 2 x 2 pixels: (B, C, H, W) to (B, C, H // 2, W // 2).

    Sums of slices, because they are vectorised on the CPU where `avg_pool2d` is not.
    """
    height, width = (side // 2 * 2 for side in maps.shape[-2:])
    rows = maps[..., 0:height:2, :] + maps[..., 1:height:2, :]
    return (rows[..., 0:width:2] + rows[..., 1:width:2]).mul_(0.25)


def _local_maxima(maps: torch.Tensor) -> torch.Tensor:
    """Which pixels exceed none of their 3 x 3 neighbours: (B, C, H, W) to (B, C, H-2, W-2)."""
    rows = torch.maximum(torch.maximum(maps[..., :-2, :], maps[..., 2:, :]), maps[..., 1:-1, :])
    highest = torch.maximum(torch.maximum(rows[..., :-2], rows[..., 2:]), rows[..., 1:-1])
    return maps[..., 1:-1, 1:-1] >= highest


def _blur(maps: torch.Tensor, step: int = 1) -> torch.Tensor:
    """Binomial 1-2-1 blur along both axes with taps `step` pixels apart; edges are repeated."""
    padded = torch.cat(
        [
            maps[..., :1, :].expand(-1, -1, step, -1),
            maps,
            maps[..., -1:, :].expand(-1, -1, step, -1),
        ],
        dim=-2,
    )
    rows = (padded[..., : -2 * step, :] + padded[..., 2 * step :, :]).mul_(0.25)
    rows.add_(maps, alpha=0.5)
    padded = torch.cat(
        [rows[..., :1].expand(-1, -1, -1, step), rows, rows[..., -1:].expand(-1, -1, -1, step)],
        dim=-1,
    )
    out = (padded[..., : -2 * step] + padded[..., 2 * step :]).mul_(0.25)
    return out.add_(rows, alpha=0.5)


def _mean(maps: torch.Tensor) -> torch.Tensor:
    """Mean over the two spatial axes: (B, C, H, W) to (B, C)."""
    return maps.flatten(2).mean(-1)


def _solid(maps: torch.Tensor) -> torch.Tensor:
    """Share of pixels of a pooled map in 0..1 that are nearly 1: (B, C, H, W) to (B, C)."""
    return _mean((maps - BLOCK_SHARE).clamp_(min=0.0)) / (1.0 - BLOCK_SHARE)


def _magnitudes(*maps: torch.Tensor) -> list[torch.Tensor]:
    """Mean absolute value and root mean square over all `maps`, each (B, C)."""
    absolute = torch.stack([_mean(m.abs()) for m in maps]).mean(0)
    squared = torch.stack([_mean(m.square()) for m in maps]).mean(0)
    return [absolute, squared.sqrt()]


class StainTexture(nn.Module):
    """Fixed filter bank from RGB patches to `len(FEATURE_NAMES)` features.

    The module has no parameters; its buffers hold the constants, so that the hash of its state
    differs between versions of the features.
    """

    version: torch.Tensor
    unmixing: torch.Tensor
    edges: torch.Tensor

    def __init__(self) -> None:
        """Lay out the constants."""
        super().__init__()
        self.register_buffer("version", torch.tensor(VERSION))
        self.register_buffer("unmixing", torch.tensor(UNMIXING))
        self.register_buffer("edges", torch.tensor(HISTOGRAM_EDGES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Describe a batch.

        Args:
            images: RGB in 0..1, `(B, 3, H, W)`, sides of at least 64 pixels.

        Returns:
            `(B, len(FEATURE_NAMES))`, float32.
        """
        finest, half = self._split(images)
        # One grey level is the least light that differs from none.
        logarithm = half.clamp_(min=1.0 / 255.0).log_()  # (B, 3, H / 2, W / 2)
        batch, _, height, width = logarithm.shape
        density = logarithm.mul_(-_LOG10_E)
        planes = torch.matmul(self.unmixing, density.flatten(2)).view(batch, 3, height, width)
        planes.clamp_(min=0.0)
        # From here on the third plane is how sure a pixel is to be glass.
        planes[:, 2].sub_(GLASS_DENSITY).mul_(-1.0 / GLASS_WIDTH).sigmoid_()
        pyramid = {1: planes}  # level: (B, 3, h, w) of haematoxylin, eosin and glass
        for level in LEVELS[1:]:
            pyramid[level] = _halve(pyramid[level - 1])
        blurred = {level: _blur(pyramid[level][:, :2]) for level in LEVELS}

        stains = pyramid[1][:, :2]
        means = _mean(stains)  # (B, 2)
        spread = (_mean(stains.square()) - means.square()).clamp(min=0).sqrt()
        blobs, blob_map = self._blobs(pyramid, blurred)
        nests, cellular = self._cellular(pyramid)
        features = [
            _mean(density) * _SCALES["density"],
            means * _SCALES["density"],
            spread * _SCALES["spread"],
            self._histogram(stains) * _SCALES["histogram"],
            *(band * _SCALES["band"] for band in finest),
        ]
        for level in LEVELS:
            bands = _magnitudes(pyramid[level][:, :2] - blurred[level])
            features += [band * _SCALES["band"] for band in bands]
        features += [
            self._coherence(pyramid) * _SCALES["coherence"],
            self._glass(pyramid) * _SCALES["glass"],
            blobs,
            self._correlation(pyramid) * _SCALES["correlation"],
            self._autocorrelation(pyramid[3][:, :2]) * _SCALES["correlation"],
            nests * _SCALES["cellular"],
            self._layout(pyramid, cellular, blob_map) * _SCALES["layout"],
        ]
        return torch.cat(features, dim=1)

    @staticmethod
    def _split(images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Finest band of transmitted red and green light, and the 2 x 2 means of all channels.

        The only full-resolution work, hence Haar differences, which share their sums with the
        means, and light instead of optical density: a logarithm of every pixel would cost as much
        as everything else together. Red is what haematoxylin absorbs and eosin lets pass; green
        is absorbed by both.
        """
        height, width = (side // 2 * 2 for side in images.shape[-2:])
        upper, lower = images[..., 0:height:2, :], images[..., 1:height:2, :]
        rows = upper + lower
        left, right = rows[..., 0:width:2], rows[..., 1:width:2]
        vertical = (upper[:, :2] - lower[:, :2]).mul_(0.5)
        horizontal = (left[:, :2] - right[:, :2]).mul_(0.25)
        return _magnitudes(vertical, horizontal), (left + right).mul_(0.25)

    def _histogram(self, stains: torch.Tensor) -> torch.Tensor:
        """Soft shares of pixels above each edge: (B, 2 * 7), stain after stain."""
        # mean(clip((x - low) / (high - low), 0, 1)), from means of x clipped at each edge.
        columns = []
        for plane, edges in zip(stains.split(1, dim=1), HISTOGRAM_EDGES, strict=True):
            columns.append(torch.cat([_mean(plane.clamp(max=edge)) for edge in edges], dim=1))
        return (torch.stack(columns, dim=1).diff(dim=2) / self.edges.diff()).flatten(1)

    @staticmethod
    def _coherence(pyramid: dict[int, torch.Tensor]) -> torch.Tensor:
        """How far gradients agree in direction, 0 to 1, in windows of 8 pixels of each level.

        The last two columns take the whole patch as the window, at level 2.
        """
        columns, whole = [], []
        for level in COHERENCE_LEVELS:
            stains = pyramid[level][:, :2]
            # A margin that is the same on all sides keeps flipped patches alike.
            margin = (stains.shape[-1] - 2) % 8 // 2
            stains = stains[
                ..., margin : stains.shape[-2] - margin, margin : stains.shape[-1] - margin
            ]
            dx = stains[..., 1:-1, 2:] - stains[..., 1:-1, :-2]
            dy = stains[..., 2:, 1:-1] - stains[..., :-2, 1:-1]
            tensor = torch.cat([dx * dx, dy * dy, dx * dy], dim=1)  # (B, 6, h, w)
            xx, yy, xy = _halve(_halve(_halve(tensor))).chunk(3, dim=1)
            anisotropy = ((xx - yy).square() + 4 * xy.square()).sqrt()
            columns.append(_mean(anisotropy) / (_mean(xx + yy) + 1e-6))
            if level == 2:
                xx, yy, xy = _mean(xx), _mean(yy), _mean(xy)
                anisotropy = ((xx - yy).square() + 4 * xy.square()).sqrt()
                whole.append(anisotropy / (xx + yy + 1e-6))
        return torch.cat(columns + whole, dim=1)

    @staticmethod
    def _glass(pyramid: dict[int, torch.Tensor]) -> torch.Tensor:
        """Share of glass or lumen, then of blocks of each level that are all glass: (B, 5).

        A coarser level counts only larger holes, which separates lumens from cracks and vacuoles.
        """
        shares = [_mean(pyramid[1][:, 2:])]
        shares += [_solid(pyramid[level][:, 2:]) for level in LEVELS[1:]]
        return torch.cat(shares, dim=1)

    @staticmethod
    def _blobs(
        pyramid: dict[int, torch.Tensor], blurred: dict[int, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Differences of Gaussians of haematoxylin, and the blob map of level 2.

        Each level contributes the mean contrast of blobs to their surround, the share of the patch
        that they cover, the number of separate maxima, and the optical density inside them.
        """
        columns = []
        for level in BLOB_LEVELS:
            centre = blurred[level][:, :1]
            response = centre - _blur(_blur(centre), step=2)
            inside = response.clamp(min=0.0)
            strength = _mean(inside)
            covered = (inside * (1.0 / BLOB_CONTRAST)).clamp_(max=1.0)
            peaks = covered[..., 1:-1, 1:-1] * _local_maxima(response)
            darkness = _mean(inside * pyramid[level][:, :1]) / (strength + 1e-3)
            columns += [
                strength * _SCALES["blob"],
                _mean(covered) * _SCALES["area"],
                _mean(peaks) * _SCALES["peak"],
                darkness * _SCALES["darkness"],
            ]
            if level == 2:
                blob_map = inside
        return torch.cat(columns, dim=1), blob_map

    @staticmethod
    def _correlation(pyramid: dict[int, torch.Tensor]) -> torch.Tensor:
        """Correlation of haematoxylin with eosin at each level: (B, 3)."""
        columns = []
        for level in CORRELATION_LEVELS:
            stains = pyramid[level][:, :2].flatten(2)
            centred = stains - stains.mean(-1, keepdim=True)
            variance = centred.square().mean(-1)
            product = (centred[:, 0] * centred[:, 1]).mean(-1, keepdim=True)
            columns.append(product / (variance.prod(1, keepdim=True).sqrt() + 1e-4))
        return torch.cat(columns, dim=1)

    @staticmethod
    def _autocorrelation(stains: torch.Tensor) -> torch.Tensor:
        """Correlation of each stain with itself at several distances: (B, 2 * lags)."""
        centred = stains - _mean(stains)[..., None, None]
        variance = _mean(centred.square()) + 1e-4
        columns = []
        for lag in AUTOCORRELATION_LAGS:
            across = _mean(centred[..., lag:] * centred[..., :-lag])
            down = _mean(centred[..., lag:, :] * centred[..., :-lag, :])
            columns.append((across + down) * 0.5 / variance)
        return torch.cat(columns, dim=1)

    @staticmethod
    def _cellular(pyramid: dict[int, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Nests and stroma: (B, 6), and the map of cellular area of level 3.

        Cellular area, length of its outline, then blocks of levels 4 and 5 that are all cellular
        or all stroma: broad nests fill blocks, infiltrating strands do not.
        """
        surplus = pyramid[3][:, :1] - pyramid[3][:, 1:2]
        cellular = torch.sigmoid((surplus - CELLULAR_SURPLUS) * (1.0 / CELLULAR_WIDTH))
        outline = _mean((cellular[..., 1:] - cellular[..., :-1]).abs()) + _mean(
            (cellular[..., 1:, :] - cellular[..., :-1, :]).abs()
        )
        columns = [_mean(cellular), outline]
        blocks = torch.cat([cellular, 1.0 - cellular], dim=1)
        for _ in (4, 5):
            blocks = _halve(blocks)
            columns.append(_solid(blocks))
        return torch.cat(columns, dim=1), cellular

    @staticmethod
    def _layout(
        pyramid: dict[int, torch.Tensor], cellular: torch.Tensor, blob_map: torch.Tensor
    ) -> torch.Tensor:
        """Spread of five maps over a 4 x 4 grid: (B, 5)."""
        maps = [pyramid[3][:, :2], pyramid[3][:, 2:] * 0.5, cellular * 0.5, _halve(blob_map) * 5.0]
        cells = F.adaptive_avg_pool2d(torch.cat(maps, dim=1), 4).flatten(2)  # (B, 5, 16)
        return (cells - cells.mean(-1, keepdim=True)).square().mean(-1).sqrt()
