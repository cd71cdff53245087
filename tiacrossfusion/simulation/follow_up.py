"""Draw follow-up from a log-hazard, with a given share censored."""

import numpy as np
import numpy.typing as npt

from tiacrossfusion.simulation.checks import check_seed, require

#: Median survival, in months, of a patient whose log-hazard is 0.
MEDIAN_MONTHS = 36.0

Values = npt.NDArray[np.float64]


def check_follow_up(
    n_patients: int, seed: int, censored_share: float, median_months: float = MEDIAN_MONTHS
) -> None:
    """Raise a `UsageError` if a number of a cohort is out of range."""
    require(n_patients >= 1, "n_patients", n_patients, "at least 1")
    share = "a share from 0 to below 1"
    require(0 <= censored_share < 1, "censored_share", censored_share, share)
    months = "a positive number of months"
    require(0 < median_months < float("inf"), "median_months", median_months, months)
    check_seed(seed)


def follow_up(
    log_hazards: Values,
    lasting: Values,
    leaving: Values,
    *,
    censored_share: float,
    median_months: float = MEDIAN_MONTHS,
) -> tuple[Values, npt.NDArray[np.int64]]:
    """Draw times and events of patients.

    Times to death are exponential with the rate `log(2) / median_months * exp(log_hazard)`. Times to the
    end of follow-up are exponential too, independent of everything else, with one scale that gives the
    requested share of censored patients.

    Args:
        log_hazards: (N,) log-hazard ratio of each patient.
        lasting: (N,) exponential draws of mean 1, for the times to death.
        leaving: (N,) exponential draws of mean 1, for the times to the end of follow-up.
        censored_share: share of the patients whose death is not observed, in [0, 1).
        median_months: median survival, in months, at the log-hazard 0.

    Returns:
        Times (N,) in months, and events (N,): 1 for an observed death, 0 for censored.
    """
    death = lasting * (median_months / np.log(2)) * np.exp(-log_hazards)
    # Censored are those with scale * leaving < death: above a quantile of death / leaving.
    n_censored = round(len(death) * censored_share)
    if n_censored:
        ratio = np.sort(death / leaving)[::-1]
        above = ratio[n_censored - 1]
        below = ratio[n_censored] if n_censored < len(death) else above / 2
        end = leaving * np.sqrt(above * below)
    else:
        end = np.full_like(death, np.inf)
    return np.minimum(death, end), (death <= end).astype(int)
