"""Fit what the 5x tokens of slides tell of the tokens inside them, and measure its errors on other slides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.budget import POOLING
from tiacrossfusion.inference.estimate import (
    from_coarse_alone,
    from_imputed,
    from_sample,
    risk_with_gradient,
)
from tiacrossfusion.inference.families import FamilyTable, with_squares
from tiacrossfusion.inference.partial import BagFamilies
from tiacrossfusion.inference.sampling import LEAST, balanced_order, families_for
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.models.from_coarse import SHARES, FromCoarse, t_quantile
from tiacrossfusion.networks.pooling import phi_of

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
#: Slides that the components are found from.
_FOR_COMPONENTS = 40
#: Random samples of each slide that is held back, and slides at least.
_DRAWS, LEAST_SLIDES = 20, 5
#: Share of the errors that an interval holds.
_LEVEL = 0.95


@torch.no_grad()
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
        TiacfError: there are too few slides, or they are too small.
    """
    if min(len(slides), len(held_back)) < LEAST_SLIDES:
        raise TiacfError(
            f"{len(slides)} slides to fit and {len(held_back)} held back: intervals of a partial reading "
            f"need {LEAST_SLIDES} or more of each"
        )
    tables = list(_tables(network, held_back))
    if all(len(table) <= LEAST for table in tables):
        raise TiacfError(
            f"no slide that was held back has more than {LEAST} families, which are read whole: there is "
            "nothing to learn of larger ones; give slides like those that will be predicted"
        )
    return _with_errors(_fit(network, slides, tables), tables, seed)


@torch.no_grad()
def regression_on(
    network: SurvivalNetwork, slides: Slides, held_back: Slides, read: Sequence[str]
) -> FromCoarse:
    """Return the regression on the scales that are read, without its errors.

    Args:
        network: pools families; in eval mode.
        slides: that it is fitted on.
        held_back: that choose the penalty.
        read: "5x", or "5x" and "10x".
    """
    return _fit(network, slides, list(_tables(network, held_back, read)), read)


def _fit(
    network: SurvivalNetwork,
    slides: Slides,
    held_back: Sequence[FamilyTable],
    read: Sequence[str] = ("5x",),
) -> FromCoarse:
    some = slides[:: max(1, len(slides) // _FOR_COMPONENTS)]
    centre, directions = _components(_tables(network, some, read))
    sums: _Sums | None = None
    for table in _tables(network, slides, read):
        phi = phi_of(table.features, table.around, centre, directions)
        sums = sums or _Sums(table, phi.shape[1])
        sums.add(table, phi)
    assert sums is not None  # noqa: S101 - there are slides
    candidates = [sums.solved(centre, directions, penalty) for penalty in _PENALTIES]
    return min(candidates, key=lambda each: _unexplained(each, held_back))


def _tables(
    network: SurvivalNetwork, slides: Slides, read: Sequence[str] = ("5x",)
) -> Iterable[FamilyTable]:
    return (FamilyTable.of(network, slide(), read=read) for slide in slides)


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


class _Sums:
    """Sums over slides for the regressions on phi.

    Args:
        table: of any slide; tells the sizes.
        width: P, of phi.
    """

    def __init__(self, table: FamilyTable, width: int) -> None:
        """Start with 0."""
        self.column = table.column
        self.gram = torch.zeros(3, width, width, dtype=torch.float64)  # weighted with the tokens
        self.moment = torch.zeros(width, len(self.column), dtype=torch.float64)
        self.weight = torch.zeros(3, dtype=torch.float64)
        self.focus_gram = torch.zeros(2 * width - 1, 2 * width - 1, dtype=torch.float64)
        self.focus_moment = torch.zeros(2 * width - 1, dtype=torch.float64)
        self.families = 0

    def add(self, table: FamilyTable, phi: Tensor) -> None:
        """Add a slide."""
        wide = phi.double()
        target = focus_target(table).double()
        both = with_squares(wide)
        for scale, k in enumerate(table.tokens.double().T):
            self.gram[scale] += (wide * k[:, None]).T @ wide
        self.moment += wide.T @ table.sums.double()
        self.weight += table.tokens.double().sum(dim=0)
        self.focus_gram += both.T @ both
        self.focus_moment += both.T @ target
        self.families += len(table)

    def solved(self, centre: Tensor, directions: Tensor, penalty: float) -> FromCoarse:
        """Return the ridge regressions with a penalty."""
        coefficients = torch.zeros_like(self.moment)
        for scale in range(3):
            here = (self.column == scale).nonzero()[:, 0]
            if len(here):
                gram = _penalised(self.gram[scale], penalty * self.weight[scale])
                coefficients[:, here] = torch.linalg.solve(gram, self.moment[:, here])
        gram = _penalised(self.focus_gram, _FOCUS_PENALTY * self.families)
        focus = torch.linalg.solve(gram, self.focus_moment)
        unknown = torch.zeros(())
        return FromCoarse(
            centre,
            directions,
            coefficients.float(),
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


def focus_target(table: FamilyTable) -> Tensor:
    """Return the attribution (F,) of families without its sign: what each adds beyond an average one."""
    _, gradient = risk_with_gradient(table, table.means)
    beyond = table.sums - table.means * table.tokens[:, table.column]
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
        risk = table.risk(table.means)
        true.append(risk)
        alone.append(from_coarse_alone(table, expected).risk)
        order = table.by_focus(fitted)
        for number, share in enumerate(SHARES):
            n = families_for(share, len(table))
            if n >= len(table):
                continue
            orders = [balanced_order(table.curve.numpy(), rng)[:n] for _ in range(_DRAWS)]
            found = from_sample(table, expected, torch.from_numpy(np.stack(orders)))
            ratios[number].append(
                (found.risk - risk).abs() / found.se.clamp(min=1e-12) / t_quantile(n)
            )
            errors[number].append(
                (from_imputed(table, expected, order[None, :n]).risk - risk).abs()
            )
    difference = torch.cat(true) - torch.cat(alone)
    bias = difference.mean()
    return replace(
        fitted,
        widening=_quantiles(ratios),
        focus_error=_quantiles(errors),
        coarse_error=(difference - bias).abs().quantile(_level(len(tables))),
        bias=bias,
        variance=difference.var(),
    )


def _quantiles(values: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the quantile of each share."""
    every = [torch.cat(list(share)).float() for share in values]
    return torch.stack([each.quantile(_level(len(each))) for each in every])


def _level(count: int) -> float:
    """Return the level of a quantile of `count` values that a further one exceeds in 5 % of cases."""
    return min(1.0, _LEVEL * (1 + 1 / count))


def calibrate_bundle(
    folder: Path, bags: Sequence[Path], seed: int = 0, device: str = "cpu"
) -> tuple[FromCoarse, int, int]:
    """Add to a bundle what 5x tells, from bags without follow-up.

    Args:
        folder: of the bundle.
        bags: of slides; a third of them is held back.
        seed: of who is held back, and of the samples.
        device: torch device.

    Returns:
        What was fitted, and the number of slides that taught it and that were held back.

    Raises:
        TiacfError: the model does not pool, a bag does not fit it, or there are too few.
    """
    bundle = load_bundle(folder, device)
    if not bundle.network.pools_families:
        raise TiacfError(
            f"{folder}: does not predict from means over the slide, so it needs all of it; models of "
            f"{POOLING} can read a part"
        )
    order = np.random.default_rng(seed).permutation(len(bags))
    held = set(order[: len(bags) // 3].tolist())

    def read(path: Path) -> SlideTokens:
        bag = FeatureBag.load(path)
        BagFamilies(bag)  # refuses grids that are not nested
        return bundle.tokens(bag).to("cpu", torch.float32)

    slides = [partial(read, path) for i, path in enumerate(bags) if i not in held]
    others = [partial(read, path) for i, path in enumerate(bags) if i in held]
    fitted = fit_from_coarse(bundle.on_cpu, slides, others, seed)
    try:
        fitted.save(folder)
    except OSError as error:
        raise TiacfError(
            f"{folder}: cannot be written ({error.strerror}); check the folder's permissions and free space"
        ) from error
    return fitted, len(slides), len(others)
