"""Model bundles from checkpoints of the authors' release."""

from __future__ import annotations

from pathlib import Path

from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.models.bundle import save_bundle
from tiacrossfusion.models.config import BundleConfig, ModelCard
from tiacrossfusion.models.network import describe_network
from tiacrossfusion.networks.official import load_official_checkpoint
from tiacrossfusion.slides.spec import SamplingSpec
from tiacrossfusion.survival import TimeBins, check_unit
from tiacrossfusion.text import printable

_NOTICE = "Imported research model, not validated here and not for clinical use."


def bundle_from_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    name: str,
    encoder: EncoderSpec,
    num_heads: int = 4,
    time_bins: TimeBins | None = None,
    sampling: SamplingSpec | None = None,
) -> BundleConfig:
    """Write a bundle with the network of an official checkpoint.

    A checkpoint holds weights only, so the risks of the training patients are unknown.

    Args:
        checkpoint: file of the authors' release.
        folder: folder of the bundle.
        name: name of the model.
        encoder: encoder of the features that the checkpoint was trained on.
        num_heads: number of attention heads, which a checkpoint does not record.
        time_bins: the bins of the hazards; None if unknown.
        sampling: how patches were sampled; None for this package's default.

    Raises:
        TiacfError: the checkpoint cannot be read, or encoder or time bins do not fit it.
    """
    network = load_official_checkpoint(checkpoint, num_heads=num_heads)
    architecture = describe_network(
        "crossfusion",
        encoder_width=network.encoder_width,
        num_bins=network.num_bins,
        sizes=vars(network),
    )
    if encoder.width != architecture.encoder_width:
        raise TiacfError(
            f"{checkpoint}: trained on features of width {architecture.encoder_width}, "
            f"{encoder.name} gives {encoder.width}; name the encoder that it was trained with"
        )
    if time_bins is not None and time_bins.num_bins != architecture.num_bins:
        raise UsageError(
            f"--bin-edges: {time_bins.num_bins} bins, the checkpoint has {architecture.num_bins}; "
            f"give the end of each of its {architecture.num_bins} bins"
        )
    config = BundleConfig(
        name=name,
        version="imported",
        architecture=architecture,
        sampling=sampling or SamplingSpec(),
        encoder=encoder,
        time_bins=time_bins,
        risk_reference=None,
        card=ModelCard(
            description=f"CrossFusion imported from the checkpoint {printable(checkpoint.name)}.",
            cohort="unknown",
            licence="that of the checkpoint",
            notice=_NOTICE,
        ),
    )
    save_bundle(folder, config, network)
    return config


def parse_bin_edges(text: str, unit: str | None) -> TimeBins:
    """Return time bins from comma-separated edges; a missing first 0 is added.

    Raises:
        UsageError: the edges are not rising, finite numbers, or the unit is missing or unknown.
    """
    if not unit:
        raise UsageError("--bin-edges: give their unit too, such as --time-unit months")
    try:
        check_unit(unit)
    except ValueError as error:
        raise UsageError(f"--time-unit {printable(unit)}: {error}") from error
    try:
        edges = [float(edge) for edge in text.split(",")]
        return TimeBins(edges=tuple(edges if edges[0] == 0 else [0.0, *edges]), unit=unit)
    except ValueError as error:
        raise UsageError(
            f"--bin-edges {text}: give rising, finite numbers such as 12.5,24,36.1,120, the end of "
            "each bin; the last one is the end of follow-up"
        ) from error
