"""A predicted slide as a fragment of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tiacrossfusion.explain.extent import slide_size, why_no_maps
from tiacrossfusion.outputs.curve import curve_of
from tiacrossfusion.outputs.report.fragment import PatchRow, PatchView, ReportSlide
from tiacrossfusion.outputs.report.maps import Frame, map_view
from tiacrossfusion.outputs.report.pictures import photograph
from tiacrossfusion.outputs.scale_bar import scale_bar

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.explain.gallery import Gallery, GalleryPatch
    from tiacrossfusion.inference.slide import SlideResult

#: Side in pixels and WebP quality of a patch of the gallery, in which nuclei can be seen.
_SIDE, _QUALITY = 160, 60


def make_fragment(result: SlideResult) -> ReportSlide:
    """Return a predicted slide as shown in the report."""
    bag, prediction, config = result.bag, result.prediction, result.config
    gallery, reference, rank = result.gallery, config.risk_reference, None
    frame = Frame(slide_size(bag)) if result.scores else None
    map_note = gallery_note = ""
    if frame is None:
        map_note = f"No map is shown: {why_no_maps(bag) or 'there are no scores'}."
    if gallery is None:
        gallery_note = "No patches are shown: the slide was predicted from stored features."
    elif gallery.unreadable:
        gallery_note = f"Patches left out because the file is damaged there: {gallery.unreadable}."
    if reference is not None:
        rank = reference.groups.index(reference.group(prediction.risk))
    adds, reading = prediction.attribution, prediction.reading
    return ReportSlide(
        name=result.name,
        message=result.message,
        model=f"{config.name} {config.version}",
        risk=prediction.risk,
        risk_sd=prediction.risk_sd,
        risk_interval=None if reading is None else (reading.low, reading.high),
        percentile=prediction.percentile,
        risk_nuisance_sd=prediction.risk_nuisance_sd,
        risk_group=prediction.risk_group,
        group_uncertain=bool(prediction.group_uncertain),
        group_rank=rank,
        patches=result.patches(),
        facts=_facts(bag),
        survival=curve_of(prediction, config),
        contribution={}
        if adds is None
        else adds.scale_contribution
        | ({} if adds.record_contribution is None else {"record": adds.record_contribution})
        | adds.variables,
        baseline="training" if adds is None else adds.baseline,
        map=None if frame is None else map_view(frame, result),
        map_note=map_note,
        gallery=() if gallery is None or frame is None else _rows(gallery, frame),
        gallery_note=gallery_note,
    )


def _rows(gallery: Gallery, frame: Frame) -> tuple[PatchRow, ...]:
    """Return the patches of a gallery as small pictures, 100 units wide."""

    def views(patches: Sequence[GalleryPatch]) -> tuple[PatchView, ...]:
        return tuple(
            PatchView(
                picture=photograph(patch.image, _SIDE, _QUALITY),
                percentile=patch.percentile,
                attribution=patch.attribution,
                **frame.box(patch.bounds),
            )
            for patch in patches
        )

    return tuple(
        PatchRow(
            scale=row.scale,
            score=row.score,
            bar=scale_bar(row.microns, 100),
            highest=views(row.highest),
            lowest=views(row.lowest),
        )
        for row in gallery.rows
    )


def _facts(bag: FeatureBag) -> dict[str, str]:
    """Return name and value of known facts about a slide and its features."""
    made = bag.provenance
    facts = {}
    if made.dimensions is not None:
        facts["Slide"] = " x ".join(f"{side:,}" for side in made.dimensions) + " pixels"
    if made.mpp is not None:
        facts["Resolution"] = f"{max(made.mpp):.4g} μm per pixel"
    facts["Patches"] = ", ".join(f"{count:,} at {scale}" for scale, count in bag.counts().items())
    if made.mask is not None:
        known = made.mask == made.sampling.mask_method
        facts["Tissue"] = f"detected ({made.mask})" if known else "mask of the user"
    facts["Encoder"] = made.encoder.name
    return facts
