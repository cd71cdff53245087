"""Model bundles: what they hold, how they are found and loaded."""

from tiacrossfusion.models.bundle import (
    ModelBundle,
    load_bundle,
    make_ensemble,
    read_config,
    save_bundle,
    shipped_bundles,
)
from tiacrossfusion.models.config import (
    Architecture,
    BundleConfig,
    ModelCard,
    RiskGroup,
    RiskReference,
)
from tiacrossfusion.models.network import build_network
from tiacrossfusion.models.reference import risk_reference

__all__ = [
    "Architecture",
    "BundleConfig",
    "ModelBundle",
    "ModelCard",
    "RiskGroup",
    "RiskReference",
    "build_network",
    "load_bundle",
    "make_ensemble",
    "read_config",
    "risk_reference",
    "save_bundle",
    "shipped_bundles",
]
