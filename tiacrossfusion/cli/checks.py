"""Checks of command-line options."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.paths import is_file, is_there, missing


def given(option: str, value: str | Path | None) -> Path:
    """Return a required path; raises UsageError when it is missing or empty."""
    return Path(given_name(option, value))


def given_name(option: str, value: str | Path | None) -> str:
    """Return a required name, such as that of a model; raises UsageError when it is missing or empty."""
    if value is None or value == "":
        raise UsageError(f"{option} is missing; see --help")
    return str(value)


def refuse_given(context: click.Context, names: Collection[str], reason: str) -> None:
    """Raise UsageError, the option's name and the reason, for options that would be ignored."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"{parameter.opts[0]} {reason}")


def check_masks(masks: Any, slides: list[Path]) -> None:
    """Raise UsageError for a missing path of masks, and for one mask for several slides."""
    if masks is None:
        return
    path = given("--masks", masks)
    if not is_there(path):
        raise UsageError(f"{path}: {missing(path)}; check --masks")
    if is_file(path) and len(slides) > 1:
        raise UsageError(
            f"--masks {masks}: one mask for {len(slides)} slides; give a folder of masks named as them"
        )


def output_folder(output_path: str | None) -> Path:
    """Return the path of an output folder, which need not exist.

    Raises:
        UsageError: it is missing, a file, a broken link or a folder without read permission, or cannot be
            reached.
    """
    path = given("--output-path", output_path)
    try:
        is_other = path.exists() and not path.is_dir()
        is_broken = path.is_symlink() and not path.exists()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be reached ({error.strerror}); check --output-path"
        ) from error
    if is_other:
        raise UsageError(f"{path}: is a file; give a folder with --output-path")
    if is_broken:
        raise UsageError(
            f"{path}: is a link to a folder that is not there; give another with --output-path"
        )
    effective = os.access in os.supports_effective_ids
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK, effective_ids=effective):
        raise UsageError(
            f"{path}: may not be entered and looked at (permission denied); ask for the right to, or "
            "give another with --output-path"
        )
    return path
