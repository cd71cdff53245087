"""Checks of paths given on the command line."""

from __future__ import annotations

from pathlib import Path

from tiacrossfusion.errors import UsageError


def given(option: str, value: str | None) -> Path:
    """Return a required path."""
    if not value:
        raise UsageError(f"{option} is missing; see --help")
    return Path(value)


def output_folder(path: Path) -> Path:
    """Refuse an output path that is a file."""
    try:
        is_file = path.exists() and not path.is_dir()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be reached ({error.strerror}); check --output-path"
        ) from error
    if is_file:
        raise UsageError(f"{path}: is a file; give a folder with --output-path")
    return path
