"""What training finds besides the weights: the features' standardisation and a baseline hazard."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.output import SurvivalOutput

# Bounds of the log of a bin's cumulative hazard x. Below, the hazard 1 - exp(-x) is 0 and above it
# is 1 to every digit of float32; between them nothing overflows, nor does a gradient.
_SMALLEST, _LARGEST = -80.0, 20.0


class TrainedNetwork(nn.Module):
    """A network with what training found around it, all of it in the state dict.

    Standardisation: each scale's features become `(x - mean) / sd` before the network sees them.

    Proportional hazards: the network gives one logit, the log-hazard eta, and the buffer
    `increments` holds the baseline's cumulative hazard dH_k in each of K time bins. Then
    `h_k = 1 - exp(-dH_k exp(eta))` (Cox, JRSS B 1972; in discrete time Kalbfleisch and Prentice,
    "The Statistical Analysis of Failure Time Data", section 4.8), so that
    `S_k = exp(-exp(eta) sum_{j <= k} dH_j)`. The increments are NaN until they are set: nothing that
    needs them can be mistaken for a prediction, and no bundle loads without them.

    Args:
        network (nn.Module):
            One of `NETWORKS`; with proportional hazards it has one bin.
        standardise (bool):
            Have buffers `mean` and `sd` (3, E), 0 and 1 until they are set.
        num_bins (int | None):
            K of the proportional hazards; None leaves the network's own hazards.

    Raises:
        TiacfError:
            Proportional hazards are wanted of a network that has several bins.
    """

    mean: Tensor | None
    sd: Tensor | None
    increments: Tensor | None

    def __init__(
        self, network: nn.Module, *, standardise: bool = False, num_bins: int | None = None
    ) -> None:
        """Wrap the network."""
        super().__init__()
        if num_bins is not None and network.num_bins != 1:
            raise TiacfError(
                f"proportional hazards need one log-hazard, the network has {network.num_bins} "
                "bins: build it with num_bins=1"
            )
        self.network = network
        self.encoder_width = int(network.encoder_width)  # type: ignore[arg-type]
        self.num_bins = int(network.num_bins) if num_bins is None else num_bins  # type: ignore[arg-type]
        shape = (3, self.encoder_width)
        self.register_buffer("mean", torch.zeros(shape) if standardise else None)
        self.register_buffer("sd", torch.ones(shape) if standardise else None)
        self.register_buffer(
            "increments", None if num_bins is None else torch.full((num_bins,), torch.nan)
        )

    def set_moments(self, mean: Tensor, sd: Tensor) -> None:
        """Set what the features are standardised by.

        Args:
            mean (Tensor):
                (3, E) of the training bags at 5x, 10x and 20x.
            sd (Tensor):
                (3, E) standard deviations. A feature that never varies (0) is centred alone.

        Raises:
            TiacfError:
                The network was made without standardisation, or the values are unfit.
        """
        if self.mean is None or self.sd is None:
            raise TiacfError("the network was made without standardisation: ask for it there")
        for name, given in (("mean", mean), ("sd", sd)):
            if given.shape != self.mean.shape:
                raise TiacfError(
                    f"{name} has shape {tuple(given.shape)}: give {tuple(self.mean.shape)}, for "
                    "5x, 10x and 20x"
                )
            if not bool(given.isfinite().all()) or (name == "sd" and bool((given < 0).any())):
                raise TiacfError(f"{name} holds values that none can be: check the bags")
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd == 0, 1.0, sd))

    def set_baseline(self, increments: Tensor) -> None:
        """Set the baseline's cumulative hazard in each bin: the increments.

        Args:
            increments (Tensor):
                (K,) 0 or more; from the training patients and their log-hazards.

        Raises:
            TiacfError:
                The network was made without proportional hazards, or the values are unfit.
        """
        if self.increments is None:
            raise TiacfError("the network was made without proportional hazards: ask for it there")
        if increments.shape != self.increments.shape:
            raise TiacfError(
                f"{len(increments)} increments for {self.num_bins} time bins: give one a bin"
            )
        if not bool(increments.isfinite().all()) or bool((increments < 0).any()):
            raise TiacfError("a baseline hazard is 0 or more and finite: check the log-hazards")
        self.increments.copy_(increments)

    def log_hazard(self, x5: Tensor, x10: Tensor, x20: Tensor) -> Tensor:
        """Log-hazard eta (B,) of a batch of slides, for Cox's partial likelihood.

        Needs no increments. The arguments are those of `forward`.

        Raises:
            TiacfError:
                The network was made without proportional hazards, or a bag does not fit.
        """
        if self.increments is None:
            raise TiacfError(
                "the network was made without proportional hazards: it has no log-hazard"
            )
        return self.network(*self._standardised(x5, x10, x20)).logits[:, 0]

    def forward(
        self, x5: Tensor, x10: Tensor, x20: Tensor, *, attention: bool = False
    ) -> SurvivalOutput:
        """Predict survival from the bags of a batch of slides.

        Args:
            x5 (Tensor):
                (B, N5, E) features at 5x.
            x10 (Tensor):
                (B, N10, E) features at 10x.
            x20 (Tensor):
                (B, N20, E) features at 20x.
            attention (bool):
                Also score the tokens. Changes nothing else of the output.

        Returns:
            SurvivalOutput:
                The prediction with K bins, and the network's scores if asked for.

        Raises:
            TiacfError:
                A bag does not fit the network.
        """
        output = self.network(*self._standardised(x5, x10, x20), attention=attention)
        if self.increments is None:
            return output
        logits = proportional_logits(output.logits, self.increments)  # (B, K)
        return SurvivalOutput.from_logits(logits, output.attention)

    def _standardised(self, *bags: Tensor) -> tuple[Tensor, ...]:
        """Standardise the features of the three scales, in the precision of the moments."""
        if self.mean is None or self.sd is None:
            return bags
        if any(bag.shape[-1:] != self.mean.shape[1:] for bag in bags):
            return bags  # the network names the one at fault
        return tuple(
            (bag - mean) / sd for bag, mean, sd in zip(bags, self.mean, self.sd, strict=True)
        )


def proportional_logits(log_hazard: Tensor, increments: Tensor) -> Tensor:
    """Logits of the discrete hazards `1 - exp(-x)`, with `x = dH_k exp(eta)`.

    `logit(1 - exp(-x)) = log(expm1(x)) = x + log(1 - exp(-x))`; the last form neither overflows for
    large x nor loses digits for small ones, with the log of x held between -80 and 20.

    Args:
        log_hazard (Tensor):
            (B, 1) eta.
        increments (Tensor):
            (K,) dH_k, 0 or more.

    Returns:
        Tensor:
            (B, K) in float32 or wider.
    """
    wide = torch.promote_types(log_hazard.dtype, torch.float32)
    log_cumulative = increments.to(wide).log() + log_hazard.to(wide)  # (B, K)
    cumulative = log_cumulative.clamp(_SMALLEST, _LARGEST).exp()  # (B, K)
    return cumulative + torch.log(-torch.expm1(-cumulative))
