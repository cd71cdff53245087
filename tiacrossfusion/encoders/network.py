"""What every encoder is made from: a module that turns normalised images into features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tiacrossfusion.encoders.spec import EncoderSpec, OptionValue, Triple

if TYPE_CHECKING:
    from torch import nn

#: Side in pixels of the patches of this package.
PATCH_SIZE = 256


@dataclass(frozen=True, slots=True)
class EncoderNetwork:
    """A network with its weights, and how images are prepared for it.

    Attributes:
        module: from (B, 3, S, S) float32 to (B, width).
        width: number of features of a patch.
        mean: subtracted from RGB in 0..1.
        std: what is left is divided by it.
        fixed_size: side in pixels that every image is resized to; None when any side will do.
        micro_batch: images that one core computes at once on the CPU.
        takes_weights: False where weights, mean and standard deviation cannot be replaced.
        options: extra arguments that the module was built with.
        name: canonical name; a registered encoder has the name that it is registered under.
        package: what has to be installed or loaded for the encoder; None for a built-in one.
    """

    module: nn.Module
    width: int
    mean: Triple
    std: Triple
    fixed_size: int | None = None
    micro_batch: int = 8
    takes_weights: bool = True
    options: dict[str, OptionValue] = field(default_factory=dict)
    name: str = ""
    package: str | None = None

    def spec(
        self,
        *,
        weights_sha256: str | None,
        mean: Triple | None = None,
        std: Triple | None = None,
    ) -> EncoderSpec:
        """Describe the encoder; `mean` and `std` override the network's own."""
        return EncoderSpec(
            name=self.name,
            width=self.width,
            weights_sha256=weights_sha256,
            mean=mean or self.mean,
            std=std or self.std,
            input_size=self.fixed_size or PATCH_SIZE,
            options=self.options,
            package=self.package,
        )
