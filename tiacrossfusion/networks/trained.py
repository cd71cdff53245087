"""A network with the standardisation of its inputs and a baseline hazard, both found in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.base import SurvivalNetwork, Term
from tiacrossfusion.networks.calling import call_with, input_names, inputs_of
from tiacrossfusion.networks.output import AttentionLayers, AttentionScores, SurvivalOutput
from tiacrossfusion.networks.pooling import Pool
from tiacrossfusion.networks.statistics import SlideStatistics
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.wrapper import NetworkWrapper
from tiacrossfusion.slides.spec import SCALES

# Bounds of the log of a bin's cumulative hazard x, between which neither values nor gradients overflow.
# Beyond them the hazard 1 - exp(-x) is 0 or 1 to every digit of float32.
_SMALLEST, _LARGEST = -80.0, 20.0


class TrainedNetwork(NetworkWrapper):
    """Wraps a network in standardisation and proportional hazards, whose values are in the state dict.

    Standardisation: the features of each scale, and the covariates, become `(x - mean) / sd`.

    Proportional hazards: the network returns one logit, the log-hazard eta, and the buffer `increments`
    holds the baseline's cumulative hazard dH_k in each of K time bins. Then `h_k = 1 - exp(-dH_k exp(eta))`
    (Cox, JRSS B 1972; in discrete time Kalbfleisch and Prentice, "The Statistical Analysis of Failure Time
    Data", section 4.8), so that `S_k = exp(-exp(eta) sum_{j <= k} dH_j)`. The increments are NaN until they
    are set: without them predictions are NaN, and a bundle cannot be loaded.

    Args:
        network: takes any inputs; with proportional hazards it has one bin.
        standardise: add the buffers `mean` and `sd` (3, E), 0 and 1 until they are set.
        num_bins: K of the proportional hazards; None keeps the network's hazards.
        statistics: add `SlideStatistics`, whose sum with the weights `skip` (K,) is added to all logits.
        num_covariates: C; above 0, covariates are required, and the buffers `covariate_mean` and
            `covariate_sd` (C,) are added, 0 and 1 until they are set.

    Raises:
        TiacfError: proportional hazards with a network that has several bins.
    """

    mean: Tensor | None
    sd: Tensor | None
    increments: Tensor | None
    covariate_mean: Tensor | None
    covariate_sd: Tensor | None

    def __init__(
        self,
        network: SurvivalNetwork,
        *,
        standardise: bool = False,
        num_bins: int | None = None,
        num_covariates: int = 0,
        statistics: bool = False,
    ) -> None:
        """Wrap the network."""
        super().__init__(network.encoder_width, network.num_bins if num_bins is None else num_bins)
        if num_bins is not None and network.num_bins != 1:
            raise TiacfError(
                f"proportional hazards need one log-hazard, the network has {network.num_bins} "
                "bins: build it with num_bins=1"
            )
        self.network = network
        self.statistics = SlideStatistics(self.encoder_width) if statistics else None
        if self.statistics is not None:
            self.skip = nn.Parameter(torch.zeros(self.statistics.count))
        shape = (3, self.encoder_width)
        self.register_buffer("mean", torch.zeros(shape) if standardise else None)
        self.register_buffer("sd", torch.ones(shape) if standardise else None)
        self.register_buffer(
            "increments", None if num_bins is None else torch.full((num_bins,), torch.nan)
        )
        given = num_covariates > 0
        self.register_buffer("covariate_mean", torch.zeros(num_covariates) if given else None)
        self.register_buffer("covariate_sd", torch.ones(num_covariates) if given else None)

    def set_moments(self, mean: Tensor, sd: Tensor) -> None:
        """Set mean and SD (3, E) of the training bags' features at 5x, 10x and 20x.

        Features with SD 0 are only centred.

        Raises:
            TiacfError: the network was made without standardisation, or the values are invalid.
        """
        if self.mean is None or self.sd is None:
            raise TiacfError("the network was made without standardisation: set `standardise`")
        for name, given in (("mean", mean), ("sd", sd)):
            if given.shape != self.mean.shape:
                raise TiacfError(
                    f"{name} has shape {tuple(given.shape)}: give {tuple(self.mean.shape)}, for "
                    "5x, 10x and 20x"
                )
            if not bool(given.isfinite().all()) or (name == "sd" and bool((given < 0).any())):
                raise TiacfError(
                    f"{name} holds values that are not finite or below 0: check the bags"
                )
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd == 0, 1.0, sd))

    def set_covariate_moments(self, mean: Tensor, sd: Tensor) -> None:
        """Set mean and SD (C,) of the training patients' covariates; those with SD 0 are only centred.

        Raises:
            TiacfError: the network was made without covariates.
        """
        if self.covariate_mean is None or self.covariate_sd is None:
            raise TiacfError("the network was made without covariates: set `num_covariates`")
        self.covariate_mean.copy_(mean)
        self.covariate_sd.copy_(torch.where(sd == 0, 1.0, sd))

    def needed_inputs(self) -> tuple[str, ...]:
        """Return those of the wrapped network, "covariates" if there are any, and those of statistics."""
        covariates = () if self.covariate_mean is None else ("covariates",)
        return super().needed_inputs() + self._of_statistics() + covariates

    def further_inputs(self) -> tuple[str, ...]:
        """Return those of the wrapped network and of statistics."""
        return super().further_inputs() + self._of_statistics()

    def set_baseline(self, increments: Tensor) -> None:
        """Set the baseline's cumulative hazard in each bin: `increments` (K,), 0 or more.

        Raises:
            TiacfError: the network was made without proportional hazards, or the values are invalid.
        """
        if self.increments is None:
            raise TiacfError("the network was made without proportional hazards: set `num_bins`")
        if increments.shape != self.increments.shape:
            raise TiacfError(
                f"{len(increments)} increments for {self.num_bins} time bins: give one a bin"
            )
        if not bool(increments.isfinite().all()) or bool((increments < 0).any()):
            raise TiacfError("a baseline hazard is 0 or more and finite: check the log-hazards")
        self.increments.copy_(increments)

    def log_hazard(self, tokens: SlideTokens) -> Tensor:
        """Return the log-hazards eta (B,) of B slides for Cox's partial likelihood, without increments.

        Raises:
            TiacfError: the network was made without proportional hazards, or lacks an input.
        """
        if self.increments is None:
            raise TiacfError(
                "the network was made without proportional hazards: it has no log-hazard"
            )
        return self._called(inputs_of(self, tokens), attention=False).logits[:, 0]

    def predict(self, inputs: dict[str, Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict K hazards, with the network's attention scores if requested."""
        return self._with_baseline(self._called(inputs, attention=attention))

    def _with_baseline(self, output: SurvivalOutput) -> SurvivalOutput:
        """Return K hazards for the log-hazard of the network, or its own hazards."""
        if self.increments is None:
            return output
        logits = proportional_logits(output.logits, self.increments)  # (B, K)
        return SurvivalOutput.from_logits(logits, output.attention)

    @property
    def pools_families(self) -> bool:
        """That of the wrapped network."""
        return self.network.pools_families

    def family_sums(self, inputs: Mapping[str, Tensor]) -> list[Pool]:
        """Return those of the wrapped network, of standardised features, and those of statistics."""
        ready = self.standardised(inputs)
        statistics = [] if self.statistics is None else self.statistics.family_sums(ready)
        return self.network.family_sums(ready) + statistics

    def from_means(
        self, means: Iterator[Tensor], counts: Mapping[str, int], covariates: Tensor | None = None
    ) -> SurvivalOutput:
        """Predict K hazards from the means of the wrapped network and of statistics."""
        output = self.network.from_means(means, counts, covariates)
        if self.statistics is not None:
            shift = self.statistics.from_means(means, counts) @ self.skip  # (R,)
            output = SurvivalOutput.from_logits(output.logits + shift[:, None])
        return self._with_baseline(output)

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return those of the wrapped network."""
        return self.network.embeddings()

    def terms(self) -> Mapping[nn.Module, Term]:
        """Return those of the wrapped network, and of statistics."""
        return {
            **self.network.terms(),
            **({} if self.statistics is None else self.statistics.terms()),
        }

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return mean and SD (3, E) of the features at 5x, 10x and 20x."""
        return None if self.mean is None or self.sd is None else (self.mean, self.sd)

    def rollout(self, tokens: SlideTokens) -> AttentionScores | None:
        """Return that of the wrapped network."""
        ready = self.standardised(tokens.inputs())
        features = {scale: ready[f"x{scale[:-1]}"] for scale in tokens.features}
        covariates = ready.get("covariates")
        return self.network.rollout(replace(tokens, features=features, covariates=covariates))

    def attention_layers(self) -> AttentionLayers | None:
        """Return those of the wrapped network."""
        return self.network.attention_layers()

    def _inner(self) -> nn.Module:
        return self.network

    def _of_statistics(self) -> tuple[str, ...]:
        """Return the inputs that statistics need."""
        if self.statistics is None:
            return ()
        return ("x5", "x10", "x20", "grid5", "grid10", "grid20")

    def _called(self, inputs: Mapping[str, Tensor], *, attention: bool) -> SurvivalOutput:
        """Call the network with standardised inputs, and add the statistics to its logits."""
        ready = self.standardised(inputs)
        named = input_names(self.network)
        own = {name: x for name, x in ready.items() if name in named}
        output = call_with(self.network, own, attention=attention)
        if self.statistics is None:
            return output
        shift = self.statistics(ready) @ self.skip  # (B,)
        return SurvivalOutput.from_logits(output.logits + shift[:, None], output.attention)

    def standardised(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs with features and covariates standardised, in the precision of the moments."""
        ready = dict(inputs)
        given, mean, sd = ready.get("covariates"), self.covariate_mean, self.covariate_sd
        if given is not None and mean is not None and sd is not None:
            ready["covariates"] = (given - mean) / sd
        if self.mean is not None and self.sd is not None:
            for row, scale in enumerate(SCALES):
                x = ready.get(name := f"x{scale[:-1]}")
                # The network itself reports features of another width.
                if x is not None and x.shape[-1:] == self.mean.shape[1:]:
                    one = x[:, :1] if x.stride(1) == 0 else x  # one token, repeated without memory
                    # One copy; mixed precision would be slower.
                    one = one.to(self.mean.dtype, copy=True).sub_(self.mean[row]).div_(self.sd[row])
                    ready[name] = one.expand_as(x)
        return ready


def proportional_logits(log_hazard: Tensor, increments: Tensor) -> Tensor:
    """Return the logits of the discrete hazards `1 - exp(-x)`, with `x = dH_k exp(eta)`.

    `logit(1 - exp(-x)) = log(expm1(x)) = x + log(1 - exp(-x))`; with the log of x clamped to -80 to 20, the
    last form neither overflows for large x nor loses digits for small x.

    Args:
        log_hazard: (B, 1) eta.
        increments: (K,) dH_k, 0 or more.

    Returns:
        (B, K) in float32 or wider.
    """
    wide = torch.promote_types(log_hazard.dtype, torch.float32)
    log_cumulative = increments.to(wide).log() + log_hazard.to(wide)  # (B, K)
    cumulative = log_cumulative.clamp(_SMALLEST, _LARGEST).exp()  # (B, K)
    return cumulative + torch.log(-torch.expm1(-cumulative))
