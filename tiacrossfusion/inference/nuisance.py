"""The interval of a slide's risk under nuisances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.models.bundle import ModelBundle


def risk_gradient(
    bag: FeatureBag, bundle: ModelBundle, covariates: np.ndarray | None = None
) -> np.ndarray:
    """Return the gradient (3, E) float64 of the risk by a change that all tokens of a scale share.

    0 for scales that the network does not read.

    Args:
        bag: features of a slide.
        bundle: the model.
        covariates: (C,) of the patient, see `ModelBundle.covariates_of`.
    """
    import torch

    from tiacrossfusion.networks.calling import call_network, scales_read

    tokens = bundle.tokens(bag, covariates)
    scales = scales_read(bundle.network)
    like = next(iter(tokens.features.values()))
    shared = {scale: like.new_zeros(like.shape[2], requires_grad=True) for scale in scales}
    with torch.enable_grad():
        moved = {scale: tokens.features[scale] + shared[scale] for scale in scales}
        risk = call_network(bundle.network, tokens.with_features(moved)).risk.sum()
        slopes = torch.autograd.grad(risk, list(shared.values()))
    found = np.zeros((len(SCALES), like.shape[2]))
    for scale, slope in zip(scales, slopes, strict=True):
        found[SCALES.index(scale)] = slope.cpu().double().numpy()
    return found


def nuisance_sd(
    bag: FeatureBag, bundle: ModelBundle, risk: float, covariates: np.ndarray | None = None
) -> float | None:
    """Return how far nuisances move the risk of a slide, a standard deviation.

    None if the model was not audited on slides.
    """
    if bundle.nuisances is None:
        return None
    gradient = risk_gradient(bag, bundle, covariates)
    return bundle.nuisances.risk_sd(risk, gradient, bundle.config.architecture.num_bins)
