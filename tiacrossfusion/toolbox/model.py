"""Survival networks as TIAToolbox models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from tiatoolbox.models.models_abc import ModelABC
from torch import nn

from tiacrossfusion.errors import ArgumentValueError
from tiacrossfusion.models.bundle import ModelBundle, load_bundle
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES


class SurvivalModel(ModelABC):
    """A survival network of any kind with its bundle, as a TIAToolbox model.

    Args:
        bundle: a loaded bundle, or what `load_bundle` takes: a name, a folder or a hub id.

    Attributes:
        bundle: the model with its sampling, encoder, time bins and card.
        network: the network, which moves with `.to(device)`.

    Raises:
        ArgumentValueError: the bundle's network is of another kind than that of the class.
    """

    #: Name of the networks of this class, to which their ablations add "-...".
    kind: ClassVar[str] = ""

    def __init__(self, bundle: ModelBundle | str) -> None:
        """Load the bundle."""
        super().__init__()
        self.bundle = bundle if isinstance(bundle, ModelBundle) else load_bundle(bundle)
        name = self.bundle.config.architecture.name
        if not name.startswith(self.kind):
            raise ArgumentValueError(
                f"{self.bundle.config.name}: its network is {name}, and {type(self).__name__} takes "
                f"{self.kind}; load it with SurvivalModel, which takes any"
            )
        self.network = self.bundle.network

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; refuses `preproc_func` and `postproc_func`, which would have no effect."""
        if name in ("preproc_func", "postproc_func") and value is not None:
            raise ArgumentValueError(
                f"{name}: a survival model is valid for its encoder's own patches and its own output; "
                "change patches before they are encoded, in an encoder of your own, and predictions after "
                "run()"
            )
        super().__setattr__(name, value)

    def forward(self, *positional: torch.Tensor, **inputs: torch.Tensor) -> SurvivalOutput:
        """Predict from the inputs that the network takes, see `networks.base.SurvivalNetwork`."""
        return self.network(*positional, **inputs)

    @staticmethod
    def infer_batch(
        model: nn.Module, batch_data: Mapping[str, np.ndarray | torch.Tensor], *, device: str
    ) -> dict[str, np.ndarray]:
        """Predict from the features of one slide, or of B slides with equal token counts.

        Args:
            model: a SurvivalModel, or any network.
            batch_data: features (N, E) or (B, N, E) under "5x", "10x" and "20x", for the scales that the
                network reads, and, where it takes them, columns and rows (N, 2) or (B, N, 2) under "grid5",
                "grid10" and "grid20", and (C,) or (B, C) under "covariates".
            device: torch device.

        Returns:
            "logits", "hazards", "survival" (B, K) and "risk" (B,).
        """

        def batch(name: str, ndim: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            x = torch.as_tensor(batch_data[name]).to(device, dtype)
            return x if x.ndim == ndim else x[None]

        tokens = SlideTokens(
            {scale: batch(scale, 3) for scale in SCALES if scale in batch_data},
            {
                scale: batch(name, 3, torch.int64)
                for scale in SCALES
                if (name := f"grid{scale[:-1]}") in batch_data
            },
            batch("covariates", 2) if "covariates" in batch_data else None,
        )
        network = model.eval().network if isinstance(model, SurvivalModel) else model.eval()
        with torch.inference_mode():
            output = call_network(network, tokens)
        return {
            name: getattr(output, name).cpu().numpy()
            for name in ("logits", "hazards", "survival", "risk")
        }


class CrossFusionModel(SurvivalModel):
    """CrossFusion, or one of its ablations, with its bundle, as a TIAToolbox model.

    Examples:
        >>> model = CrossFusionModel("crossfusion-demo")
        >>> bag = {"5x": x5, "10x": x10, "20x": x20}  # each (N, E)
        >>> CrossFusionModel.infer_batch(model, bag, device="cpu")["risk"]
    """

    kind = "crossfusion"


class NestedFusionModel(SurvivalModel):
    """Nested fusion with its bundle, as a TIAToolbox model; it takes the grids of the patches, too.

    Examples:
        >>> model = NestedFusionModel("nested-demo")
        >>> bag = {"5x": x5, "10x": x10, "20x": x20}  # each (N, E)
        >>> bag |= {"grid5": grid5, "grid10": grid10, "grid20": grid20}  # each (N, 2)
        >>> NestedFusionModel.infer_batch(model, bag, device="cpu")["risk"]
    """

    kind = "nested-fusion"
