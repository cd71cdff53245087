"""Draw cohorts whose log-hazard depends on given patterns at 5x and 20x."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

from tiacrossfusion.simulation.checks import require
from tiacrossfusion.simulation.follow_up import check_follow_up, follow_up
from tiacrossfusion.simulation.scenarios import SCENARIOS

#: A name in `scenarios.SCENARIOS`.
Scenario = str

# With larger ones hazard ratios overflow and times of death are 0.
_STRONGEST = 10.0
_FINE_PER_COARSE, _MIDDLE_PER_COARSE = 16, 4

#: Largest share of the 20x tokens that have the pattern of the scenario `rare`.
RAREST = 0.03

#: Scenarios whose log-hazard is where a pattern lies, and the least side of their 5x lattice.
PLACED = {"colocation": 2, "middle-inside": 2, "three-way": 2, "neighbour": 4}
_MIDDLE = ("middle", "middle-coarse", "middle-fine")

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
      that lies within the coarse one, is uniform in [0, 1]
    - `neighbour`: the same with the share of the fine pattern in cells beside the coarse ones; it lies in no
      coarse cell, and both burdens are the same in all slides
    - `middle`, `middle-coarse`, `middle-fine`: the burden m of a 10x pattern as `coarse`, and its product
      with the coarse or the fine one as `product`
    - `middle-inside`: `colocation` of the 10x pattern and the coarse one
    - `three-way`: the same with the share of the fine pattern where the coarse and the 10x pattern are both
      or neither; no two patterns alone tell anything
    - `rare`: the fine burden, uniform in [0, 0.03].

    :func:`follow_up` describes how times and censoring are drawn. With the same seed, a larger cohort
    begins with the burdens, log-hazards and times of death of a smaller one; censoring depends on the whole
    cohort.

    Args:
        n_patients: number of patients.
        seed: the same seed gives the same cohort.
        scenario: what the log-hazard depends on, a name in `scenarios.SCENARIOS`.
        strength: standard deviation of the log-hazard, 0 to 10; 0 plants nothing.
        censored_share: share of the patients whose death is not observed, in [0, 1).
        slides_per_patient: number of slides of each patient, which share the burdens.
        side: side of the 5x lattice of simulated bags: burdens and overlap are rounded to whole tokens, of
            which there are side * side at 5x and 16 * side * side at 20x. None for slides, whose burdens
            are shares of area.

    Returns:
        One row per slide, sorted by patient: `slide` (name without suffix), `patient`, `time` (months),
        `event` (1: death observed, 0: censored), `log_hazard`, `coarse_burden`, `fine_burden`, `overlap`
        (NaN unless the scenario is where a pattern lies), and `middle_burden` if there is one.

    Raises:
        UsageError: the scenario is unknown, or a number is out of range.
    """
    check_follow_up(n_patients, seed, censored_share)
    check_scenario(scenario)
    strengths = f"a number from 0 to {_STRONGEST:g}"
    require(0 <= strength <= _STRONGEST, "strength", strength, strengths)
    require(slides_per_patient >= 1, "slides_per_patient", slides_per_patient, "at least 1")
    least = PLACED.get(scenario, 1)
    require(side is None or side >= least, "side", side, f"at least {least} for {scenario}")

    # One random stream per quantity, so that a larger cohort begins as a smaller one does.
    for_burdens, for_death, for_leaving = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)
    )
    uniform = for_burdens.random((n_patients, 2))
    overlap = np.full(n_patients, np.nan)
    middle = None
    if scenario in PLACED and scenario != "colocation":
        # The shares of the patterns follow from the lattice, see `patterns.draw_patterns`.
        coarse = fine = np.full(n_patients, 0.5)
        overlap = _realised(uniform[:, 0], None)
        score, variance = overlap - 0.5, _variance(None)
    elif scenario == "rare":
        n_fine, most, half = None, RAREST, 0.5
        if side is not None:
            n_fine = max(1, round(RAREST * _FINE_PER_COARSE * side**2))
            most, half = n_fine / (_FINE_PER_COARSE * side**2), (side**2 // 2) / side**2
        share = _realised(uniform[:, 1], n_fine)
        coarse, fine = np.full(n_patients, half), share * most
        score, variance = share - 0.5, _variance(n_fine)
    elif scenario == "colocation":
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
        n_middle = None if side is None else _MIDDLE_PER_COARSE * side**2
        middle = uniform[:, 1] if scenario != "middle-fine" else uniform[:, 0]
        middle = _realised(middle, n_middle)
        score, variance = {
            "middle": (middle - 0.5, _variance(n_middle)),
            "middle-coarse": (coarse * middle - 0.25, _product_variance(n_coarse, n_middle)),
            "middle-fine": (middle * fine - 0.25, _product_variance(n_middle, n_fine)),
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
    if scenario in _MIDDLE:
        patients["middle_burden"] = middle
    slides = patients.loc[patients.index.repeat(slides_per_patient)].reset_index(drop=True)
    names = slides["patient"]
    if slides_per_patient > 1:
        number = slides.groupby("patient").cumcount() + 1
        names = names + "-" + number.astype(str)
    slides.insert(0, "slide", names)
    return slides


def check_scenario(scenario: str, known: Iterable[str] = SCENARIOS) -> None:
    """Raise a `UsageError` unless a scenario is one of those known."""
    require(scenario in known, "scenario", repr(scenario), f"one of {', '.join(known)}")


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
