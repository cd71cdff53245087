"""How a model's log-hazard depends on each variable of a record, and on the variable alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from tiacrossfusion.survival.record import Record, RecordTerms, Variable
from tiacrossfusion.survival.ridge_cox import fit_ridge

#: Quantiles of numbers at which the dependence is computed.
_QUANTILES = np.linspace(0.05, 0.95, 9)

#: Penalty of the regression on a variable alone, and the smallest range of its curve that is an effect.
_PENALTY, _EFFECT = 0.01, 0.2

COLUMNS = ("variable", "value", "number", "log_hazard", "alone")


def dependence_on_variables(
    record: Record,
    codes: np.ndarray,
    log_hazard: Callable[[np.ndarray], np.ndarray],
    times: np.ndarray,
    events: np.ndarray,
) -> pd.DataFrame:
    """Return the partial dependence of a log-hazard on each variable.

    The mean over the training patients when all have the same value of the variable, at quantiles of numbers
    and at all levels (Friedman, Annals of Statistics 29, 2001, 1189-1232, section 8.2); beside it the
    log-hazard of ridge Cox regression on the variable alone. Both are 0 on average over the rows of a
    variable.

    Args:
        record: the variables.
        codes: (N, V) of the training patients.
        log_hazard: of codes (M, V), (M,), with slides as they are if M is N.
        times: (N,) follow-up times.
        events: (N,) events.

    Returns:
        Rows with `COLUMNS`: name of the variable, value as text, its code, and both curves.
    """
    rows = []
    for place, variable in enumerate(record.variables):
        numbers = _grid(variable, codes[:, place])
        if len(numbers) < 2:
            continue
        changed, curve = codes.copy(), []
        for number in numbers:
            changed[:, place] = number
            curve.append(float(log_hazard(changed).mean()))
        alone = _alone(variable, codes[:, place], numbers, times, events)
        for number, value, single in zip(
            numbers, np.array(curve) - np.mean(curve), alone - alone.mean(), strict=True
        ):
            rows.append((variable.name, _text(variable, number), number, value, single))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def opposite(frames: Sequence[pd.DataFrame]) -> list[str]:
    """Return a line for each variable whose effect beside the others is opposite to that alone."""
    lines = []
    for name in dict.fromkeys(name for frame in frames for name in frame["variable"]):
        mine = [frame[frame["variable"] == name] for frame in frames]
        turned = [
            len(rows) > 1
            and np.ptp(rows["alone"]) > _EFFECT
            and np.ptp(rows["log_hazard"]) > _EFFECT / 2
            and float(np.corrcoef(rows["alone"], rows["log_hazard"])[0, 1]) < -0.5
            for rows in mine
        ]
        if turned and all(turned):
            lines.append(
                f"The effect of {name} beside the other variables is opposite to its effect alone, in all "
                "folds: it corrects another variable, and is not to be read by itself."
            )
    return lines


def _grid(variable: Variable, values: np.ndarray) -> np.ndarray:
    """Codes at which a variable is tried."""
    known = values[np.isfinite(values)]
    if variable.kind in ("category", "ordinal"):
        return np.unique(known)
    return np.unique(np.quantile(known, _QUANTILES)) if len(known) else known


def _alone(
    variable: Variable,
    values: np.ndarray,
    numbers: np.ndarray,
    times: np.ndarray,
    events: np.ndarray,
) -> np.ndarray:
    """Log-hazard (G,) of Cox regression on the variable alone."""
    record = Record(variables=(variable,))
    terms = RecordTerms.fit(record, values[:, None])
    z = terms.encode(values[:, None])
    b = fit_ridge(z, times, events, np.full(z.shape[1], _PENALTY))
    return terms.encode(numbers[:, None]) @ b


def _text(variable: Variable, number: float) -> str:
    return variable.levels[int(number)] if variable.levels else f"{number:.4g}"
