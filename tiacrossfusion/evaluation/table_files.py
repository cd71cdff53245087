"""Tables of an evaluation as a spreadsheet or in LaTeX, for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from tiacrossfusion.errors import UsageError
from tiacrossfusion.evaluation.tables import Table
from tiacrossfusion.io.atomic import replacing, write_text, writing

#: Name of the file without its ending, which is the format.
TABLES = "tables"

#: Characters that the name of a sheet cannot have, and how long it may be.
_NOT_IN_SHEETS, _LONGEST_SHEET = re.compile(r"[\\/*?:\[\]]"), 31


def check_format(kind: str) -> None:
    """Refuse "xlsx" where no spreadsheet can be written.

    Raises:
        UsageError: openpyxl is not installed.
    """
    if kind == "xlsx" and find_spec("openpyxl") is None:
        raise UsageError(
            "--tables xlsx needs openpyxl; install it with pip install tiacrossfusion[tables], or take "
            "--tables tex"
        )


def write_tables(folder: Path, tables: Sequence[Table], kind: str) -> None:
    """Write `tables.xlsx`, a sheet a table, or `tables.tex`, for a document with the package booktabs.

    Raises:
        TiacfError: the folder cannot be written.
    """
    if kind == "tex":
        text = "\n".join(_latex(table) for table in tables)
        write_text(folder / f"{TABLES}.tex", text)
        return
    taken = set[str]()
    with (
        writing(folder),
        replacing(folder / f"{TABLES}.xlsx") as part,
        part.open("wb") as file,
        pd.ExcelWriter(file, engine="openpyxl") as writer,
    ):
        for table in tables:
            name = _sheet(table.title, taken)
            _frame(table).to_excel(writer, sheet_name=name, index=False)
            if table.note:
                writer.sheets[name].cell(len(table.rows) + 3, 1, table.note)


def _frame(table: Table) -> pd.DataFrame:
    return pd.DataFrame(table.rows, columns=list(table.head))


def _latex(table: Table) -> str:
    """A floating table; pandas escapes the cells, and so the caption in the same way."""
    escaped = pd.DataFrame([[table.title, table.note]]).to_latex(
        escape=True, index=False, header=False
    )
    title, _, note = escaped.split("\n")[2].removesuffix(r" \\").partition(" & ")
    caption = f"{title}. {note}".strip()
    return _frame(table).to_latex(
        index=False, escape=True, caption=caption, column_format="l" * len(table.head)
    )


def _sheet(title: str, taken: set[str]) -> str:
    """A name of a sheet that no other has; spreadsheets do not tell upper from lower case."""
    plain = _NOT_IN_SHEETS.sub(" ", title).strip("' ")[:_LONGEST_SHEET] or "table"
    name, number = plain, 2
    while name.casefold() in taken:
        name = f"{plain[: _LONGEST_SHEET - 4]} {number}"
        number += 1
    taken.add(name.casefold())
    return name
