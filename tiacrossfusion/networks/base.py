"""The base class of survival networks: their sizes, and how they are explained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.networks.output import AttentionLayers, AttentionScores, SurvivalOutput
from tiacrossfusion.networks.pooling import Pool
from tiacrossfusion.networks.tokens import SlideTokens

# A larger size is a typing error, or an attempt to exhaust the memory.
_LARGEST = {
    "encoder_width": 65536,
    "embed_dim": 8192,
    "num_heads": 256,
    "depth": 64,
    "num_bins": 1000,
}


@dataclass(frozen=True)
class Term:
    """What a module computes for each token, beyond its embedding; see `SurvivalNetwork.terms`.

    Attributes:
        name: of what the term looks at, such as "20x inside 5x".
        scale: of the tokens that have a value each, "5x", "10x" or "20x".
    """

    name: str
    scale: str


class SurvivalNetwork(nn.Module):
    """Base class of networks that predict survival from the tokens of slides.

    `forward` names the inputs that it takes, and is called with them by name (see `calling.call_network`).
    An argument without a default is required; one with a default is passed if the bags have it:

    - `x5`, `x10`, `x20` (B, N, E): features of the N tokens at 5x, 10x and 20x;
    - `grid5`, `grid10`, `grid20` (B, N, 2) int64: column and row of the tokens on their grid;
    - `covariates` (B, C): clinical covariates;
    - `attention` (bool): also return attention scores, without any other change of the output.

    It returns a `SurvivalOutput`, or the logits (B, K). Features may be float16: a network converts them to
    the precision of its weights. A plain `nn.Module` with such a `forward` is a network too; this class
    adds its sizes and how it is explained.

    Args:
        encoder_width: E, width of the input features.
        num_bins: K, time bins of the survival curve.
        sizes: further sizes to check. `num_heads`, if given, must divide `embed_dim`.

    Raises:
        UsageError: a size is below 1 or far too large, or `num_heads` does not divide `embed_dim`.
    """

    #: One sentence on what attention shows, by stage: "5x", "10x", "20x", "fused" and "rolled".
    attention_meanings: ClassVar[Mapping[str, str]] = {}

    #: Whether the order of the tokens changes the prediction.
    reads_order: ClassVar[bool] = False

    def __init__(self, encoder_width: int, num_bins: int, **sizes: int) -> None:
        """Check the sizes."""
        super().__init__()
        sizes = {"encoder_width": encoder_width, "num_bins": num_bins} | sizes
        for name, size in sizes.items():
            if size < 1:
                raise UsageError(f"{name} is {size}: give 1 or more")
            if size > _LARGEST.get(name, size):
                raise UsageError(f"{name} is {size}: give 1 to {_LARGEST[name]}")
        if "num_heads" in sizes and sizes["embed_dim"] % sizes["num_heads"]:
            raise UsageError(
                f"embed_dim {sizes['embed_dim']} does not split into {sizes['num_heads']} heads: "
                "give a num_heads that divides it"
            )
        self.encoder_width = encoder_width
        self.num_bins = num_bins

    def check_features(self, **features: Tensor) -> None:
        """Check features (B, N, E), given under the names of `forward`, such as `x20`.

        Raises:
            TiacfError: features are empty, have the wrong width or type, or differ in batch size; names the
                first input at fault.
        """
        first, batch = next((name, len(x)) for name, x in features.items())
        for name, x in features.items():
            shape = tuple(x.shape)
            if len(shape) != 3:
                raise TiacfError(f"{name} has shape {shape}: give (batch, tokens, features)")
            if 0 in shape[:2]:
                raise TiacfError(f"{name} has shape {shape}: give at least one slide and one token")
            if shape[2] != self.encoder_width:
                raise TiacfError(
                    f"{name} has features of width {shape[2]}, this network takes "
                    f"{self.encoder_width}: use the encoder that it was trained with"
                )
            if not x.is_floating_point():
                raise TiacfError(f"{name} holds {x.dtype}: give float features")
            if shape[0] != batch:
                raise TiacfError(
                    f"{name} has {shape[0]} slides, {first} has {batch}: give equally many at each scale"
                )

    def unwrapped(self) -> nn.Module:
        """Return the network whose `forward` names the inputs: this one, or the one that it wraps."""
        return self

    def needed_inputs(self) -> tuple[str, ...]:
        """Return inputs that are required although `forward` has a default for them (default: none)."""
        return ()

    def further_inputs(self) -> tuple[str, ...]:
        """Return inputs that are taken although `forward` does not name them (default: none)."""
        return ()

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return the modules that embed tokens, each with the scales that it embeds.

        A module takes the features (B, N, E) of its scales, in their order, and returns the embedded
        tokens (B, N, D) of each: a tensor, or a list of tensors. It embeds each token on its own. The risk
        is attributed to these, or to the features if there are no such modules (the default).
        """
        return {}

    def terms(self) -> Mapping[nn.Module, Term]:
        """Return the modules that compute terms of tokens of which the network takes a mean (default: none).

        A module takes tensors (B * N, ...) with a row for each token, and returns the terms (B * N, C). The
        risk is attributed to them as well: what a term adds beyond the module's output for the mean rows.
        A network that names `embeddings` reads the features only there and in the modules of terms.
        """
        return {}

    @property
    def pools_families(self) -> bool:
        """Whether the network predicts from means over families alone (default: no)."""
        return False

    def family_sums(self, inputs: Mapping[str, Tensor]) -> list[Pool]:
        """Return the sums over families of one slide of which the network takes means.

        Args:
            inputs: features and grids (1, N, ...) under their names in `forward`. Of families that were not
                read there is the 5x token alone; the sums at 10x and 20x are 0 for them.

        Raises:
            TiacfError: the network does not pool.
        """
        del inputs
        raise TiacfError(f"{type(self).__name__} does not predict from means over the slide")

    def from_means(
        self, means: Iterator[Tensor], counts: Mapping[str, int], covariates: Tensor | None = None
    ) -> SurvivalOutput:
        """Predict from means (R, C) of `family_sums`, in its order; R slides, or estimates of one.

        Args:
            means: sums over families divided by `counts`.
            counts: number of tokens of each scale.
            covariates: (R, C) of the patients.

        Raises:
            TiacfError: the network does not pool.
        """
        del means, counts, covariates
        raise TiacfError(f"{type(self).__name__} does not predict from means over the slide")

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return mean and SD (3, E) that standardise the features of 5x, 10x and 20x, if any."""
        return None

    def rollout(self, tokens: SlideTokens) -> AttentionScores | None:
        """Follow attention from the prediction back to the tokens; None (the default) if unsupported.

        The scores are 0 or more and sum to 1 over the tokens of all scales together, so that the sum at one
        scale is that scale's share. They are NaN if the class token attends to nothing but itself.
        """
        del tokens
        return None

    def attention_layers(self) -> AttentionLayers | None:
        """Return the layers that `trace_attention` scores; None (the default) if it has none."""
        return None
