"""One slide, from file to prediction: open, find tissue, lay grids, encode, predict."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain import (
    attribute,
    find_hotspots,
    read_gallery,
    rolled_scores,
    tile_scores,
    why_no_maps,
)
from tiacrossfusion.bags.bag import (
    OWN_FORMAT,
    FeatureBag,
    Provenance,
    ScaleFeatures,
)
from tiacrossfusion.slides.files import slide_identity
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.slides import (
    SCALES,
    PatchBatch,
    PatchGrid,
    SamplingSpec,
    Slide,
    cell_side_20x,
    choose_road,
    coarse_base,
    nested_grids,
    open_slide,
    read_batches,
    read_overview,
    tissue_mask,
    user_mask,
    whole_families,
)
from tiacrossfusion.survival import median_survival, risk_of, survival_curve

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader

    from tiacrossfusion.encoders import Encoder, EncoderSpec
    from tiacrossfusion.explain import Attribution, Gallery, Hotspot, TileScores
    from tiacrossfusion.models import BundleConfig, ModelBundle

#: Longer side of a slide's overview in pixels.
OVERVIEW = 1200

#: Red, green and blue of patches that have no colour lie less than this many grey levels apart on average;
#: in H&E they do by 30 and more (tested on five slides of four scanners).
COLOURLESS = 5.0

_log = logging.getLogger(__name__)

_VERSIONED = ("tiacrossfusion", "tiatoolbox", "torch", "timm", "openslide-python", "numpy")


@dataclass(frozen=True)
class Prediction:
    """What a model says of one slide or one patient. No value here is a medical finding.

    Attributes:
        risk: minus the sum of S over the bins; higher is worse, comparable within one model only.
        hazards: (K,) probability of the event in each bin, given survival up to it.
        survival: (K,) S at the end of each bin.
        percentile: of the risk among the training patients, 0 to 100; None when unknown.
        risk_group: name of the side of the training cut-off; None when unknown.
        median: median survival in the unit of the time bins; None when not reached or unknown.
        median_reached: whether S falls to one half by the last edge; None when times are unknown.
        unknown: why percentile, group or times are None; empty when all are known.
        attention: attention that each token receives: "5x" (N5,), "10x" (N10,), "20x" (N20,) and
            "fused" (N10,), float64, of those that the network has; empty for a patient.
        rolled: attention followed back to the tokens of each scale, see `explain.rolled_scores`; None
            where the network has no layers to follow, or it was not asked for.
        attribution: what raises and what lowers the risk; None where it was not asked for.
        member_risks: (M,) risk that each member of an ensemble gives; None for a single network, and
            for a patient, since only the mean hazards of the slides are known.
    """

    risk: float
    hazards: np.ndarray
    survival: np.ndarray
    percentile: float | None
    risk_group: str | None
    median: float | None
    median_reached: bool | None
    unknown: str
    attention: dict[str, np.ndarray]
    rolled: dict[str, np.ndarray] | None = None
    attribution: Attribution | None = None
    member_risks: np.ndarray | None = None

    @property
    def risk_sd(self) -> float | None:
        """Standard deviation (n - 1) of the members' risks; None without two members at least."""
        if self.member_risks is None or len(self.member_risks) < 2:
            return None
        return float(np.std(self.member_risks, ddof=1))


@dataclass(frozen=True)
class SlideResult:
    """What is known of a slide once it has been predicted and closed.

    Attributes:
        bag: its features.
        prediction: what the model says.
        caveat: why the numbers may not hold for this slide; empty when nothing speaks against them.
        scores: of the tiles of each grid; None where it is not known where the patches lie.
        hotspots: where attention is highest.
        overview: (h, w, 3) uint8, the whole slide, its longer side about `OVERVIEW` pixels; None when
            only the bag was there.
        gallery: the patches with the highest and the lowest scores; None as the overview, or where there
            are no scores.
    """

    bag: FeatureBag
    prediction: Prediction
    caveat: str
    scores: dict[str, TileScores] | None
    hotspots: list[Hotspot]
    overview: np.ndarray | None = None
    gallery: Gallery | None = None

    @property
    def name(self) -> str:
        """File name of the slide."""
        return self.bag.provenance.slide

    @property
    def message(self) -> str:
        """Why something is unknown or may not hold; empty when all is well."""
        return "; ".join(text for text in (self.prediction.unknown, self.caveat) if text)


def load_readers() -> None:
    """Import TIAToolbox's readers, which takes seconds that are not the first slide's."""
    import_module("tiatoolbox.wsicore.wsireader")


def predict_slide(
    image: str | Path | WSIReader,
    bundle: ModelBundle,
    encoder: Encoder,
    *,
    mask: str | Path | np.ndarray | None = None,
    mpp: float | None = None,
    power: float | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    attribution: bool = True,
    progress: Progress | None = None,
) -> SlideResult:
    """Go the whole way with one slide; the arguments are those of the steps below.

    Raises:
        TiacfError: the slide, its mask or its scale is at fault.
    """
    progress = progress or Progress(1, show=False)
    with open_slide(image, mpp=mpp, power=power) as slide:
        bag = extract_bag(
            slide,
            bundle.config.sampling,
            encoder,
            mask=mask,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        )
        progress.stage(slide.name, "predict")
        result = predict_stored(bag, bundle, attribution=attribution, caveat=slide.caveat)
        progress.stage(slide.name, "pictures")
        return replace(
            result,
            overview=read_overview(slide, OVERVIEW),
            gallery=None
            if result.scores is None
            else read_gallery(slide, bag, result.scores, bundle.config.sampling),
        )


def predict_stored(
    bag: FeatureBag,
    bundle: ModelBundle,
    *,
    attribution: bool = True,
    caveat: str = "",
) -> SlideResult:
    """Go the rest of the way with a slide that has been encoded; the slide itself is not read.

    Args:
        bag: its features.
        bundle: the model.
        attribution: find out what raises and lowers the risk too, and roll attention back, which takes
            about ten times as long as the prediction alone.
        caveat: what is known to speak against the numbers; a bag does not tell whether its scale was
            given against the file's word.

    Raises:
        TiacfError: as of `predict_bag`.
    """
    prediction = predict_bag(bag, bundle)
    if attribution:
        prediction = replace(
            prediction,
            rolled=rolled_scores(bag, bundle),
            attribution=attribute(bag, bundle),
        )
    no_maps = why_no_maps(bag)
    caveats = (
        caveat,
        *bag_caveats(bag),
        risk_caveat(prediction, bundle.config),
        f"no maps: {no_maps}" if no_maps else "",
    )
    scores, hotspots = None, []
    if not no_maps:
        adds = prediction.attribution
        scores = tile_scores(
            bag,
            prediction.attention,
            rolled=prediction.rolled,
            attribution=None if adds is None else adds.values,
        )
        hotspots = find_hotspots(bag, scores["20x"])
    return SlideResult(bag, prediction, "; ".join(filter(None, caveats)), scores, hotspots)


def extract_bag(
    slide: Slide,
    spec: SamplingSpec,
    encoder: Encoder,
    *,
    mask: str | Path | np.ndarray | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> FeatureBag:
    """Turn a slide into a bag of features.

    Args:
        slide: an open slide.
        spec: how patches are laid and kept.
        encoder: turns patches into features.
        mask: the user's tissue mask; None finds the tissue.
        batch_size: patches in a batch; the result does not depend on it.
        num_workers: reading threads; the result does not depend on it.
        progress: bars to move.

    Returns:
        The bag. Patches that cannot be read because the file is damaged there are left out, with those
        in them and those that are left without any; the provenance counts them, the log names them.

    Raises:
        TiacfError: the slide is not brightfield, has no tissue or is damaged all over, or the mask is
            unfit.
    """
    progress = progress or Progress(1, show=False)
    label = slide.path or slide.name
    progress.stage(slide.name, "tissue")
    grids = tissue_grids(slide, spec, mask)
    if len(grids["20x"]) == 0:
        raise TiacfError(f"{label}: {no_tissue(spec, mask)}")
    features = {
        scale: np.zeros((len(grid), encoder.spec.width), np.float16)
        for scale, grid in grids.items()
    }
    readable = {scale: np.ones(len(grid), bool) for scale, grid in grids.items()}
    colours: list[np.ndarray] = []
    progress.stage(slide.name, "patches", sum(len(grid) for grid in grids.values()))
    with choose_road(slide, spec) as road:
        on_the_way: deque[PatchBatch] = deque()

        def images() -> Iterator[np.ndarray]:
            for batch in read_batches(
                slide, grids, spec, road, batch_size=batch_size, num_workers=num_workers
            ):
                on_the_way.append(batch)
                colours.append(_colour_of(batch.images))
                yield batch.images

        for encoded in encoder.encode_stream(images()):
            batch = on_the_way.popleft()
            for number, scale in enumerate(SCALES):
                of_scale = batch.scales == number
                features[scale][batch.indices[of_scale]] = encoded[of_scale]
            for patch in batch.unreadable:
                readable[patch.scale][patch.index] = False
                _log.warning(
                    "%s: %s patch at %s: %s", label, patch.scale, patch.bounds, patch.reason
                )
            progress.step(len(batch.images) + len(batch.unreadable))
        road_name = road.name
    kept = whole_families(grids, readable)
    if not kept["20x"].any():
        raise TiacfError(
            f"{label}: no patch can be read, the file is damaged all over; copy it again"
        )
    scales = {
        scale: ScaleFeatures(
            features[scale][kept[scale]], grid.bounds[kept[scale]], grid.grid[kept[scale]]
        )
        for scale, grid in grids.items()
    }
    dropped = {scale: int((~keep).sum()) for scale, keep in kept.items() if not keep.all()}
    made_by = {
        "road": road_name,
        "precision": encoder.precision,
        "dropped": dropped,
        "colour": round(float(np.concatenate(colours).mean()), 2),
    }
    provenance = bag_provenance(slide, spec, encoder.spec, mask).model_copy(update=made_by)
    return FeatureBag(scales, provenance)


def tissue_grids(
    slide: Slide, spec: SamplingSpec, mask: str | Path | np.ndarray | None
) -> dict[str, PatchGrid]:
    """Lay the grids over the tissue of a slide, which the user's mask marks or is found.

    Raises:
        TiacfError: the slide is not brightfield or smaller than a patch, or the mask is unfit.
    """
    side = cell_side_20x(slide, spec)
    if slide.dimensions[0] < side[0] or slide.dimensions[1] < side[1]:
        width, height = slide.dimensions
        raise TiacfError(
            f"{slide.path or slide.name}: {width} x {height} pixels are less than one 20x patch, which "
            f"takes {side[0]:.0f} x {side[1]:.0f} of them; give the whole slide, and its scale if that "
            "is wrong"
        )
    tissue = user_mask(slide, mask, spec) if mask is not None else tissue_mask(slide, spec)
    return nested_grids(slide, tissue, spec)


def no_tissue(spec: SamplingSpec, mask: str | Path | np.ndarray | None) -> str:
    """Say that the tissue of a slide makes no patch, and what to do."""
    share = f"no 20x patch is more than {spec.min_mask_ratio:.0%} tissue"
    if mask is None:
        return f"no tissue found ({share}); if there is some, mark it with --masks"
    return f"no tissue by its mask ({share}); mark more of it, or leave --masks out"


def _colour_of(images: np.ndarray) -> np.ndarray:
    """How far red, green and blue lie apart in each of some images (B, h, w, 3), in grey levels (B,)."""
    some = images[:, ::8, ::8].astype(np.int16)
    return (some.max(axis=-1) - some.min(axis=-1)).mean(axis=(1, 2))


def bag_caveats(bag: FeatureBag) -> list[str]:
    """Say what speaks against the features of a bag; empty texts where nothing does."""
    made = bag.provenance
    program = made.imported.partition(":")[0]
    if program not in ("", OWN_FORMAT):
        return [f"features made by another program ({program}), which found the tissue its way"]
    # Of a slide it asks the scale only, under names that the provenance has too.
    return [coarse_base(cast("Slide", made), made.sampling), damage_note(bag), colour_note(bag)]


def damage_note(bag: FeatureBag) -> str:
    """Say how many patches of a damaged slide were left out; empty when none was."""
    dropped = bag.provenance.dropped
    if not dropped:
        return ""
    counts = ", ".join(f"{count} at {scale}" for scale, count in dropped.items())
    return f"the file is damaged: patches that cannot be read were left out ({counts}), see the log"


def colour_note(bag: FeatureBag) -> str:
    """Say that a slide is grey-scale; empty when it has colours, or it is not known."""
    colour = bag.provenance.colour
    if colour is None or colour >= COLOURLESS:
        return ""
    return "the slide is grey-scale, while H&E is told by its colours: do not rely on the numbers"


def bag_provenance(
    slide: Slide, spec: SamplingSpec, encoder: EncoderSpec, mask: str | Path | np.ndarray | None
) -> Provenance:
    """Describe the bag that `extract_bag` makes of a slide.

    Args:
        slide: an open slide.
        spec: how patches are laid and kept.
        encoder: what turns patches into features.
        mask: the user's tissue mask; None where the tissue is found.

    Raises:
        TiacfError: the mask cannot be read.
    """
    size, mtime = slide_identity(slide.path) if slide.path is not None else (0, 0)
    return Provenance(
        slide=slide.name,
        slide_size=size,
        slide_mtime_ns=mtime,
        dimensions=slide.dimensions,
        mpp=slide.mpp,
        power=slide.power,
        offset=slide.offset,
        mask=spec.mask_method if mask is None else mask_identity(mask),
        sampling=spec,
        encoder=encoder,
        versions={name: version(name) for name in _VERSIONED},
    )


def mask_identity(mask: str | Path | np.ndarray) -> str:
    """Hash of a mask's content, so that a changed mask is noticed.

    Raises:
        TiacfError: the file cannot be read.
    """
    if isinstance(mask, np.ndarray):
        return hashlib.sha256(str(mask.shape).encode() + mask.tobytes()).hexdigest()[:16]
    try:
        return hashlib.sha256(Path(mask).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise TiacfError(f"{mask}: the mask cannot be read ({error}); check --masks") from error


def predict_bag(bag: FeatureBag, bundle: ModelBundle) -> Prediction:
    """Predict from a bag of features; `attention` holds the scores that the network has, 20x at least.

    Args:
        bag: the features of one slide, made with the bundle's encoder and sampling.
        bundle: the model.

    Raises:
        TiacfError: the bag was made with another encoder or sampling or is empty, or the network's
            output is not finite.
    """
    import torch

    with torch.inference_mode():
        output = bundle.network(*bundle.tokens(bag).values(), attention=True)
    hazards = output.hazards[0].cpu().double().numpy()
    if not np.isfinite(hazards).all():
        raise TiacfError(
            f"{bag.provenance.slide}: the model's risk is not finite; check the model's weights"
        )
    scores = output.attention
    attention = {
        name: score[0].cpu().double().numpy()
        for name, score in (
            ("5x", scores.x5),
            ("10x", scores.x10),
            ("20x", scores.x20),
            ("fused", scores.fused),
        )
        if score is not None
    }
    members = output.member_risk
    return read_off(
        hazards,
        bundle.config,
        attention=attention,
        member_risks=None if members is None else members[0].cpu().double().numpy(),
    )


def read_off(
    hazards: np.ndarray,
    config: BundleConfig,
    *,
    attention: Mapping[str, np.ndarray] | None = None,
    member_risks: np.ndarray | None = None,
) -> Prediction:
    """Read curve, risk, group and median off hazards, those of a slide or of a patient.

    Args:
        hazards: (K,) float64.
        config: of the model that gave them.
        attention: of the tokens, where there are any.
        member_risks: (M,) of an ensemble.
    """
    survival = survival_curve(hazards)
    risk = float(risk_of(survival))
    bins, reference = config.time_bins, config.risk_reference
    median = None if bins is None else median_survival(survival, bins)
    missing = [
        text
        for known, text in (
            (bins, "no time bins, so no times"),
            (reference, "no training risks, so no percentile and no group"),
        )
        if known is None
    ]
    return Prediction(
        risk=risk,
        hazards=hazards,
        survival=survival,
        percentile=None if reference is None else reference.percentile(risk),
        risk_group=None if reference is None else reference.group(risk).name,
        median=median,
        median_reached=None if bins is None else median is not None,
        unknown=f"the bundle has {' and '.join(missing)}" if missing else "",
        attention=dict(attention or {}),
        member_risks=member_risks,
    )


def risk_caveat(prediction: Prediction, config: BundleConfig) -> str:
    """Say that a risk lies outside those of the training patients; empty when it does not."""
    reference = config.risk_reference
    if reference is None or reference.covers(prediction.risk):
        return ""
    return "the risk lies outside those of the training patients"
