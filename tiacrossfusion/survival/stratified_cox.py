"""Cox regression with a baseline hazard for each stratum, by lifelines."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from lifelines import CoxPHFitter


def stratified_cox(frame: pd.DataFrame, *, ridge: float = 0.0) -> CoxPHFitter | None:
    """Fit a Cox regression stratified by fold or the like.

    Args:
        frame: columns time, event and stratum, optionally entry (time at which follow-up begins), and one a
            term.
        ridge: weight of lifelines' penalty of squared coefficients.

    Returns:
        The fitted model; None where it has no solution.
    """
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what does not converge is None
            return CoxPHFitter(penalizer=ridge).fit(
                frame,
                "time",
                "event",
                strata=["stratum"],
                entry_col="entry" if "entry" in frame else None,
            )
    except (ConvergenceError, np.linalg.LinAlgError, ValueError):
        return None
