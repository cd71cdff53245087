"""TIAToolbox's IO configuration of a survival model, which is its sampling."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from pydantic import ValidationError
from tiatoolbox.models.engine.io_config import ModelIOConfigABC

from tiacrossfusion.errors import ArgumentTypeError, ArgumentValueError, MissingFileError, one_line
from tiacrossfusion.io.paths import is_file, missing
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.toolbox.arguments import path_of, plain


def sampling_ioconfig(spec: SamplingSpec) -> ModelIOConfigABC:
    """Return a model's sampling as TIAToolbox's IO configuration, finest scale last."""
    return ModelIOConfigABC(
        input_resolutions=[
            {"units": spec.units, "resolution": spec.resolution(scale)} for scale in SCALES
        ],
        patch_input_shape=(spec.patch_size, spec.patch_size),
        stride_shape=(spec.patch_size, spec.patch_size),
    )


def sampling_of(ioconfig: Any) -> SamplingSpec:
    """Return the sampling that an IO configuration describes.

    Raises:
        ArgumentTypeError: the value is no IO configuration.
        ArgumentValueError: it is not the three nested scales from coarse to fine, with square patches side
            by side.
    """
    if not isinstance(ioconfig, ModelIOConfigABC):
        raise ArgumentTypeError(
            f"ioconfig: must be a ModelIOConfigABC, not {type(ioconfig).__name__}"
        )
    try:
        size = np.ravel(ioconfig.patch_input_shape)
        spec = SamplingSpec(units=ioconfig.resolution_unit, patch_size=int(size[0]))
        check_sampling(sampling_ioconfig(spec), ioconfig=ioconfig)
    except (ValidationError, ArgumentValueError, ValueError, TypeError, IndexError) as error:
        example = sampling_ioconfig(SamplingSpec())
        raise ArgumentValueError(
            "ioconfig: must have the resolutions of 5x, 10x and 20x in this order and square patches side "
            f"by side, such as {example}"
        ) from error
    return spec


def given_ioconfig(ioconfig: ModelIOConfigABC | None, **parts: Any) -> ModelIOConfigABC:
    """Return the IO configuration of a network without a model bundle, from what the user gives.

    `parts` are `input_resolutions`, `patch_input_shape` and `stride_shape`; the first two make one.

    Raises:
        UsageError: neither is given, they contradict each other, or as for `sampling_of`.
    """
    if ioconfig is None and (
        parts["input_resolutions"] is None or parts["patch_input_shape"] is None
    ):
        raise ArgumentValueError(
            "ioconfig: is missing; a network without a model bundle needs it, or input_resolutions and "
            "patch_input_shape"
        )
    try:
        own = sampling_ioconfig(sampling_of(ioconfig or ModelIOConfigABC(**parts)))
    except (KeyError, IndexError, TypeError) as error:
        if isinstance(error, ArgumentTypeError):
            raise
        raise ArgumentValueError(
            f"input_resolutions: are not such as {sampling_ioconfig(SamplingSpec()).input_resolutions}"
        ) from error
    check_sampling(own, **parts)
    return own


def check_sampling(own: ModelIOConfigABC, **given: Any) -> None:
    """Refuse any sampling but the model's own.

    `given` has `input_resolutions`, `patch_input_shape`, `stride_shape` and `ioconfig`; None is not given.
    Lists, tuples and arrays of the same numbers are equal.

    Raises:
        ArgumentValueError: it differs.
    """
    for name, value in given.items():
        wanted = own if name == "ioconfig" else getattr(own, name)
        if value is not None and plain(value) != plain(wanted):
            raise ArgumentValueError(
                f"{name}: a survival model is valid for its own sampling only ({wanted}); "
                "leave it out, or take a model trained with that sampling"
            )


def load_ioconfig(path: str | os.PathLike) -> ModelIOConfigABC:
    """Read an IO configuration from a YAML file, as TIAToolbox's commands take it.

    Raises:
        MissingFileError: the file does not exist.
        ArgumentValueError: it is no such configuration.
    """
    import yaml

    file = path_of("yaml_config_path", path)
    if not is_file(file):
        raise MissingFileError(f"{file}: {missing(file)}; check --yaml-config-path")
    try:
        return ModelIOConfigABC(**yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, OSError, TypeError, KeyError, IndexError, ValueError) as error:
        raise ArgumentValueError(
            f"{file}: is no IO configuration of TIAToolbox ({one_line(error)}); it needs "
            "input_resolutions, patch_input_shape and stride_shape"
        ) from error


def check_yaml(path: str | os.PathLike, own: SamplingSpec) -> None:
    """Refuse a YAML file with an IO configuration other than the model's own sampling.

    Raises:
        UsageError: it differs, or as for `load_ioconfig`.
    """
    check_sampling(sampling_ioconfig(own), ioconfig=load_ioconfig(path))
