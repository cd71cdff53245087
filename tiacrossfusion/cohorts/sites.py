"""The site of each patient of a cohort table."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from tiacrossfusion.cohorts.columns import COLUMN_OPTIONS, TCGA_SITE, Columns
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.text import examples

_TCGA = re.compile(r"TCGA-([A-Z0-9]{2})-", re.IGNORECASE)


def sites_of(path: Path, patients: pd.DataFrame, columns: Columns) -> pd.Series[str]:
    """Site of each patient, of `Columns.sites`; refuses patients without one."""
    if columns.sites == TCGA_SITE:
        found = [_TCGA.match(name) for name in patients.index]
        sites = pd.Series([match and match[1].upper() for match in found], index=patients.index)
    else:
        sites = patients["site"].map(lambda value: None if pd.isna(value) else str(value).strip())
    lacking = sites.index[sites.isna() | (sites == "")]
    if len(lacking):
        role = "site" if columns.fold_by is None else "fold_by"
        raise TiacfError(
            f"{path}: {len(lacking)} of {len(sites)} patients have no site ({COLUMN_OPTIONS[role]} "
            f"{columns.sites}), such as {examples(lacking)}; fill it in"
        )
    return sites.astype(str)
