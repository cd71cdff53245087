"""The exceptions that users are meant to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiacrossfusion.io.text import printable

if TYPE_CHECKING:
    from pydantic import ValidationError


class TiacfError(Exception):
    """A problem with the input that the user can mend.

    Its message is one line: it names the thing (file, option, field) and the remedy. The command line
    prints it without a traceback and exits with 1; any other exception is a defect of this package.
    """


class UsageError(TiacfError):
    """What was asked for cannot be: an option or an argument is missing, wrong, or names nothing.

    It is raised before any work is begun; the command line exits with 2. What lies in a file that is
    there, and what happens during the work, is a plain `TiacfError`.
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
    """Name and text of a library's error in one line of at most about `limit` characters."""
    text = printable(" ".join(str(error).split()))
    if len(text) > limit:
        text = text[:limit].rsplit(" ", 1)[0] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def lacks_memory(error: BaseException) -> bool:
    """Whether memory has run out, of the machine or of its GPU, whose errors have no kind in common."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)  # torch's, which has its own kind for the GPU alone
        and ("out of memory" in text or "can't allocate memory" in text)
    )


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Field and reason of the first value that does not fit, as they can be shown on one line."""
    first = error.errors()[0]
    field = printable(".".join(str(part)[:80] for part in first["loc"]))
    return field or "the whole", printable(first["msg"].removeprefix("Value error, ")[:400])
