"""Nested fusion: its equations by hand, and what it does not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiacrossfusion.errors import UsageError
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.families import Families, nesting_fault, parents
from tiacrossfusion.networks.nested_fusion import NestedFusion
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.families import parents_of
from tiacrossfusion.slides.spec import SCALES

WIDTH, SIDE = 5, 4


def tissue(share: float = 0.6, seed: int = 0, shift: int = 0) -> SlideTokens:
    """Tokens of one slide of which a share of the 20x cells is kept, whole families only."""
    random = torch.Generator().manual_seed(seed)
    cells = torch.cartesian_prod(torch.arange(4 * SIDE), torch.arange(4 * SIDE))
    cells = cells[torch.rand(len(cells), generator=random) < share] + shift
    grid = {"20x": cells, "10x": (cells // 2).unique(dim=0), "5x": (cells // 4).unique(dim=0)}
    features = {s: torch.randn(1, len(grid[s]), WIDTH, generator=random).double() for s in SCALES}
    return SlideTokens(features, {s: grid[s][None] for s in SCALES})


def network(**sizes: int) -> NestedFusion:
    torch.manual_seed(0)
    made = NestedFusion(WIDTH, 8, 3, **sizes).double().eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.5)
    return made


def test_the_equations_by_hand():
    made, tokens = network(pair_dim=3), tissue()
    w = {name: weight.detach().numpy() for name, weight in made.named_parameters()}
    x = {scale: tokens.features[scale][0].numpy() for scale in SCALES}
    grid = {scale: tokens.grid[scale][0].numpy() for scale in SCALES}

    def linear(name, values):
        return w[f"{name}.weight"] @ values + w[f"{name}.bias"]

    def relu(values):
        return np.maximum(values, 0)

    h5, h10, h20 = (
        np.stack([relu(linear(f"embed{scale[:-1]}.project", row)) for row in x[scale]])
        for scale in SCALES
    )
    up20, up10 = parents_of(grid["20x"], grid["10x"]), parents_of(grid["10x"], grid["5x"])
    sums = {name: [] for name in ("fc", "sf", "sc", "t")}
    children = []
    for i, s in enumerate(h10):
        inside = h20[up20 == i]
        logits = inside @ linear("attend", linear("attend_narrow", s)) / np.sqrt(8)
        a = np.exp(logits) / np.exp(logits).sum()
        f, c = a @ inside, h5[up10[i]]

        def product(name, one, other):
            return linear(f"{name}.left", one) * linear(f"{name}.right", other)

        sums["fc"].append(product("fine_coarse", f, c))
        sums["sf"].append(product("source_fine", s, f))
        sums["sc"].append(product("source_coarse", s, c))
        sums["t"].append(relu(linear("triple", np.concatenate([s, f, c]))))
        children.append(len(inside))
    g = [h5.mean(axis=0), h10.mean(axis=0), h20.mean(axis=0)]
    for name, rows in sums.items():
        g.append(np.average(rows, axis=0, weights=None if name == "sc" else children))
    logits = linear("head", relu(linear("hidden", np.concatenate(g))))
    with torch.no_grad():
        found = call_network(made, tokens).logits[0].numpy()
    np.testing.assert_allclose(found, logits, rtol=1e-10)


def test_fresh_child_attention_is_the_mean_over_the_children():
    torch.manual_seed(0)
    made, tokens = NestedFusion(WIDTH, 8).double().eval(), tissue()
    with torch.no_grad():
        scores = call_network(made, tokens, attention=True).attention.x20
    torch.testing.assert_close(scores, torch.full_like(scores, 1 / scores.shape[1]))


@pytest.mark.parametrize("turn", ["90 degrees", "180 degrees", "mirrored"])
def test_turning_the_grid_changes_nothing_but_the_order(turn):
    made, tokens = network(), tissue()
    cells = {"5x": SIDE, "10x": 2 * SIDE, "20x": 4 * SIDE}
    turned, orders = {}, {}
    for scale, grid in tokens.grid.items():
        column, row = grid[0].unbind(dim=1)
        last = cells[scale] - 1
        moved = {
            "90 degrees": (last - row, column),
            "180 degrees": (last - column, last - row),
            "mirrored": (last - column, row),
        }[turn]
        orders[scale] = torch.argsort(moved[1] * cells[scale] + moved[0])
        turned[scale] = torch.stack(moved, dim=1)[orders[scale]][None]
    features = {scale: x[:, orders[scale]] for scale, x in tokens.features.items()}
    with torch.no_grad():
        before = call_network(made, tokens, attention=True)
        after = call_network(made, SlideTokens(features, turned), attention=True)
    torch.testing.assert_close(after.logits, before.logits)
    torch.testing.assert_close(after.attention.x20, before.attention.x20[:, orders["20x"]])


def test_slides_of_equal_counts_go_together():
    made, slides = network(), [tissue(seed=0), tissue(seed=1)]
    least = {s: min(slide.features[s].shape[1] for slide in slides) for s in SCALES}
    for i, slide in enumerate(slides):
        for scale in SCALES:
            slide = slide.keep(scale, torch.arange(least[scale]))
        slides[i] = slide  # some tokens have lost their parents or children
    with torch.no_grad():
        together = call_network(made, SlideTokens.stack(slides)).logits
        alone = torch.cat([call_network(made, slide).logits for slide in slides])
    torch.testing.assert_close(together, alone)


def test_a_20x_token_counts_the_same_whatever_is_kept_beside_it():
    # Where all tokens of a scale are alike, each 20x token has the same slope of the risk.
    made, tokens = network(), tissue()
    alike = {s: x[:, :1].expand_as(x).clone().requires_grad_() for s, x in tokens.features.items()}
    call_network(made, tokens.with_features(alike)).risk.sum().backward()
    slopes = alike["20x"].grad[0]
    torch.testing.assert_close(slopes, slopes[:1].expand_as(slopes))


def test_tokens_without_parents_or_children_are_left_out_of_what_needs_them():
    made, tokens = network(), tissue()
    lone = SlideTokens(
        tokens.features,
        {**tokens.grid, "20x": tokens.grid["20x"] + 1000, "5x": tokens.grid["5x"] + 1000},
    )
    output = call_network(made, lone, attention=True)
    assert output.logits.isfinite().all()
    assert not output.attention.x20.any()
    output.risk.sum().backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in made.parameters())


def test_families_are_found_once_and_agree_with_those_of_extraction():
    tokens = tissue(shift=40)
    fine, coarse = tokens.grid["20x"], tokens.grid["10x"]
    expected = parents_of(fine[0].numpy(), coarse[0].numpy())
    np.testing.assert_array_equal(parents(fine, coarse).numpy(), expected)
    grids = [tokens.grid[scale] for scale in SCALES]
    assert Families.of(*grids) is Families.of(*grids)
    assert Families.of(*(grid.clone() for grid in grids)) is not Families.of(*grids)


def test_faults_of_nesting_are_named():
    tokens = tissue()
    assert nesting_fault(tokens, SCALES) is None
    n = tokens.counts()[1]
    fewer = tokens.keep("10x", torch.arange(1, n))
    assert "patches at 20x lie in no 10x patch" in nesting_fault(fewer, SCALES)
    more = SlideTokens(
        tokens.features,
        {**tokens.grid, "10x": torch.cat([tokens.grid["10x"], tokens.grid["10x"][:, :1] + 500], 1)},
    )
    assert "lie in no 5x patch" in nesting_fault(more, SCALES)


def test_sizes_are_checked():
    with pytest.raises(UsageError, match="pair_dim is -1"):
        NestedFusion(WIDTH, 8, pair_dim=-1)
