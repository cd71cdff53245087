"""Text made safe for a terminal, a file or a message.

Names of files may hold characters that a terminal or a spreadsheet obeys.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

#: Controls, halves of characters, and what turns the direction of writing so that a name reads as
#: another (https://trojansource.codes).
_COMMANDS = ("Cc", "Cs")
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

#: A cell of a table that begins with one is calculated by spreadsheets, not shown.
FORMULA_SIGNS = ("=", "+", "-", "@")


def printable(text: str, *, keep: str = "") -> str:
    r"""Write out what a terminal would obey instead of show, such as a line's end as `\n`.

    Args:
        text: perhaps the name of a file, which may hold anything.
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
    r"""A name or message as it can be written into a file.

    Bytes that are no UTF-8 text become `\udcff`. A carriage return becomes `\r`: Python's csv leaves it
    bare in a cell, and those who read the table take it for the end of a row.
    """
    return name.encode(errors="backslashreplace").decode().replace("\r", r"\r")


def is_written(name: str) -> bool:
    """Tell whether a name can be written into a file as it is."""
    return written(name) == name


def examples(names: Iterable[object], limit: int = 3) -> str:
    """List the first few names for a message."""
    shown = [shortened(str(name)) for name in names]
    return ", ".join(shown[:limit]) + (", ..." if len(shown) > limit else "")


def shortened(name: str, limit: int = 80) -> str:
    """A name on one line and of a length for a message."""
    name = " ".join(name.split())
    return name if len(name) <= limit else f"{name[:limit]}..."
