"""What the families hand over: a module that turns normalised images into features."""

from dataclasses import dataclass, field

from torch import nn

from tiacrossfusion.encoders.spec import EncoderSpec, OptionValue, Triple

#: Side in pixels of the patches of this package.
PATCH_SIZE = 256


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network.

    Attributes:
        name (str):
            Canonical name.
        module (nn.Module):
            From `(B, 3, S, S)` float32 to `(B, width)`.
        width (int):
            Features a patch.
        mean (tuple[float, float, float]):
            Its own normalisation of RGB in 0..1.
        std (tuple[float, float, float]):
            Its own normalisation of RGB in 0..1.
        fixed_size (int or None):
            Side that every image is resized to, or None when any side will do.
        micro_batch (int):
            Images that one core computes at once on the CPU.
        options (dict):
            Extra arguments it was built with.
    """

    name: str
    module: nn.Module
    width: int
    mean: Triple
    std: Triple
    fixed_size: int | None = None
    micro_batch: int = 8
    options: dict[str, OptionValue] = field(default_factory=dict)

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
        )
