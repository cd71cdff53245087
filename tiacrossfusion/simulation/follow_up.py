"""Follow-up that is drawn from a log-hazard, and censoring of a given share."""

import numpy as np
import numpy.typing as npt

from tiacrossfusion.errors import UsageError

#: Median survival, in months, of a patient whose log-hazard is 0.
MEDIAN_MONTHS = 36.0

Values = npt.NDArray[np.float64]


def check_follow_up(
    n_patients: int, seed: int, censored_share: float, median_months: float = MEDIAN_MONTHS
) -> None:
    """Refuse a cohort that cannot be drawn.

    Args:
        n_patients: Number of patients.
        seed: Seed of everything random.
        censored_share: Share of the patients whose death is not observed.
        median_months: Median survival at the log-hazard 0.

    Raises:
        TiacfError: a number is out of its range.
    """
    if n_patients < 1:
        raise UsageError(f"n_patients is {n_patients}; give at least 1.")
    if not 0 <= censored_share < 1:
        raise UsageError(f"censored_share is {censored_share}; give a share from 0 up to below 1.")
    if not 0 < median_months < float("inf"):
        raise UsageError(f"median_months is {median_months}; give a positive number of months.")
    if seed < 0:
        raise UsageError(f"seed is {seed}; give 0 or a positive whole number.")


def follow_up(
    log_hazards: Values,
    lasting: Values,
    leaving: Values,
    *,
    censored_share: float,
    median_months: float = MEDIAN_MONTHS,
) -> tuple[Values, npt.NDArray[np.int64]]:
    """Times and events of patients.

    Times to death are exponential with the rate `log(2) / median_months * exp(log_hazard)`.
    Times to the end of follow-up are exponential too and independent of everything else; their
    one scale is set so that the asked share of these patients leaves before death.

    Args:
        log_hazards: (N,) log-hazard ratio of each patient.
        lasting: (N,) draws from the exponential distribution of mean 1, for the times to death.
        leaving: (N,) such draws for the times to the end of follow-up.
        censored_share: Share of the patients whose death is not observed, in [0, 1).
        median_months: Median survival, in months, at the log-hazard 0.

    Returns:
        Times (N,) in months, and events (N,): 1 for an observed death, 0 for censored.
    """
    death = lasting * (median_months / np.log(2)) * np.exp(-log_hazards)
    # Censored is who has scale * leaving < death: those above the quantile of death / leaving.
    n_censored = round(len(death) * censored_share)
    if n_censored:
        ratio = np.sort(death / leaving)[::-1]
        above = ratio[n_censored - 1]
        below = ratio[n_censored] if n_censored < len(death) else above / 2
        end = leaving * np.sqrt(above * below)
    else:
        end = np.full_like(death, np.inf)
    return np.minimum(death, end), (death <= end).astype(int)
