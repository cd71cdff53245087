"""Draw cohorts whose log-hazard depends on given patterns at 5x and 20x."""

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from tiacrossfusion.simulation.checks import require
from tiacrossfusion.simulation.follow_up import check_follow_up, follow_up

#: What the log-hazard depends on: the coarse burden (5x), the fine burden (20x), their sum, their product,
#: or how much of the fine pattern lies within the coarse one.
Scenario = Literal["coarse", "fine", "sum", "product", "colocation"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

# With larger ones hazard ratios overflow and times of death are 0.
_STRONGEST = 10.0
_FINE_PER_COARSE = 16

Values = npt.NDArray[np.float64]


def draw_planted_cohort(
    n_patients: int,
    seed: int,
    *,
    scenario: Scenario,
    strength: float = 1.5,
    censored_share: float = 1 / 3,
    slides_per_patient: int = 1,
    side: int | None = None,
) -> pd.DataFrame:
    """Draw patients with burdens at 5x and 20x, a planted log-hazard, and follow-up.

    Burdens are independent and uniform in [0, 1]. With the centred burdens `c = coarse - 1/2` and
    `f = fine - 1/2`, the log-hazard is `strength` times one of the following, divided by its population
    standard deviation, so it has mean 0 and standard deviation `strength`:

    - `coarse`: c
    - `fine`: f
    - `sum`: c + f
    - `product`: coarse * fine - 1/4: the effect of each burden is proportional to the other. Each burden
      alone explains 3/7 of the variance, and the interaction 1/7
    - `colocation`: overlap - 1/2: both burdens are one half, and the overlap, the share of the fine pattern
      that lies within the coarse one, is uniform in [0, 1].

    :func:`follow_up` describes how times and censoring are drawn. With the same seed, a larger cohort
    begins with the burdens, log-hazards and times of death of a smaller one; censoring depends on the whole
    cohort.

    Args:
        n_patients: number of patients.
        seed: the same seed gives the same cohort.
        scenario: what the log-hazard depends on, one of `SCENARIOS`.
        strength: standard deviation of the log-hazard, 0 to 10; 0 plants nothing.
        censored_share: share of the patients whose death is not observed, in [0, 1).
        slides_per_patient: number of slides of each patient, which share the burdens.
        side: side of the 5x lattice of simulated bags: burdens and overlap are rounded to whole tokens, of
            which there are side * side at 5x and 16 * side * side at 20x. None for slides, whose burdens
            are shares of area.

    Returns:
        One row per slide, sorted by patient: `slide` (name without suffix), `patient`, `time` (months),
        `event` (1: death observed, 0: censored), `log_hazard`, `coarse_burden`, `fine_burden`, `overlap`
        (NaN unless the scenario is `colocation`).

    Raises:
        UsageError: the scenario is unknown, or a number is out of range.
    """
    check_follow_up(n_patients, seed, censored_share)
    known = scenario in SCENARIOS
    require(known, "scenario", repr(scenario), f"one of {', '.join(SCENARIOS)}")
    strengths = f"a number from 0 to {_STRONGEST:g}"
    require(0 <= strength <= _STRONGEST, "strength", strength, strengths)
    require(slides_per_patient >= 1, "slides_per_patient", slides_per_patient, "at least 1")
    large_enough = side is None or side >= (2 if scenario == "colocation" else 1)
    require(large_enough, "side", side, "at least 1, for the scenario colocation at least 2")

    # One random stream per quantity, so that a larger cohort begins as a smaller one does.
    for_burdens, for_death, for_leaving = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)
    )
    uniform = for_burdens.random((n_patients, 2))
    overlap = np.full(n_patients, np.nan)
    if scenario == "colocation":
        # As many coarse cells as fit into one half, and the fine tokens of as many cells: the fine
        # pattern can then lie entirely inside the coarse one, or entirely outside.
        half = 0.5 if side is None else (side**2 // 2) / side**2
        coarse = fine = np.full(n_patients, half)
        n_overlap = None if side is None else _FINE_PER_COARSE * (side**2 // 2)
        overlap = _realised(uniform[:, 0], n_overlap)
        score, variance = overlap - 0.5, _variance(n_overlap)
    else:
        n_coarse = None if side is None else side**2
        n_fine = None if side is None else _FINE_PER_COARSE * side**2
        coarse, fine = _realised(uniform[:, 0], n_coarse), _realised(uniform[:, 1], n_fine)
        c, f = coarse - 0.5, fine - 0.5
        score, variance = {
            "coarse": (c, _variance(n_coarse)),
            "fine": (f, _variance(n_fine)),
            "sum": (c + f, _variance(n_coarse) + _variance(n_fine)),
            "product": (coarse * fine - 0.25, _product_variance(n_coarse, n_fine)),
        }[scenario]
    log_hazard = strength * score / math.sqrt(variance)
    time, event = follow_up(
        log_hazard,
        for_death.standard_exponential(n_patients),
        for_leaving.standard_exponential(n_patients),
        censored_share=censored_share,
    )
    patients = pd.DataFrame(
        {
            "patient": [f"SIM-{number:04d}" for number in range(1, n_patients + 1)],
            "time": time,
            "event": event,
            "log_hazard": log_hazard,
            "coarse_burden": coarse,
            "fine_burden": fine,
            "overlap": overlap,
        }
    )
    slides = patients.loc[patients.index.repeat(slides_per_patient)].reset_index(drop=True)
    names = slides["patient"]
    if slides_per_patient > 1:
        number = slides.groupby("patient").cumcount() + 1
        names = names + "-" + number.astype(str)
    slides.insert(0, "slide", names)
    return slides


def slide_rng(seed: int, number: int) -> np.random.Generator:
    """Source of randomness of one slide of a cohort, apart from those of the table.

    Args:
        seed: seed of the cohort.
        number: row of the slide in the table, from 0 on.

    Returns:
        The same for the same arguments.
    """
    # The table has the keys (0,), (1,) and (2,).
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3, number)))


def true_concordance(cohort: pd.DataFrame) -> float:
    """Harrell's C-index of the true log-hazard, which no model can beat on average.

    Source: Harrell et al., "Evaluating the yield of medical tests", JAMA 1982; as computed by
    lifelines.

    Args:
        cohort: A table of :func:`draw_planted_cohort`; each patient counts once.

    Returns:
        The C-index; NaN where no two patients can be compared.
    """
    from lifelines.utils import concordance_index

    patients = cohort.drop_duplicates("patient")
    try:
        return float(
            concordance_index(patients["time"], -patients["log_hazard"], patients["event"])
        )
    except ZeroDivisionError:
        return math.nan


def _realised(shares: Values, n_tokens: int | None) -> Values:
    """Shares (N,) as whole numbers of tokens allow; None leaves them as they are."""
    return shares if n_tokens is None else np.rint(shares * n_tokens) / n_tokens


def _product_variance(n_coarse: int | None, n_fine: int | None) -> float:
    """Variance of the product of two such shares: `E[c^2] E[f^2] - 1/16`, both means being 1/2."""
    return (_variance(n_coarse) + 0.25) * (_variance(n_fine) + 0.25) - 1 / 16


def _variance(n_tokens: int | None) -> float:
    """Variance of a uniform share that is rounded to whole tokens.

    The values 1/n to (n - 1)/n have the probability 1/n each, 0 and 1 half of it: summing up gives
    1/12 + 1/(6 n^2).
    """
    return 1 / 12 + (0 if n_tokens is None else 1 / (6 * n_tokens**2))
