"""Patients with a follow-up that is drawn from the hazard of their simulated slide."""

import numpy as np
import pandas as pd

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.simulation.parameters import draw_parameters, log_hazard


def draw_cohort(
    n_patients: int,
    seed: int,
    *,
    strength: float = 1.5,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    median_months: float = 36.0,
    censored_share: float = 1 / 3,
) -> pd.DataFrame:
    """Draw patients, one slide each, with burdens and follow-up.

    Times to death are exponential with the rate `log(2) / median_months * exp(log_hazard)`.
    Times to the end of follow-up are exponential too and independent of everything else; their
    one scale is set so that the asked share of this cohort leaves before death.

    Args:
        n_patients (int):
            Number of patients.
        seed (int):
            Seed: the same seed gives the same cohort.
        strength (float):
            Factor on :func:`log_hazard`, hence the standard deviation of the log-hazard with unit
            weights. The true hazard alone orders patients with a C-index of about 0.69 at a
            strength of 1, 0.76 at 1.5 and 0.80 at 2; 0 makes survival blind to the slide.
        weights (tuple[float, float, float]):
            Weight of architecture, glands and nuclei in the log-hazard.
        median_months (float):
            Median survival, in months, of a patient whose burdens are one half.
        censored_share (float):
            Share of the patients whose death is not observed, in [0, 1).

    Returns:
        pandas.DataFrame:
            One row a patient: `slide` (file name), `patient`, `architecture`, `glands`,
            `nuclei`, `log_hazard`, `time` (months), `event` (1: death observed, 0: censored).

    Raises:
        TiacfError:
            If a number is out of its range.

    Examples:
        >>> cohort = draw_cohort(200, seed=1)
        >>> int(cohort["event"].sum())
        133

    """
    if n_patients < 1:
        msg = f"draw_cohort: n_patients is {n_patients}; give at least 1."
        raise TiacfError(msg)
    if not 0 <= censored_share < 1:
        msg = f"draw_cohort: censored_share is {censored_share}; give a share from 0 up to below 1."
        raise TiacfError(msg)
    if not median_months > 0:
        msg = f"draw_cohort: median_months is {median_months}; give a positive number of months."
        raise TiacfError(msg)
    if seed < 0:
        msg = f"draw_cohort: seed is {seed}; give 0 or a positive whole number."
        raise TiacfError(msg)

    rng = np.random.default_rng(seed)
    burdens = [draw_parameters(rng) for _ in range(n_patients)]
    log_hazards = np.array([strength * log_hazard(burden, weights) for burden in burdens])
    death = rng.exponential(median_months / np.log(2), n_patients) * np.exp(-log_hazards)
    leaving = rng.exponential(1.0, n_patients)
    # Censored is who has scale * leaving < death: those above the quantile of death / leaving.
    n_censored = round(n_patients * censored_share)
    if n_censored:
        ratio = np.sort(death / leaving)[::-1]
        above = ratio[n_censored - 1]
        below = ratio[n_censored] if n_censored < n_patients else above / 2
        leaving *= np.sqrt(above * below)
    else:
        leaving[:] = np.inf
    observed = death <= leaving
    names = [f"SIM-{number:04d}" for number in range(1, n_patients + 1)]
    return pd.DataFrame(
        {
            "slide": [f"{name}.svs" for name in names],
            "patient": names,
            "architecture": [burden.architecture for burden in burdens],
            "glands": [burden.glands for burden in burdens],
            "nuclei": [burden.nuclei for burden in burdens],
            "log_hazard": log_hazards,
            "time": np.minimum(death, leaving),
            "event": observed.astype(int),
        }
    )
