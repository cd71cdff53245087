"""What networks pool: sums over families give the prediction, and a part of them estimates it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiacrossfusion.inference.estimate import from_coarse_alone, from_imputed, from_sample
from tiacrossfusion.inference.families import FamilyTable
from tiacrossfusion.inference.sampling import balanced_order, curve_order, families_for, rounds
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.ensemble import Ensemble
from tiacrossfusion.networks.registry import NETWORKS
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork

POOLING = ("nested-fusion", "mean-pool", "mean-pool-20x", "abmil", "abmil-20x")
SIDE, WIDTH, BINS = 6, 8, 4


def grid(side: int) -> torch.Tensor:
    rows, columns = np.divmod(np.arange(side**2), side)
    return torch.from_numpy(np.stack([columns, rows], 1))[None]


@pytest.fixture(scope="module")
def tokens() -> SlideTokens:
    """A slide of 36 families, a few 20x tokens of which are missing."""
    torch.manual_seed(0)
    grids = {"5x": grid(SIDE), "10x": grid(2 * SIDE), "20x": grid(4 * SIDE)}
    kept = torch.rand(grids["20x"].shape[1]) < 0.9
    kept[:4] = True
    grids["20x"] = grids["20x"][:, kept]
    there = {tuple(cell) for cell in (grids["20x"][0] // 2).tolist()}
    grids["10x"] = torch.tensor([[c for c in grids["10x"][0].tolist() if tuple(c) in there]])
    return SlideTokens({s: torch.randn(1, g.shape[1], WIDTH) for s, g in grids.items()}, grids)


def trained(name: str, *, statistics: bool = True) -> TrainedNetwork:
    torch.manual_seed(1)
    inner = NETWORKS[name](encoder_width=WIDTH, embed_dim=12, num_bins=1)
    network = TrainedNetwork(inner, standardise=True, num_bins=BINS, statistics=statistics).eval()
    network.set_baseline(torch.tensor([0.1, 0.2, 0.1, 0.3]))
    network.set_moments(0.1 * torch.randn(3, WIDTH), 0.5 + torch.rand(3, WIDTH))
    if network.statistics is not None:
        network.statistics.left.normal_()
        network.statistics.right.normal_()
        torch.nn.init.normal_(network.skip, std=0.02)
    return network.requires_grad_(False)


def of_read(tokens: SlideTokens, rows: np.ndarray) -> SlideTokens:
    """Return all 5x tokens, and the others of some families."""
    cells = {tuple(cell) for cell in tokens.grid["5x"][0, rows].tolist()}
    kept = {
        scale: torch.tensor([tuple(cell) in cells for cell in (grid[0] // size).tolist()])
        for (scale, grid), size in zip(tokens.grid.items(), (1, 2, 4), strict=True)
    }
    kept["5x"][:] = True
    return SlideTokens(
        {s: x[:, kept[s]] for s, x in tokens.features.items()},
        {s: x[:, kept[s]] for s, x in tokens.grid.items()},
    )


def counts_of(table: FamilyTable) -> dict[str, torch.Tensor]:
    return {"10x": table.tokens[:, 1].long(), "20x": table.tokens[:, 2].long()}


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("name", POOLING)
def test_all_families_give_the_prediction(name, statistics, tokens):
    network = trained(name, statistics=statistics)
    table = FamilyTable.of(network, tokens)
    risk = table.risk((table.sums.sum(dim=0) / table.totals)[None])
    torch.testing.assert_close(risk, call_network(network, tokens).risk, rtol=1e-5, atol=1e-5)


def test_rare_patterns_are_estimated_from_levels(tokens):
    network = trained("nested-fusion")
    network.statistics.rare.copy_(torch.randn(WIDTH))
    projected = network.standardised(tokens.inputs())["x20"] @ network.statistics.rare
    largest = projected[0].topk(round(0.02 * projected.shape[1])).values.mean()
    network.statistics.mean[-1], network.statistics.sd[-1] = largest + 0.3, 0.5
    table = FamilyTable.of(network, tokens)
    risk = table.risk((table.sums.sum(dim=0) / table.totals)[None])
    torch.testing.assert_close(risk, call_network(network, tokens).risk, rtol=0, atol=2e-3)


def test_an_ensemble_pools_what_its_members_pool(tokens):
    members = [trained("nested-fusion"), trained("nested-fusion", statistics=False)]
    weights = torch.eye(BINS + 1)[1:].expand(2, -1, -1)
    network = Ensemble(members, weights).eval()
    assert network.pools_families
    table = FamilyTable.of(network, tokens)
    risk = table.risk((table.sums.sum(dim=0) / table.totals)[None])
    torch.testing.assert_close(risk, call_network(network, tokens).risk, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["crossfusion", "transmil", "dsmil"])
def test_other_networks_do_not_pool(name):
    assert not NETWORKS[name](encoder_width=WIDTH, embed_dim=16, num_bins=1).pools_families


@pytest.mark.parametrize("name", POOLING)
def test_families_that_were_not_read_change_nothing(name, tokens):
    """What is known of a family does not depend on which others were read; 5x is always known."""
    network, rows = trained(name), np.array([3, 17, 20])
    whole = FamilyTable.of(network, tokens)
    part = FamilyTable.of(network, of_read(tokens, rows), counts_of(whole))
    torch.testing.assert_close(part.features, whole.features)
    torch.testing.assert_close(part.sums[rows], whole.sums[rows])
    others = np.setdiff1d(np.arange(len(whole)), rows)
    assert not part.sums[others].any()
    nothing = FamilyTable.of(network, of_read(tokens, np.arange(0)), counts_of(whole))
    torch.testing.assert_close(nothing.features, whole.features)


@pytest.mark.parametrize("name", POOLING)
def test_reading_all_leaves_no_error(name, tokens):
    table = FamilyTable.of(trained(name), tokens)
    expected = torch.randn(table.sums.shape)  # whatever was expected
    every = torch.randperm(len(table))[None]
    found, imputed = from_sample(table, expected, every), from_imputed(table, expected, every)
    risk = table.risk((table.sums.sum(dim=0) / table.totals)[None])
    torch.testing.assert_close(found.risk, risk, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(imputed.risk, risk, rtol=1e-4, atol=1e-4)
    assert found.se.item() == 0


def test_a_perfect_regression_needs_no_family(tokens):
    table = FamilyTable.of(trained("nested-fusion"), tokens)
    risk = table.risk((table.sums.sum(dim=0) / table.totals)[None])
    torch.testing.assert_close(from_coarse_alone(table, table.sums).risk, risk)
    found = from_sample(table, table.sums, torch.tensor([[0, 5, 9]]))
    torch.testing.assert_close(found.risk, risk)
    assert found.se.item() < 1e-6


def test_samples_are_unbiased_and_their_errors_known(tokens):
    """Over many orders, the mean is that of all families, and 95 % intervals hold it about as often."""
    table = FamilyTable.of(trained("mean-pool", statistics=False), tokens)
    rng, nothing = np.random.default_rng(0), table.expected(None)
    orders = np.stack([balanced_order(table.curve.numpy(), rng)[:16] for _ in range(400)])
    found = from_sample(table, nothing, torch.from_numpy(orders))
    risk = table.risk((table.sums.sum(dim=0) / table.totals)[None])
    spread = found.risk.std()
    assert abs(found.risk.mean() - risk) < 4 * spread / 20 + 0.02 * spread
    inside = ((found.risk - risk).abs() <= 2.13 * found.se).float().mean()
    assert inside > 0.9


def test_orders_are_permutations_spread_over_the_slide():
    cells = grid(16)[0].numpy()
    curve = curve_order(cells)
    assert (np.abs(np.diff(cells[curve], axis=0)).sum(axis=1) == 1).all()  # neighbours
    order = balanced_order(curve, np.random.default_rng(3))
    assert sorted(order) == list(range(256))
    quarters = np.unique(cells[order[:16]] // 4, axis=0)
    assert len(quarters) == 16  # of the first 16, one in each sixteenth of the slide


def test_every_family_is_as_likely_to_be_first():
    curve = curve_order(grid(5)[0].numpy())
    rng, hits = np.random.default_rng(0), np.zeros(25)
    for _ in range(5000):
        hits[balanced_order(curve, rng)[:4]] += 1
    assert np.abs(hits / 5000 - 4 / 25).max() < 0.03


@pytest.mark.parametrize(
    ("budget", "families", "read"),
    [(0, 100, 0), (0, 16, 16), (0.05, 100, 16), (0.25, 100, 25), (1, 100, 100), (0.1, 7, 7)],
)
def test_shares_are_numbers_of_families(budget, families, read):
    assert families_for(budget, families) == read


def test_rounds_grow_to_the_most_that_may_be_read():
    assert rounds(100, 40) == [16, 24, 36, 40]
    assert rounds(9, 9) == [9]
