"""Text made safe for a terminal, a file or a message.

File names may contain control characters of terminals, or formulas of spreadsheets.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

#: Control characters, surrogates, and marks of writing direction, with which a name can be displayed as
#: another one (https://trojansource.codes).
_COMMANDS = ("Cc", "Cs")
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

#: Spreadsheets take a cell that begins with one of these for a formula.
FORMULA_SIGNS = ("=", "+", "-", "@")


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape control characters, such as a line end as `\n`.

    Args:
        text: any text, such as a file name.
        keep: characters to leave as they are.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character not in keep
        and (unicodedata.category(character) in _COMMANDS or character in _DIRECTIONS)
        else character
        for character in text
    )


def written(name: str) -> str:
    r"""Return a name or message as it can be written into a file.

    Bytes that are not UTF-8 become `\udcff`. A carriage return becomes `\r`: Python's csv writes it
    unquoted, and readers take it for the end of a row.
    """
    return name.encode(errors="backslashreplace").decode().replace("\r", r"\r")


def is_written(name: str) -> bool:
    """Return whether a name can be written into a file unchanged."""
    return written(name) == name


def examples(names: Iterable[object], limit: int = 3) -> str:
    """Return the first few names, for a message."""
    shown = [shortened(str(name)) for name in names]
    return ", ".join(shown[:limit]) + (", ..." if len(shown) > limit else "")


def shortened(name: str, limit: int = 80) -> str:
    """Return a name on one line and cut to a length, for a message."""
    name = " ".join(name.split())
    return name if len(name) <= limit else f"{name[:limit]}..."
