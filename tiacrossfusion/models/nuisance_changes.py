"""Changes of features that a nuisance makes, such as a stain: `nuisance.safetensors`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor

from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import MissingFileError, TiacfError, one_line
from tiacrossfusion.io.atomic import replacing, writing
from tiacrossfusion.io.paths import is_file, is_there, missing
from tiacrossfusion.slides.spec import SCALES

#: Usual name of the file.
NUISANCE = "nuisance.safetensors"

_CHANGES = "changes"
_NAMES: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[str, ...])


@dataclass(frozen=True, eq=False)
class NuisanceChanges:
    """How far nuisances moved the mean features of slides.

    Attributes:
        changes: (R, 3, E) float32, a row for each slide and nuisance: mean features at 5x, 10x and 20x with
            the nuisance less those without, in the encoder's units.
        names: (R) of the nuisances.
        slides: (R) on which they were measured.
        encoder: of the features.
    """

    changes: Tensor
    names: tuple[str, ...]
    slides: tuple[str, ...]
    encoder: EncoderSpec

    def save(self, path: Path) -> None:
        """Write the file in one step; its folder is made if need be.

        Raises:
            TiacfError: the values cannot be read back, or the file cannot be written.
        """
        from safetensors.torch import save

        if fault := self._fault():
            raise TiacfError(f"{path}: not written: {fault}")
        described = {
            "names": json.dumps(self.names),
            "slides": json.dumps(self.slides),
            "encoder": self.encoder.model_dump_json(),
        }
        content = save({_CHANGES: self.changes.float().cpu().contiguous()}, described)
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                part.write_bytes(content)

    @classmethod
    def load(cls, path: Path) -> NuisanceChanges:
        """Read what `save` wrote.

        Raises:
            MissingFileError: there is no such file.
            TiacfError: it is damaged, or holds values that are not finite.
        """
        from safetensors import safe_open

        again = f"make {NUISANCE} again with tiacf audit --img-input"
        if not is_file(path):
            why = "not a file" if is_there(path) else missing(path)
            raise MissingFileError(
                f"{path}: {why}; give the {NUISANCE} that tiacf audit --img-input writes"
            )
        try:
            with safe_open(path, "pt") as file:
                described = file.metadata() or {}
                read = cls(
                    file.get_tensor(_CHANGES),
                    _NAMES.validate_json(described["names"]),
                    _NAMES.validate_json(described["slides"]),
                    EncoderSpec.model_validate_json(described["encoder"]),
                )
        except OSError as error:
            raise TiacfError(
                f"{path}: cannot be read ({error.strerror or error}); check its rights"
            ) from error
        except Exception as error:  # what safetensors and pydantic raise
            raise TiacfError(f"{path}: damaged ({one_line(error)}); {again}") from error
        if fault := read._fault():
            raise TiacfError(f"{path}: {fault}; {again}")
        return read

    def _fault(self) -> str | None:
        """Return what does not fit, if anything."""
        rows = len(self.names)
        if self.changes.shape != (rows, len(SCALES), self.encoder.width) or not rows:
            return (
                f"changes of shape {tuple(self.changes.shape)}, for {rows} nuisances and an encoder of "
                f"{self.encoder.width} features"
            )
        if len(self.slides) != rows:
            return f"{len(self.slides)} slides for {rows} changes"
        if self.changes.dtype != torch.float32:
            return f"changes of type {self.changes.dtype}, not float32"
        if not self.changes.isfinite().all():
            return "values that are not finite"
        return None
