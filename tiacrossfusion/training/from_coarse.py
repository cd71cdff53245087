"""Fit what the 5x tokens of slides tell of the tokens inside them, and measure its errors on other slides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.estimate import from_coarse_alone, from_imputed, from_sample
from tiacrossfusion.inference.families import FamilyTable, phi_of
from tiacrossfusion.inference.sampling import balanced_order, families_for, focus_order
from tiacrossfusion.models.from_coarse import SHARES, FromCoarse, t_quantile

if TYPE_CHECKING:
    from torch import Tensor

    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.tokens import SlideTokens

#: Returns the tokens of a slide, read when they are needed.
Slides = Sequence[Callable[[], "SlideTokens"]]

#: Most principal components of the features at 5x.
COMPONENTS = 256
#: Ridge penalties that are tried, as a share of the variance of a component.
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
_FOCUS_PENALTY = 1e-2
#: Random samples of each slide that is held back, and slides at least.
_DRAWS, _LEAST_SLIDES = 20, 5
#: Share of the errors that an interval holds.
_LEVEL = 0.95


def fit_from_coarse(
    network: SurvivalNetwork, slides: Slides, held_back: Slides, seed: int = 0
) -> FromCoarse:
    """Fit the regression on slides, and its errors on slides that were held back.

    Args:
        network: pools families; in eval mode.
        slides: at least 5, with nested grids.
        held_back: at least 5 others.
        seed: of the samples.

    Raises:
        TiacfError: there are too few slides.
    """
    if min(len(slides), len(held_back)) < _LEAST_SLIDES:
        raise TiacfError(
            f"{len(slides)} slides to fit and {len(held_back)} held back: intervals of a partial reading "
            f"need {_LEAST_SLIDES} or more of each"
        )
    with torch.no_grad():
        centre, directions = _components(_tables(network, slides))
        sums = _Sums()
        for table in _tables(network, slides):
            sums.add(table, phi_of(table.features, table.around, centre, directions))
        fitted = sums.solved(centre, directions, 1.0)
        tables = list(_tables(network, held_back))
        candidates = [sums.solved(centre, directions, penalty) for penalty in _PENALTIES]
        fitted = min(candidates, key=lambda each: _unexplained(each, tables))
    return _with_errors(fitted, tables, seed)


def _tables(network: SurvivalNetwork, slides: Slides) -> Iterable[FamilyTable]:
    return (FamilyTable.of(network, read()) for read in slides)


def _components(tables: Iterable[FamilyTable]) -> tuple[Tensor, Tensor]:
    """Return the mean (U,) of features at 5x, and directions (U, q) of components of variance 1."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for table in tables:
        x = table.features.double()
        count, total, squares = count + len(x), total + x.sum(dim=0), squares + x.T @ x
    mean = total / count
    covariance = squares / count - mean[:, None] * mean
    sd = covariance.diagonal().clamp(min=0).sqrt()
    scale = torch.where(sd > 1e-6 * sd.max(), 1 / sd.clamp(min=1e-30), 0.0)
    values, vectors = torch.linalg.eigh(covariance * scale[:, None] * scale)
    kept = (values > 1e-6 * values[-1]).nonzero()[:, 0][-COMPONENTS:]
    return mean.float(), (scale[:, None] * vectors[:, kept] / values[kept].sqrt()).float()


@dataclass
class _Sums:
    """Sums over slides for the regressions on phi."""

    gram: Tensor | None = None  # (3, P, P), weighted with the tokens of each scale
    moment: Tensor | None = None  # (P, C)
    weight: Tensor | None = None  # (3,)
    column: Tensor | None = None  # (C,)
    focus_gram: Tensor | None = None
    focus_moment: Tensor | None = None
    families: int = 0

    def add(self, table: FamilyTable, phi: Tensor) -> None:
        wide = phi.double()
        target = focus_target(table).double()
        both = _with_squares(wide)
        new = {
            "gram": torch.stack([(wide * k[:, None]).T @ wide for k in table.tokens.double().T]),
            "moment": wide.T @ table.sums.double(),
            "weight": table.tokens.double().sum(dim=0),
            "focus_gram": both.T @ both,
            "focus_moment": both.T @ target,
        }
        for name, value in new.items():
            before = getattr(self, name)
            setattr(self, name, value if before is None else before + value)
        self.column = table.column
        self.families += len(table)

    def solved(self, centre: Tensor, directions: Tensor, penalty: float) -> FromCoarse:
        """Return the ridge regressions with a penalty."""
        coefficients = torch.zeros_like(self.moment)
        for scale in range(3):
            here = self.column == scale
            if here.any():
                gram = _penalised(self.gram[scale], penalty * self.weight[scale])
                coefficients[:, here] = torch.linalg.solve(gram, self.moment[:, here])
        gram = _penalised(self.focus_gram, _FOCUS_PENALTY * self.families)
        focus = torch.linalg.solve(gram, self.focus_moment)
        unknown = torch.zeros(())
        return FromCoarse(
            centre,
            directions.half().float(),
            coefficients.half().float(),
            focus.float(),
            torch.ones(len(SHARES)),
            torch.zeros(len(SHARES)),
            unknown,
            unknown,
            unknown,
        )


def _penalised(gram: Tensor, penalty: Tensor | float) -> Tensor:
    """Return a Gram matrix with a penalty on all but the constant."""
    diagonal = torch.full((len(gram),), float(penalty), dtype=gram.dtype)
    diagonal[0] = 1e-9 * float(gram[0, 0])
    return gram + torch.diag(diagonal)


def _with_squares(phi: Tensor) -> Tensor:
    """Return `[phi; phi^2]` (F, 1 + 4 q) of phi (F, 1 + 2 q), without the constant's square."""
    return torch.cat([phi, phi[:, 1:] ** 2], dim=1)


def focus_target(table: FamilyTable) -> Tensor:
    """Return the attribution (F,) of families without its sign: what each adds beyond an average one."""
    means = table.sums.sum(dim=0) / table.totals
    with torch.enable_grad():
        leaf = means.clone().detach()[None].requires_grad_()
        (gradient,) = torch.autograd.grad(table.risk(leaf).sum(), leaf)
    beyond = table.sums - means * table.tokens[:, table.column]
    return (beyond @ (gradient[0] / table.totals)).abs() * len(table)


def _unexplained(fitted: FromCoarse, tables: Sequence[FamilyTable]) -> float:
    """Return the residual sum of squares of slides' means along the gradient of their risks."""
    total = 0.0
    for table in tables:
        expected = table.expected(fitted)
        gradient = from_coarse_alone(table, expected).gradient[0] / table.totals
        total += float((((table.sums - expected) @ gradient) ** 2).mean()) * len(table) ** 2
    return total


def _with_errors(fitted: FromCoarse, tables: Sequence[FamilyTable], seed: int) -> FromCoarse:
    """Return the regression with its errors on slides that were held back."""
    rng = np.random.default_rng(seed)
    true, alone = [], []
    ratios: list[list[Tensor]] = [[] for _ in SHARES]
    errors: list[list[Tensor]] = [[] for _ in SHARES]
    for table in tables:
        expected = table.expected(fitted)
        risk = table.risk((table.sums.sum(dim=0) / table.totals)[None])
        true.append(risk)
        alone.append(from_coarse_alone(table, expected).risk)
        order = torch.from_numpy(focus_order(table, fitted))
        for number, share in enumerate(SHARES):
            n = families_for(share, len(table))
            if n >= len(table):
                continue
            orders = [balanced_order(table.curve.numpy(), rng)[:n] for _ in range(_DRAWS)]
            found = from_sample(table, expected, torch.from_numpy(np.stack(orders)))
            ratios[number].append((found.risk - risk).abs() / found.se.clamp(min=1e-12) / t_quantile(n))
            errors[number].append((from_imputed(table, expected, order[None, :n]).risk - risk).abs())
    difference = torch.cat(true) - torch.cat(alone)
    bias = difference.mean()
    return replace(
        fitted,
        widening=_quantiles(ratios, empty=1.0),
        focus_error=_quantiles(errors, empty=0.0),
        coarse_error=(difference - bias).abs().quantile(_level(len(tables))),
        bias=bias,
        variance=difference.var(),
    )


def _quantiles(values: Sequence[Sequence[Tensor]], empty: float) -> Tensor:
    """Return the quantile of each share; that of the next larger share, or `empty`, where none was read."""
    found = []
    for share in values:
        each = torch.cat(list(share)).float() if share else None
        found.append(torch.tensor(empty) if each is None else each.quantile(_level(len(each))))
    return torch.stack(found)


def _level(count: int) -> float:
    """Return the level of a quantile of `count` values that a further one exceeds in 5 % of cases."""
    return min(1.0, _LEVEL * (1 + 1 / count))


