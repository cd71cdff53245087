"""Check the arguments of the engine before anything is computed.

An error is both a `UsageError` and what TIAToolbox's own engines raise: `TypeError`, `ValueError`,
`FileNotFoundError` or `FileExistsError`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tiatoolbox.models.engine.io_config import ModelIOConfigABC
from tiatoolbox.wsicore.wsireader import VirtualWSIReader, WSIReader

from tiacrossfusion.errors import ArgumentTypeError, ArgumentValueError, ExistingFileError
from tiacrossfusion.explain.hotspots import HotspotsBy
from tiacrossfusion.io.arguments import positive
from tiacrossfusion.io.paths import is_file
from tiacrossfusion.outputs.writers import WRITERS
from tiacrossfusion.slides.options import Mask, Scale, WholeSlide

#: Run parameters of TIAToolbox's engines that do nothing here: the values that are accepted, the first of
#: them the toolbox's default, and why no other value is possible.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "cache_mode": ((False, None), "the features of one slide fit into memory"),
    "class_dict": ((None, {}), "a survival model has time bins and no classes"),
    "labels": ((None, []), "prediction uses no outcomes; compare with them by `tiacf evaluate`"),
    "memory_threshold": ((80, None), "the features of one slide fit into memory"),
    "output_file": ((None,), "files are named after the slides; choose their folder with save_dir"),
    "return_labels": ((False, None), "prediction uses no outcomes"),
    "return_probabilities": ((False, True, None), "hazards and survival are always returned"),
    "scale_factor": ((None, [1, 1]), "coordinates are pixels of level 0"),
}


def path_of(name: str, given: Any) -> Path:
    """Return a path.

    Raises:
        ArgumentTypeError: the value is no path.
        ArgumentValueError: it is empty, which would mean the current folder, or has a null byte.
    """
    try:
        text = os.fspath(given)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise ArgumentTypeError(f"{name}: must be a path, not {type(given).__name__}")
    if not text or "\0" in text:
        raise ArgumentValueError(f"{name}: {text!r} is no path; give the name of a file or folder")
    return Path(text)


def folder_of(name: str, given: Any) -> Path:
    """Return the path of an output folder, which need not exist.

    Raises:
        ExistingFileError: it is a file.
    """
    path = path_of(name, given)
    if is_file(path):
        raise ExistingFileError(f"{path}: is a file; give a folder as {name}")
    return path


def images_of(given: Any) -> list[Path | WSIReader]:
    """Return the images, as paths and readers.

    Raises:
        ArgumentTypeError: the value is no list, or holds something else.
        ArgumentValueError: the list is empty.
    """
    if not isinstance(given, list | tuple):
        raise ArgumentTypeError(
            "images: give a list of at least one slide, such as ['slide.svs'], not "
            f"{type(given).__name__}"
        )
    if not given:
        raise ArgumentValueError("images: give a list of at least one slide, such as ['slide.svs']")
    for image in given:
        if not isinstance(image, str | os.PathLike | WSIReader):
            raise ArgumentTypeError(
                f"images: {type(image).__name__} is neither a path nor a WSIReader; an array "
                "goes in as VirtualWSIReader(array, mpp=...)"
            )
    return [image if isinstance(image, WSIReader) else path_of("images", image) for image in given]


def masks_of(given: Any, images: int, *, auto_get_mask: bool) -> list[Mask | None]:
    """Return one mask for each image: a path, an array, or None where the tissue is to be found.

    Args:
        given: paths, arrays (H, W), `VirtualWSIReader`s or None, one for each image; or None.
        images: number of images.
        auto_get_mask: find the tissue of images without a mask; False takes the whole image.

    Raises:
        ArgumentTypeError: the value is no list, or a mask is of another type.
        ArgumentValueError: there are too many or too few.
    """
    if not isinstance(auto_get_mask, bool | np.bool_):
        raise ArgumentTypeError(
            f"auto_get_mask: must be True or False, not {type(auto_get_mask).__name__}"
        )
    missing_mask = None if auto_get_mask else WholeSlide()
    if given is None:
        return [missing_mask] * images
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ArgumentTypeError(
            f"masks: {type(given).__name__} is no list; give a list, one for each image"
        )
    masks = list(given)
    if len(masks) != images:
        raise ArgumentValueError(
            f"masks: {len(masks)} masks for {images} images; give one for each"
        )
    return [missing_mask if mask is None else _mask_of(mask) for mask in masks]


def _mask_of(mask: Any) -> Mask:
    """Return one mask as a path or an array."""
    if isinstance(mask, VirtualWSIReader):
        return np.asarray(mask.img)
    if isinstance(mask, np.ndarray):
        return mask
    if not isinstance(mask, str | os.PathLike):
        raise ArgumentTypeError(f"masks: {type(mask).__name__} is neither a path nor an array")
    return path_of("masks", mask)


def scale_of(given: Any, mpp: float | None, power: float | None) -> Scale:
    """Return the scale of the slides: mpp and power, and where these are None those in `wsireader_kwargs`.

    Raises:
        ArgumentTypeError: `wsireader_kwargs` is no dictionary, or a number is of another type.
        ArgumentValueError: another name is given, a number is not above 0, or mpp and power contradict
            each other.
    """
    if given is None:
        return Scale(mpp, power)
    if not isinstance(given, Mapping):
        raise ArgumentTypeError('wsireader_kwargs: must be a dictionary such as {"mpp": 0.25}')
    for name in given:
        if name not in ("mpp", "power"):
            raise ArgumentValueError(
                f'wsireader_kwargs: "{name}" is not used; give "mpp" or "power"'
            )
    scale: dict[str, float | None] = {}
    for name, value in given.items():
        value = plain(value)
        # The toolbox's form of mpp is (x, y).
        values = value if name == "mpp" and isinstance(value, list) else [value]
        for each in values:
            positive(f"wsireader_kwargs: {name}", each)
        if len(values) not in (1, 2) or values[0] != values[-1]:
            raise ArgumentValueError(
                f"wsireader_kwargs: mpp {', '.join(map(str, values))}: must be one number, or the same "
                "in x and y"
            )
        scale[name] = None if values[0] is None else float(values[0])
    reader = Scale(**scale)
    return Scale(reader.mpp if mpp is None else mpp, reader.power if power is None else power)


def output_type_of(given: Any, folder: Path | None) -> str:
    """Return the output type; "dict" with a folder is "zarr", as in TIAToolbox's engines.

    Raises:
        ArgumentTypeError: there is no such type.
        ArgumentValueError: it needs a folder, and none is given.
    """
    known = {name.lower(): name for name in ("dict", *WRITERS.names())}
    if str(given).lower() not in known:
        names = ", ".join(map(repr, known.values()))
        raise ArgumentTypeError(f"output_type={given}: must be one of {names}")
    output_type = known[str(given).lower()]
    if output_type == "dict" and folder is not None:
        return "zarr"
    if output_type != "dict" and folder is None:
        raise ArgumentValueError(f"output_type={output_type}: give a save_dir to write to")
    return output_type


def check_fixed(given: Mapping[str, Any]) -> None:
    """Refuse run parameters of TIAToolbox's engines at values that cannot be.

    Raises:
        ArgumentTypeError: there is no such parameter.
        ArgumentValueError: the value is not among those accepted.
    """
    for name, value in given.items():
        if name not in _FIXED:
            raise ArgumentTypeError(f"{name}: SurvivalPredictor.run has no such option")
        accepted, reason = _FIXED[name]
        if plain(value) not in accepted:
            raise ArgumentValueError(f"{name}: {reason}; leave it out, or give {accepted[0]!r}")


def plain(value: Any) -> Any:
    """Return sequences as lists, which compare as a whole where arrays compare each element."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, ModelIOConfigABC):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(each) for each in value]
    return value


def check_hotspots(by: object) -> None:
    """Refuse what hotspots cannot be found by.

    Raises:
        ArgumentValueError: it is neither "attribution" nor "attention".
    """
    if by not in get_args(HotspotsBy):
        raise ArgumentValueError(f"hotspots={by!r}: give {' or '.join(get_args(HotspotsBy))}")
