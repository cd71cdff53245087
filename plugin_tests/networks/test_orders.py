"""Predictions averaged over eight orders of the tokens."""

from __future__ import annotations

import pytest
import torch

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_network, check_tokens
from tiacrossfusion.networks.orders import ORDERS, AveragedOrders, sorting
from tiacrossfusion.networks.registry import build_network
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES

SIDE, WIDTH = 3, 5


def network(name: str = "crossfusion") -> SurvivalNetwork:
    torch.manual_seed(0)
    made = build_network(name, encoder_width=WIDTH, embed_dim=8, num_heads=2).double().eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.5)
    return made


def tissue() -> SlideTokens:
    """A ragged piece of tissue, row by row."""
    random = torch.Generator().manual_seed(0)
    cells = torch.cartesian_prod(torch.arange(4 * SIDE), torch.arange(4 * SIDE)).flip(1)
    cells = cells[torch.rand(len(cells), generator=random) < 0.6]
    grid = {"20x": cells, "10x": (cells // 2).unique(dim=0), "5x": (cells // 4).unique(dim=0)}
    features = {
        s: torch.randn(1, len(g), WIDTH, generator=random, dtype=torch.float64)
        for s, g in grid.items()
    }
    return in_rows(SlideTokens(features, {s: g[None] for s, g in grid.items()}))


def in_rows(tokens: SlideTokens) -> SlideTokens:
    for scale in SCALES:
        tokens = tokens.keep(scale, sorting(tokens.grid[scale], ORDERS[0])[0])
    return tokens


def turned(tokens: SlideTokens) -> SlideTokens:
    """The slide turned by a quarter, its tokens row by row."""
    cells = {"5x": SIDE, "10x": 2 * SIDE, "20x": 4 * SIDE}
    grid = {
        s: torch.stack([cells[s] - 1 - g[..., 1], g[..., 0]], dim=2) for s, g in tokens.grid.items()
    }
    return in_rows(SlideTokens(tokens.features, grid))


def test_a_turned_or_mirrored_slide_has_the_same_prediction_and_attention():
    plain, tokens = network(), tissue()
    averaged = AveragedOrders(plain)
    with torch.no_grad():
        one, other = (call_network(averaged, t, attention=True) for t in (tokens, turned(tokens)))
    torch.testing.assert_close(other.survival, one.survival)
    torch.testing.assert_close(other.member_risk.sort().values, one.member_risk.sort().values)
    assert one.member_risk.shape == (1, 8)
    for name in ("x5", "x10", "x20", "fused"):
        scores, again = getattr(one.attention, name)[0], getattr(other.attention, name)[0]
        torch.testing.assert_close(scores.sort().values, again.sort().values)


def test_the_first_order_is_that_of_bags_and_the_mean_is_over_all():
    plain, tokens = network(), tissue()
    with torch.no_grad():
        output = call_network(AveragedOrders(plain), tokens)
        alone = call_network(plain, tokens)
    torch.testing.assert_close(output.member_risk[:, 0], alone.risk)
    torch.testing.assert_close(output.risk, output.member_risk.mean(dim=1), atol=1e-6, rtol=0)


def test_networks_that_do_not_read_the_order_are_refused():
    for name in ("mean-pool", "abmil", "nested-fusion"):
        plain = build_network(name, encoder_width=WIDTH, embed_dim=8)
        with pytest.raises(UsageError, match="leave out --orders") as caught:
            AveragedOrders(plain)
        assert "\n" not in str(caught.value)


def test_bags_without_positions_are_refused_in_one_line():
    averaged = AveragedOrders(network())
    with pytest.raises(TiacfError, match=r"bag of a\.svs: no positions on the grid") as caught:
        check_tokens(averaged, SlideTokens(tissue().features), "bag of a.svs")
    assert "\n" not in str(caught.value)
