"""Exceptions with messages for users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiacrossfusion.text import printable

if TYPE_CHECKING:
    from pydantic import ValidationError


class TiacfError(Exception):
    """A problem with the input that the user can correct.

    Its message is one line: it names the file, option or field, and the remedy. The command line prints it
    without a traceback and exits with 1; any other exception is a defect of this package.
    """


class UsageError(TiacfError):
    """The request is invalid: a missing or wrong option or argument.

    It is raised before anything is computed; the command line exits with 2. A problem with the content of a
    file, or during the computation, is a plain `TiacfError`.
    """


class ArgumentTypeError(UsageError, TypeError):
    """An argument has the wrong type. TIAToolbox raises `TypeError` here."""


class ArgumentValueError(UsageError, ValueError):
    """An argument has a value that cannot be used. TIAToolbox raises `ValueError` here."""


class MissingFileError(UsageError, FileNotFoundError):
    """A file or folder that was given does not exist. TIAToolbox raises `FileNotFoundError` here."""


class ExistingFileError(UsageError, FileExistsError):
    """A file exists where a folder is to be made. TIAToolbox raises `FileExistsError` here."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return name and text of an exception in one line of at most about `limit` characters."""
    text = printable(" ".join(str(error).split()))
    if len(text) > limit:
        text = text[:limit].rsplit(" ", 1)[0] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def lacks_memory(error: BaseException) -> bool:
    """Return whether the exception means out of memory (host or GPU)."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)  # torch has a type of its own for the GPU only
        and ("out of memory" in text or "can't allocate memory" in text)
    )


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Return field and reason of the first invalid value, for a message of one line."""
    first = error.errors()[0]
    field = printable(".".join(str(part)[:80] for part in first["loc"]))
    return field or "the whole", printable(first["msg"].removeprefix("Value error, ")[:400])
