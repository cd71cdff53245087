"""Predict a slide from its 5x patches and some of its families, read round by round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.budget import Budget
from tiacrossfusion.inference.estimate import (
    Estimates,
    disagreement,
    family_effects,
    from_coarse_alone,
    from_imputed,
    from_sample,
    half_width,
    shrunken,
)
from tiacrossfusion.inference.families import FamilyTable
from tiacrossfusion.inference.prediction import Prediction, read_off, record_use
from tiacrossfusion.inference.reading import PartialReading
from tiacrossfusion.inference.sampling import (
    balanced_order,
    families_for,
    portions,
    rounds,
    slide_rng,
)
from tiacrossfusion.inference.stopping import is_certain
from tiacrossfusion.slides.families import parents_of
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.networks.tokens import SlideTokens


class Families(ABC):
    """The families of a slide, which can be read one after the other.

    Attributes:
        coarse: the 5x patches, all read.
        counts: (F, 2) number of 10x and 20x patches in each family.
    """

    coarse: ScaleFeatures
    counts: np.ndarray

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the slide."""

    @abstractmethod
    def read(self, rows: np.ndarray) -> None:
        """Read families; the counts of damaged ones become smaller."""

    @abstractmethod
    def bag(self) -> FeatureBag:
        """Return all 5x patches, and the 10x and 20x patches of the families that were read."""

    def __len__(self) -> int:
        """Return the number of families, F."""
        return len(self.counts)


class BagFamilies(Families):
    """The families of a bag.

    Raises:
        TiacfError: the grids of the bag are not known, or do not nest.
    """

    def __init__(self, bag: FeatureBag) -> None:
        """Find the families."""
        grids = {scale: grid_of(bag, scale) for scale in SCALES}
        remedy = (
            "a part of it cannot be read; leave --budget out, or make the bag with tiacf extract"
        )
        if any(len(grid) == 0 for grid in grids.values()):
            raise TiacfError(f"bag of {bag.provenance.slide}: has no nested grids, so {remedy}")
        self._bag, self.coarse = bag, bag.scales["5x"]
        up10, up20 = parents_of(grids["10x"], grids["5x"]), parents_of(grids["20x"], grids["10x"])
        self._family = {"10x": up10, "20x": np.where(up20 < 0, -1, up10[up20])}
        self.counts = np.stack(
            [np.bincount(up[up >= 0], minlength=len(self.coarse)) for up in self._family.values()],
            1,
        )
        if min(up.min() for up in self._family.values()) < 0 or not self.counts.all():
            raise TiacfError(
                f"bag of {bag.provenance.slide}: its grids are not nested, so {remedy}"
            )
        self._read = np.zeros(len(self.coarse), bool)

    @property
    def name(self) -> str:
        """Name of the slide."""
        return self._bag.provenance.slide

    def read(self, rows: np.ndarray) -> None:
        """Take families of the bag."""
        self._read[rows] = True

    def bag(self) -> FeatureBag:
        """Return what was taken."""
        scales = {"5x": self.coarse}
        for scale, family in self._family.items():
            scales[scale] = of_cells(self._bag.scales[scale], self._read[family])
        return FeatureBag(scales, self._bag.provenance)


def grid_of(bag: FeatureBag, scale: str) -> np.ndarray:
    """Return column and row (N, 2) of the patches of a scale; (0, 2) if they are not known."""
    grid = bag.scales[scale].grid if scale in bag.scales else None
    return np.zeros((0, 2), np.int32) if grid is None else grid


def of_cells(scale: ScaleFeatures, kept: np.ndarray) -> ScaleFeatures:
    """Return the patches of a mask (N,)."""
    return ScaleFeatures(
        scale.features[kept],
        None if scale.bounds is None else scale.bounds[kept],
        None if scale.grid is None else scale.grid[kept],
    )


def read_families(bag: FeatureBag) -> FeatureBag:
    """Return a bag without the 5x patches in which nothing was read; 5x alone if nothing was."""
    grid5, grid10 = grid_of(bag, "5x"), grid_of(bag, "10x")
    there = np.isin(np.arange(len(grid5)), parents_of(grid10, grid5))
    if not there.any():
        return FeatureBag({"5x": bag.scales["5x"]}, bag.provenance)
    return FeatureBag({**bag.scales, "5x": of_cells(bag.scales["5x"], there)}, bag.provenance)


def predict_families(
    families: Families,
    bundle: ModelBundle,
    budget: Budget,
    covariates: np.ndarray | None = None,
) -> tuple[Prediction, PartialReading]:
    """Read as many families of a slide as a budget says, and predict.

    Raises:
        TiacfError: the risk is not finite, or the bag does not fit the model.
    """
    fitted, reference = bundle.from_coarse, bundle.config.risk_reference
    number = len(families)
    table = _table(families, bundle, covariates)
    if budget.choose == "focus":
        assert fitted is not None  # noqa: S101 - the budget has been checked
        order = table.by_focus(fitted).numpy()
    else:
        order = balanced_order(table.curve.numpy(), slide_rng(families.name, number))
    most = families_for(budget.share, number)
    looks = rounds(number, most) if budget.until is not None else portions(most)
    n = known = 0  # families read, and those of them that the table has
    for target in looks:
        families.read(order[n:target])
        n = target
        if budget.until is None or n == number:
            continue
        table, known = _table(families, bundle, covariates), n
        found = from_sample(table, table.expected(fitted), torch.from_numpy(order[None, :n]))
        assert reference is not None  # noqa: S101 - the budget has been checked
        risk, se = float(found.risk), float(found.se)
        if is_certain(risk, se, n, number, budget.until, fitted, reference, len(looks)):
            break
    if known < n:
        table = _table(families, bundle, covariates)
    return _result(families, table, bundle, budget, order[:n], covariates)


def _result(
    families: Families,
    table: FamilyTable,
    bundle: ModelBundle,
    budget: Budget,
    read: np.ndarray,
    covariates: np.ndarray | None,
) -> tuple[Prediction, PartialReading]:
    fitted = bundle.from_coarse
    expected, rows, n = table.expected(fitted), torch.from_numpy(read.copy())[None], len(read)
    share = n / len(table)
    alone = None if fitted is None else from_coarse_alone(table, expected)
    found, width = _estimate(table, expected, rows, budget, bundle)
    hazards = table.hazards(found.means).detach()[0].cpu().double().numpy()
    risk = float(found.risk)
    if not np.isfinite(hazards).all() or not np.isfinite(width):
        raise TiacfError(
            f"{families.name}: the model's risk is not finite; check the model's weights"
        )
    small = None
    if fitted is not None and alone is not None:
        shift = float(fitted.bias) if n == 0 else 0.0
        small = risk + shift
        if 0 < n < len(table) and budget.choose == "random":
            small = float(shrunken(found.risk, found.se, alone.risk, fitted))
    seen = np.zeros(len(table), bool)
    seen[read] = True
    apart = np.full(len(table), np.nan)
    if fitted is not None and n:
        apart[read] = disagreement(table, expected, rows[0], found.gradient[0]).numpy()
    bounds = families.coarse.bounds
    # The risk is minus a sum of K probabilities.
    least = -float(bundle.config.architecture.num_bins)
    centre = risk + (float(fitted.bias) if fitted is not None and n == 0 else 0.0)
    reading = PartialReading(
        budget.choose,
        share,
        len(table),
        max(least, centre - width),
        min(0.0, centre + width),
        small,
        fitted is not None,
        seen,
        family_effects(
            table, expected, found, torch.from_numpy(seen), known=fitted is not None
        ).numpy(),
        apart,
        np.zeros((len(table), 4), np.int64) if bounds is None else bounds,
    )
    use, record = None, bundle.config.architecture.record
    if record is not None:
        known = np.zeros(len(record.names), bool) if covariates is None else ~np.isnan(covariates)
        alone_hazards = replace(table, covariates=None).hazards(found.means).detach()[0]
        use = record_use(record.names, known, alone_hazards.double().numpy())
    return replace(read_off(hazards, bundle.config), record=use), reading


def _estimate(
    table: FamilyTable,
    expected: torch.Tensor,
    rows: torch.Tensor,
    budget: Budget,
    bundle: ModelBundle,
) -> tuple[Estimates, float]:
    """Return the estimate from the families read, and half the width of its interval."""
    fitted, n = bundle.from_coarse, rows.shape[1]
    share = n / len(table)
    if n == 0 or budget.choose == "focus":
        assert fitted is not None  # noqa: S101 - the budget has been checked
        return from_imputed(table, expected, rows), fitted.focus_width(share)
    found = from_sample(table, expected, rows)
    return found, half_width(float(found.se), n, share, fitted) if n < len(table) else 0.0


def _table(families: Families, bundle: ModelBundle, covariates: np.ndarray | None) -> FamilyTable:
    """Return the table of what has been read so far."""
    tokens = _tokens(families.bag(), bundle, covariates)
    counts = torch.from_numpy(families.counts)
    return FamilyTable.of(bundle.on_cpu, tokens, {"10x": counts[:, 0], "20x": counts[:, 1]})


def _tokens(bag: FeatureBag, bundle: ModelBundle, covariates: np.ndarray | None) -> SlideTokens:
    """Return the tokens of a bag whose families need not be whole."""
    from tiacrossfusion.networks.tokens import SlideTokens

    bundle.check_bag(bag)
    features = {s: torch.from_numpy(x.features)[None].float() for s, x in bag.scales.items()}
    grids = {s: torch.from_numpy(np.asarray(x.grid)).long()[None] for s, x in bag.scales.items()}
    given = None if covariates is None else torch.from_numpy(covariates)[None].float()
    return SlideTokens(features, grids, given)
