"""What identifies an encoder."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt

Triple = tuple[float, float, float]

_Positive = Annotated[FiniteFloat, Field(gt=0)]
OptionValue = bool | int | float | str


class EncoderSpec(BaseModel):
    """Identity and preprocessing of an encoder; part of a bundle's `config.json`.

    Attributes:
        name: canonical name: a registered one such as `stain-texture`, `timm:...` or `tiatoolbox:...`;
            `load_encoder` takes it back.
        width: number of features of a patch (E).
        weights_sha256: hash over the sorted state dict (key, dtype, shape, bytes), so that it does not
            depend on the file format; None when unknown.
        mean: subtracted from RGB in 0..1; None when unknown.
        std: divided by afterwards; None when unknown.
        input_size: side in pixels of what the model gets for a patch of 256 pixels; None when unknown.
        options: extra keyword arguments of `timm.create_model`.
        package: installed package or Python file that registers the encoder; None for a built-in one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    width: PositiveInt
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    std: tuple[_Positive, _Positive, _Positive] | None = None
    input_size: PositiveInt | None = None
    options: dict[str, OptionValue] = Field(default_factory=dict)
    package: Annotated[str, Field(pattern=r"^[\w.-]{1,200}$")] | None = None
