"""The risks of the training patients, for comparison with new risks."""

from __future__ import annotations

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.models.config import RiskGroup, RiskReference
from tiacrossfusion.survival import TimeBins


def risk_reference(
    risks: np.ndarray, times: np.ndarray, events: np.ndarray, bins: TimeBins
) -> RiskReference:
    """Return quantiles, the median as cut-off, and the two risk groups of the training patients.

    Pass training patients only, one risk for each: a cut-off from test patients would exaggerate the
    difference of their groups.

    Args:
        risks: (N,) predicted risks.
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed.
        bins: time bins, at whose edges the groups' Kaplan-Meier curves are evaluated.

    Raises:
        TiacfError: all risks are the same, so there are no two groups.
    """
    from lifelines import KaplanMeierFitter

    cutoff = float(np.median(risks))
    high = risks > cutoff
    if not high.any() or high.all():
        raise TiacfError("all training risks are the same: the model has learnt nothing")
    groups = []
    for name, members in (("low", ~high), ("high", high)):
        curve = KaplanMeierFitter().fit(times[members], events[members])
        survival = tuple(float(s) for s in curve.survival_function_at_times(bins.edges[1:]))
        groups.append(RiskGroup(name=name, patients=int(members.sum()), survival=survival))
    return RiskReference(
        quantiles=tuple(float(q) for q in np.quantile(risks, np.linspace(0, 1, 101))),
        cutoff=cutoff,
        groups=(groups[0], groups[1]),
    )
