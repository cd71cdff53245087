"""What `tiacf pretrain` learnt: a folder with `pretrained.json` and `pretrained.safetensors`, no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError, UsageError, first_fault, one_line
from tiacrossfusion.io.atomic import replacing, write_text, writing
from tiacrossfusion.models.config import PretrainedPart
from tiacrossfusion.models.network import summary_of
from tiacrossfusion.slides.spec import SamplingSpec
from tiacrossfusion.survival.record import Record

_WEIGHTS = "summary."

DESCRIPTION, ARRAYS = "pretrained.json", "pretrained.safetensors"

#: Arrays of P terms of the record. The others are weights of the summary of slides.
_NAMES: Final = ("component", "component_centre", "component_scale")


class VariableReport(BaseModel):
    """How well a variable of the record is rebuilt, see `cross_modality.Rebuilt`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variable: str
    patients: int
    by_slide: FiniteFloat
    by_slide_low: FiniteFloat
    by_slide_high: FiniteFloat
    by_others: FiniteFloat
    gain: FiniteFloat
    gain_low: FiniteFloat
    gain_high: FiniteFloat


class Description(BaseModel):
    """The `pretrained.json`.

    Attributes:
        record: variables that were learnt from.
        encoder: of the features.
        sampling: of the features.
        part: what reads the slides.
        patients: number of patients.
        variables: what the slide adds to rebuild each variable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    record: Record
    encoder: EncoderSpec
    sampling: SamplingSpec
    part: PretrainedPart
    patients: int
    variables: tuple[VariableReport, ...]


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Directions of slide and record.

    Attributes:
        description: what they were learnt from.
        weights: by name, of the network of the slides' summary (`models.network.summary_of`), which has SD 1
            over the patients. Directions of the closed form are those of raw features.
        component: (P,) for the terms of the record, of SD 1.
        component_centre: (P,) of these terms, see `RecordTerms`.
        component_scale: (P,) of these terms.
    """

    description: Description
    weights: Mapping[str, np.ndarray]
    component: np.ndarray
    component_centre: np.ndarray
    component_scale: np.ndarray

    def save(self, folder: Path) -> None:
        """Write both files into a folder, which is made if it does not exist.

        Raises:
            TiacfError: it cannot be written.
        """
        from safetensors.numpy import save

        arrays = {name: getattr(self, name) for name in _NAMES}
        arrays |= {f"{_WEIGHTS}{name}": array for name, array in self.weights.items()}
        arrays = {n: np.ascontiguousarray(array, np.float32) for n, array in arrays.items()}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / ARRAYS) as part:
                part.write_bytes(save(arrays))
        text = json.dumps(self.description.model_dump(mode="json"), indent=1)
        write_text(folder / DESCRIPTION, text + "\n")


def load_pretrained(folder: Path) -> Pretrained:
    """Read what `Pretrained.save` wrote.

    Raises:
        UsageError: there is no such folder.
        TiacfError: a file is missing, damaged, or does not fit the other.
    """
    from safetensors.numpy import load

    path = folder / DESCRIPTION
    try:
        description = Description.model_validate_json(path.read_bytes())
        arrays = load((folder / ARRAYS).read_bytes())
    except FileNotFoundError as error:
        raise UsageError(
            f"{error.filename}: does not exist; give the folder of tiacf pretrain with --init"
        ) from error
    except OSError as error:
        raise TiacfError(
            f"{folder}: cannot be read ({error.strerror}); check its rights"
        ) from error
    except ValidationError as error:
        field, reason = first_fault(error)
        raise TiacfError(f"{path}: {field}: {reason}; run tiacf pretrain again") from error
    except Exception as error:  # what safetensors raises
        raise TiacfError(
            f"{folder / ARRAYS}: cannot be read ({one_line(error)}); run tiacf pretrain again"
        ) from error
    shapes = dict.fromkeys(_NAMES, (description.record.num_terms,))
    network = summary_of(description.part, description.record, description.encoder.width)
    assert network is not None  # noqa: S101 - there is a part
    shapes |= {f"{_WEIGHTS}{name}": tuple(w.shape) for name, w in network.state_dict().items()}
    for name, shape in shapes.items():
        if name not in arrays or arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise TiacfError(
                f"{folder / ARRAYS}: does not fit {DESCRIPTION} ({name}); run tiacf pretrain again"
            )
    weights = {
        name.removeprefix(_WEIGHTS): array
        for name, array in arrays.items()
        if name.startswith(_WEIGHTS) and name in shapes
    }
    return Pretrained(description, weights, *(arrays[name].astype(float) for name in _NAMES))
