"""What is given to the engine, checked before anything is begun.

Where TIAToolbox's own engines raise what the first library at fault does, this one raises `UsageError`,
with the argument and what is wanted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tiatoolbox.models.engine.io_config import ModelIOConfigABC
from tiatoolbox.wsicore.wsireader import WSIReader

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.arguments import positive


def path_of(name: str, given: Any) -> Path:
    """Return a path.

    Raises:
        UsageError: it is none, or empty, which would stand for the folder that we are in.
    """
    try:
        text = os.fspath(given)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise UsageError(f"{name}: must be a path, not {type(given).__name__}")
    if not text or "\0" in text:
        raise UsageError(f"{name}: {text!r} is no path; give the name of a file or folder")
    return Path(text)


def images_of(given: Any) -> list[Path | WSIReader]:
    """Return the images: paths and readers.

    Raises:
        UsageError: it is no list, an empty one, or holds something else.
    """
    if not isinstance(given, list | tuple) or len(given) == 0:
        raise UsageError("images: give a list of at least one slide, such as ['slide.svs']")
    for image in given:
        if not isinstance(image, str | os.PathLike | WSIReader):
            raise UsageError(
                f"images: {type(image).__name__} is neither a path nor a WSIReader; an array "
                "goes in as VirtualWSIReader(array, mpp=...)"
            )
    return [image if isinstance(image, WSIReader) else path_of("images", image) for image in given]


def masks_of(given: Any, images: int) -> list[Path | np.ndarray | None] | None:
    """Return the masks, one for each image, or None where there are none.

    Raises:
        UsageError: they are too many or too few, or one is neither a path nor an array.
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(
            f"masks: {type(given).__name__} is no list; give a list, one for each image"
        )
    masks = list(given)
    if len(masks) != images:
        raise UsageError(f"masks: {len(masks)} masks for {images} images; give one for each")
    for mask in masks:
        if mask is not None and not isinstance(mask, str | os.PathLike | np.ndarray):
            raise UsageError(f"masks: {type(mask).__name__} is neither a path nor an array")
    return [path_of("masks", m) if isinstance(m, str | os.PathLike) else m for m in masks]


def scale_of(given: Any) -> tuple[float | None, float | None]:
    """Return mpp and power of `wsireader_kwargs`, where they are given.

    Raises:
        UsageError: it is no dictionary, holds something else, or a value is no number above 0.
    """
    if given is None:
        return None, None
    if not isinstance(given, Mapping):
        raise UsageError('wsireader_kwargs: must be a dictionary such as {"mpp": 0.25}')
    for name in given:
        if name not in ("mpp", "power"):
            raise UsageError(f'wsireader_kwargs: "{name}" is not used; give "mpp" or "power"')
    scale: dict[str, float | None] = {}
    for name, value in given.items():
        value = _plain(value)
        # The toolbox's form of mpp is (x, y).
        values = value if name == "mpp" and isinstance(value, list) else [value]
        for each in values:
            positive(f"wsireader_kwargs: {name}", each)
        if len(values) not in (1, 2) or values[0] != values[-1]:
            raise UsageError(
                f"wsireader_kwargs: mpp {', '.join(map(str, values))}: must be one number, or the same "
                "in x and y"
            )
        scale[name] = None if values[0] is None else float(values[0])
    return scale.get("mpp"), scale.get("power")


def check_sampling(own: ModelIOConfigABC, **given: Any) -> None:
    """Refuse another sampling than the model's own.

    Args:
        own: the model's.
        given: `input_resolutions`, `patch_input_shape` and `ioconfig`; None is not given. Lists, tuples
            and arrays of the same numbers are the same.

    Raises:
        UsageError: it is another.
    """
    for name, value in given.items():
        wanted = own if name == "ioconfig" else getattr(own, name)
        if value is not None and _plain(value) != _plain(wanted):
            raise UsageError(
                f"{name}: a survival model is valid for its own sampling only ({wanted}); "
                "leave it out, or take a model trained with that sampling"
            )


def _plain(value: Any) -> Any:
    """Write sequences as lists, which compare as a whole where arrays do element by element."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, ModelIOConfigABC):
        return _plain(vars(value))
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(each) for each in value]
    return value
