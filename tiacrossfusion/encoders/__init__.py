"""Patch encoders: an image batch in, a feature matrix out.

The room knows nothing of slides, bags or survival. Importing it loads neither torch nor timm nor
TIAToolbox; `load_encoder` and `available_encoders` load what the named encoder needs.
"""

from typing import TYPE_CHECKING, Any

from tiacrossfusion.encoders.available import AvailableEncoder, available_encoders
from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.encoders.stored import describe_encoder, load_encoder_of

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder

__all__ = [
    "AvailableEncoder",
    "Encoder",
    "EncoderSpec",
    "available_encoders",
    "describe_encoder",
    "load_encoder",
    "load_encoder_of",
]


def __getattr__(name: str) -> Any:
    """Load `Encoder`, which needs torch, when it is first asked for."""
    if name == "Encoder":
        from tiacrossfusion.encoders.encoder import Encoder

        return Encoder
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
