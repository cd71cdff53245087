"""Extract one bag of features from one slide."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, Provenance
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.encoding import EncodedPatches
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.slides.files import slide_identity
from tiacrossfusion.slides.grid import PatchGrid, cell_side_20x, nested_grids
from tiacrossfusion.slides.options import Mask, PixelChange, ReadOptions, WholeSlide
from tiacrossfusion.slides.patches import check_enlargement
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.slides.tissue import tissue_mask, user_mask

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder
    from tiacrossfusion.encoders.spec import EncoderSpec


_log = logging.getLogger(__name__)

_VERSIONED = ("tiacrossfusion", "tiatoolbox", "torch", "timm", "openslide-python", "numpy")


def extract_bag(
    slide: Slide,
    spec: SamplingSpec,
    encoder: Encoder,
    read: ReadOptions | None = None,
    *,
    scales: Sequence[str] = SCALES,
    progress: Progress | None = None,
) -> FeatureBag:
    """Turn a slide into a bag of features.

    Args:
        slide: an open slide.
        spec: how patches are laid and kept.
        encoder: turns patches into features.
        read: mask, batch size and number of workers, None for the defaults; the scale is settled when
            the slide is opened.
        scales: that are read; all patches of a slide lie where a 20x patch has tissue, whichever are read.
        progress: bars to move.

    Returns:
        The bag. Patches that cannot be read because the file is damaged are left out, with their child
        patches and with parents that have no children left; the provenance counts them, the log names
        them.

    Raises:
        TiacfError: the slide is not brightfield, has no tissue or is damaged all over, or the mask is
            unfit.
    """
    read, progress = read or ReadOptions(), progress or Progress(1, show=False)
    label, mask = slide.path or slide.name, read.mask
    progress.stage(slide.name, "tissue")
    grids, classes = tissue_grids(slide, spec, read)
    if classes:
        _log.info("%s: %s", label, classes)
    if len(grids["20x"]) == 0:
        raise TiacfError(f"{label}: {no_tissue(spec, mask)}")
    progress.stage(slide.name, "patches", sum(len(grids[scale]) for scale in scales))
    patches = EncodedPatches(slide, grids, spec, encoder, read, progress)
    kept = patches.encode_families(scales)
    made = bag_provenance(slide, spec, encoder.spec, read)
    return patches.bag(kept, made.model_copy(update={"mask_classes": classes}))


def tissue_grids(
    slide: Slide,
    spec: SamplingSpec,
    read: ReadOptions,
    *,
    change: PixelChange | None = None,
    margin: float = 0.0,
) -> tuple[dict[str, PatchGrid], str]:
    """Lay the grids over the tissue of a slide, from the user's mask or found in the slide.

    Args:
        slide: an open slide.
        spec: how patches are laid and kept.
        read: the mask, and whether patches may be enlarged.
        change: of the pixels in which tissue is found.
        margin: see `nested_grids`.

    Returns:
        The grids, and which classes of areas the mask was made of, in words; may be empty.

    Raises:
        TiacfError: the slide is too coarse, not brightfield or smaller than a patch, or the mask is unfit.
    """
    check_enlargement(slide, spec, allow=read.allow_enlarged)
    mask = read.mask
    side = cell_side_20x(slide, spec)
    if slide.dimensions[0] < side[0] or slide.dimensions[1] < side[1]:
        width, height = slide.dimensions
        raise TiacfError(
            f"{slide.path or slide.name}: {width} x {height} pixels are less than one 20x patch, which "
            f"takes {side[0]:.0f} x {side[1]:.0f} of them; give the whole slide, and its scale if that "
            "is wrong"
        )
    if mask is None:
        return nested_grids(slide, tissue_mask(slide, spec, change), spec, margin), ""
    tissue, classes = user_mask(slide, mask, spec, read.mask_classes)
    return nested_grids(slide, tissue, spec, margin), classes


def no_tissue(spec: SamplingSpec, mask: Mask | None) -> str:
    """Return a message that no patch of a slide has enough tissue, with the remedy."""
    share = f"no 20x patch is more than {spec.min_mask_ratio:.0%} tissue"
    if mask is None:
        return f"no tissue found ({share}); if there is some, mark it with --masks"
    return f"no tissue by its mask ({share}); mark more of it, or leave --masks out"


def bag_provenance(
    slide: Slide, spec: SamplingSpec, encoder: EncoderSpec, read: ReadOptions
) -> Provenance:
    """Describe the bag that `extract_bag` makes of a slide.

    Args:
        slide: an open slide.
        spec: how patches are laid and kept.
        encoder: what turns patches into features.
        read: how the slide is read.

    Raises:
        TiacfError: the mask cannot be read.
    """
    size, digest = slide_identity(slide.path) if slide.path is not None else (0, "")
    return Provenance(
        slide=slide.name,
        slide_size=size,
        slide_hash=digest,
        dimensions=slide.dimensions,
        mpp=slide.mpp,
        power=slide.power,
        offset=slide.offset,
        mask=spec.mask_method if read.mask is None else mask_identity(read.mask, read.mask_classes),
        sampling=spec,
        encoder=encoder,
        versions={name: version(name) for name in _VERSIONED},
    )


def mask_identity(mask: Mask, classes: Sequence[str] = ()) -> str:
    """Hash of a mask's content, so that a changed mask is noticed.

    Raises:
        TiacfError: the file cannot be read.
    """
    if isinstance(mask, WholeSlide):
        return "whole slide"
    if isinstance(mask, np.ndarray):
        return hashlib.sha256(str(mask.shape).encode() + mask.tobytes()).hexdigest()[:16]
    try:
        chosen = json.dumps(sorted(classes)).encode() if classes else b""
        return hashlib.sha256(Path(mask).read_bytes() + chosen).hexdigest()[:16]
    except OSError as error:
        raise TiacfError(f"{mask}: the mask cannot be read ({error}); check --masks") from error
