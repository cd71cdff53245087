"""Model bundles: what they hold, how they are found and loaded."""

from tiacrossfusion.zoo.bundle import (
    ModelBundle,
    load_bundle,
    read_config,
    save_bundle,
    shipped_bundles,
)
from tiacrossfusion.zoo.config import (
    Architecture,
    BundleConfig,
    ModelCard,
    RiskGroup,
    RiskReference,
)
from tiacrossfusion.zoo.reference import risk_reference

__all__ = [
    "Architecture",
    "BundleConfig",
    "ModelBundle",
    "ModelCard",
    "RiskGroup",
    "RiskReference",
    "load_bundle",
    "read_config",
    "risk_reference",
    "save_bundle",
    "shipped_bundles",
]
