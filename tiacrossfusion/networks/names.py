"""The names of the models that can be trained, for a command line that imports no torch."""

#: Keys of `tiacrossfusion.networks.registry.NETWORKS`. "-20x" reads the 20x tokens alone.
NETWORK_NAMES: tuple[str, ...] = (
    "crossfusion",
    "crossfusion-no-conv",
    "crossfusion-20x",
    "abmil",
    "abmil-20x",
    "dsmil",
    "dsmil-20x",
    "transmil",
    "transmil-20x",
    "mean-pool",
    "mean-pool-20x",
)

#: Cox regression on a table's covariates, without slides.
COX_COVARIATES = "cox-covariates"

#: All that can be trained.
MODEL_NAMES: tuple[str, ...] = (*NETWORK_NAMES, COX_COVARIATES)
