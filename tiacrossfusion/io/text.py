"""Text of files and their names on a terminal or in a spreadsheet, where some characters are commands."""

from __future__ import annotations

import unicodedata

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
