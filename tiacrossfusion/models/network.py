"""Networks from the architectures in bundles, and architectures of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tiacrossfusion.errors import UsageError
from tiacrossfusion.models.config import Architecture, PretrainedPart
from tiacrossfusion.networks.registry import (
    FUSIONS,
    NETWORKS,
    STUDENTS,
    build_network,
    network_sizes,
)

if TYPE_CHECKING:
    from torch import nn

    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.record_head import HeadKind
    from tiacrossfusion.survival.record import Record

#: Arguments of networks that only training needs.
RATES = ("dropout", "attention_dropout")


def describe_network(
    name: str, *, encoder_width: int, num_bins: int, sizes: Mapping[str, Any], **fields: Any
) -> Architecture:
    """Return the architecture of a network, with its defaults for sizes that are not given.

    Args:
        name: of the network.
        encoder_width: E.
        num_bins: K.
        sizes: by name; those that the network does not take are left out.
        fields: the other fields of `Architecture`, such as `standardise`.

    Raises:
        UsageError: the network is unknown, or requires a size that is not given.
    """
    taken = {
        size: sizes.get(size, argument.default)
        for size, argument in network_sizes(name).items()
        if size not in ("encoder_width", "num_bins", *RATES)
    }
    _check_sizes(name, taken)
    return Architecture.model_validate(
        {"name": name, "encoder_width": encoder_width, "num_bins": num_bins, "sizes": taken}
        | fields
    )


def network_of(architecture: Architecture, **rates: float) -> SurvivalNetwork:
    """Return the network of an architecture with fresh weights, in training mode.

    Args:
        architecture: name and sizes.
        rates: `dropout` and `attention_dropout`; those that the network does not take are left out.

    Raises:
        UsageError: the sizes do not fit the network.
        TiacfError: the package or file that registers the network is not loaded.
    """
    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.fused import FusedNetwork
    from tiacrossfusion.networks.trained import TrainedNetwork
    from tiacrossfusion.networks.wrapper import PlainNetwork

    if architecture.name in STUDENTS:
        assert architecture.slide is not None  # noqa: S101 - the schema has looked
        return student_of(architecture, network_of(architecture.slide))
    if architecture.slide is not None and architecture.record is not None:
        slide = network_of(architecture.slide, **rates)
        return FusedNetwork(
            slide,
            architecture.record,
            architecture.num_bins,
            cast("HeadKind", FUSIONS[architecture.name]),
            summary_of(architecture.pretrained, architecture.record, slide.encoder_width),
        )
    if architecture.package is not None and architecture.name not in NETWORKS:
        raise NETWORKS.absent(architecture.name, architecture.package)
    _check_sizes(architecture.name, architecture.sizes)
    # With proportional hazards the network itself has one bin, the log-hazard.
    bins = 1 if architecture.proportional_hazards else architecture.num_bins
    taken = network_sizes(architecture.name)
    network = build_network(
        architecture.name,
        encoder_width=architecture.encoder_width,
        num_bins=bins,
        **architecture.sizes,
        **{name: rate for name, rate in rates.items() if name in taken},
    )
    if not isinstance(network, SurvivalNetwork):
        network = PlainNetwork(network, architecture.encoder_width, bins)
    around = (
        architecture.standardise,
        architecture.proportional_hazards,
        architecture.covariates,
        architecture.statistics,
    )
    if not any(around):
        return network
    return TrainedNetwork(
        network,
        standardise=architecture.standardise,
        num_bins=architecture.num_bins if architecture.proportional_hazards else None,
        num_covariates=len(architecture.covariates),
        statistics=architecture.statistics,
    )


def student_of(architecture: Architecture, teacher: SurvivalNetwork) -> SurvivalNetwork:
    """Return the student in closed form of a teacher's network, whose regression is not fitted yet.

    Raises:
        UsageError: a size is missing, or no whole number of 1 or more.
        TiacfError: the teacher does not predict from means.
    """
    from tiacrossfusion.networks.closed_student import ClosedStudent, ClosedStudent5x

    sizes = {name: architecture.sizes.get(name) for name in ("told", "directions", "sums")}
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 2**20:
            raise UsageError(f"sizes.{name} is {size}: give a whole number from 1 to {2**20}")
    kind = ClosedStudent if "10x" in STUDENTS[architecture.name] else ClosedStudent5x
    return kind(teacher, **cast("dict[str, int]", sizes))


def summary_of(part: PretrainedPart | None, record: Record, encoder_width: int) -> nn.Module | None:
    """Return the network of the pretrained summary of slides, with fresh weights; None without one."""
    from tiacrossfusion.networks.fused import Projections
    from tiacrossfusion.networks.masked_completion import MaskedCompletion

    if part is None:
        return None
    if part.way == "closed":
        return Projections(part.scales, encoder_width)
    return MaskedCompletion(
        record, part.scales, encoder_width, max(1, part.prototypes), cross=part.cross
    )


def _check_sizes(name: str, sizes: Mapping[str, Any]) -> None:
    """Check that sizes are complete and have the types in the annotations of a network's constructor."""
    taken = network_sizes(name)
    lacking = [size for size in ("encoder_width", "num_bins") if size not in taken]
    if lacking:
        raise UsageError(
            f"{name}: its constructor takes no {' and no '.join(lacking)}; a network must take both"
        )
    try:
        types = get_type_hints(NETWORKS[name].__init__)
    except Exception:  # annotations that only a type checker can resolve
        types = {}
    for size, argument in taken.items():
        if size in ("encoder_width", "num_bins", *RATES):
            continue
        value = sizes.get(size)
        if value is argument.empty or (value is None and argument.default is not None):
            raise UsageError(f"{name} needs {size}, which is missing")
        try:
            TypeAdapter(types.get(size, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            raise UsageError(f"sizes.{size}: {error.errors()[0]['msg']}") from error
    odd = [size for size in sizes if size not in taken or size in ("encoder_width", "num_bins")]
    if odd:
        raise UsageError(f"{name} takes no {' and no '.join(odd)}; leave it out")
