"""Attribution of the risk to tokens and scales, and attention rolled back to the tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slide_tokens import tokens_of

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.attribution import (
    Attribution,
    attribute,
    attribute_tokens,
    baseline_tokens,
)
from tiacrossfusion.explain.rolled import rolled_scores
from tiacrossfusion.models.bundle import ModelBundle
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_network, scales_read
from tiacrossfusion.networks.ensemble import Ensemble
from tiacrossfusion.networks.registry import COXNETS, NETWORKS, build_network
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.simulation.bags import BagOptions, draw_bag
from tiacrossfusion.simulation.planted import draw_planted_cohort, slide_rng
from tiacrossfusion.slides.spec import SCALES

WIDTH = 6
COUNTS = {"5x": 5, "10x": 11, "20x": 17}


def make_tokens(seed: int = 0, dtype: torch.dtype = torch.float32) -> SlideTokens:
    random = torch.Generator().manual_seed(seed)
    features = [
        torch.randn(1, n, WIDTH, generator=random, dtype=torch.float64).to(dtype)
        for n in COUNTS.values()
    ]
    return tokens_of(*features)


def make_network(name: str, embed_dim: int = 8, seed: int = 0) -> SurvivalNetwork:
    torch.manual_seed(seed)
    sizes = {} if name in COXNETS else {"embed_dim": embed_dim}
    network = build_network(name, encoder_width=WIDTH, **sizes).eval()
    with torch.no_grad():  # fresh weights are small, and so is all that depends on the tokens
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return network


def standardised(name: str, seed: int = 0) -> TrainedNetwork:
    trained = TrainedNetwork(make_network(name, seed=seed), standardise=True).eval()
    trained.set_moments(torch.full((3, WIDTH), 0.3), torch.full((3, WIDTH), 1.5))
    return trained


def check_sums(found: Attribution) -> None:
    added = sum(found.scale_contribution.values())
    assert added == pytest.approx(found.risk - found.baseline_risk, abs=1e-9)


@pytest.mark.parametrize("name", NETWORKS.names())
def test_every_network_is_attributed_and_left_as_it_was(name: str):
    network, tokens = standardised(name), make_tokens()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = attribute_tokens(network, tokens)
    with torch.inference_mode():
        output = call_network(network, tokens, attention=True)
    read = list(scales_read(network))
    assert list(found.values) == read
    for scale in SCALES:
        if scale in read:
            assert found.values[scale].shape == (COUNTS[scale],)
            assert np.isfinite(found.values[scale]).all()
            assert np.abs(found.values[scale]).max() > 0
        else:
            assert found.scale_contribution[scale] == 0
    check_sums(found)
    assert found.risk == pytest.approx(float(output.risk), abs=1e-6)
    assert found.baseline == "training"
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(weight.grad is None for weight in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    again = attribute_tokens(network, tokens)
    for scale in read:
        np.testing.assert_array_equal(found.values[scale], again.values[scale])


def test_a_token_has_the_slope_of_the_risk_towards_the_average_token():
    # Without a projection the embedded tokens are the features, which can be moved from outside.
    torch.manual_seed(0)
    network = build_network("crossfusion", encoder_width=8, embed_dim=8).double().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    random = torch.Generator().manual_seed(1)
    tokens = SlideTokens(
        {
            scale: torch.randn(1, n, 8, generator=random, dtype=torch.float64)
            for scale, n in COUNTS.items()
        }
    )
    found = attribute_tokens(network, tokens)
    step = 1e-6
    for scale, bag in tokens.features.items():
        for index in (0, 2, 4):
            risks = []
            for sign in (1, -1):
                moved = bag.clone()
                moved[0, index] += sign * step * (bag[0, index] - bag.mean(dim=1)[0])
                with torch.inference_mode():
                    moved_tokens = tokens.with_features({scale: moved})
                    risks.append(float(call_network(network, moved_tokens).risk))
            slope = (risks[0] - risks[1]) / (2 * step)
            assert found.values[scale][index] == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_shapley_values_are_the_mean_over_the_orders_in_which_scales_come():
    from itertools import permutations

    network, tokens = standardised("crossfusion"), make_tokens()
    found = attribute_tokens(network, tokens)
    typical = baseline_tokens(network, tokens)
    assert found.baseline == "training"
    expected = dict.fromkeys(SCALES, 0.0)
    for order in permutations(SCALES):
        bags = typical
        with torch.inference_mode():
            before = float(call_network(network, bags).risk)
            assert before == pytest.approx(found.baseline_risk, abs=1e-6)
            for scale in order:
                bags = bags.with_features({scale: tokens.features[scale]})
                after = float(call_network(network, bags).risk)
                expected[scale] += (after - before) / 6
                before = after
    assert found.scale_contribution == pytest.approx(expected, abs=1e-6)


def test_typical_tokens_have_the_training_moments_and_tell_nothing_of_the_slide():
    network = standardised("crossfusion")
    many = SlideTokens({scale: torch.randn(1, 1024, WIDTH) for scale in SCALES})
    typical = baseline_tokens(network, many)
    for scale in SCALES:
        assert typical.features[scale].mean().item() == pytest.approx(0.3, abs=0.1)
        assert typical.features[scale].std().item() == pytest.approx(1.5, abs=0.1)
    other = attribute_tokens(network, make_tokens(seed=1))
    assert attribute_tokens(network, make_tokens()).baseline_risk == other.baseline_risk


def test_without_training_moments_the_baseline_is_the_slides_own():
    network, tokens = make_network("mean-pool"), make_tokens()
    found = attribute_tokens(network, tokens)
    assert found.baseline == "own"
    # Against the own mean the tokens of a pool add up to nothing: one's gain is the others' loss.
    for values in found.values.values():
        assert abs(values.sum()) < 1e-6 * np.abs(values).sum() + 1e-9
    check_sums(found)


def test_an_ensemble_has_the_mean_of_its_members():
    tokens = make_tokens()
    members = [standardised("crossfusion", seed) for seed in range(3)]
    bins = members[0].num_bins
    weights = torch.eye(bins + 1)[1:].expand(3, bins, bins + 1)  # the same edges for all
    found = attribute_tokens(Ensemble(members, weights).eval(), tokens)
    alone = [attribute_tokens(member, tokens) for member in members]
    for scale in SCALES:
        mean = np.mean([member.values[scale] for member in alone], axis=0)
        np.testing.assert_allclose(found.values[scale], mean, rtol=1e-3, atol=1e-6)
    check_sums(found)


def test_one_token_at_each_scale():
    tokens = SlideTokens({scale: bag[:, :1] for scale, bag in make_tokens().features.items()})
    for network in (standardised("crossfusion"), make_network("crossfusion")):
        found = attribute_tokens(network, tokens)
        assert all(np.isfinite(values).all() for values in found.values.values())
        check_sums(found)


# Bags and bundles


@pytest.fixture(scope="module")
def bag() -> FeatureBag:
    table = draw_planted_cohort(2, 1, scenario="product", side=3)
    return draw_bag(table.iloc[0].to_dict(), slide_rng(1, 0), BagOptions("product", WIDTH, 3))


class AnyBag(ModelBundle):
    """A bundle without a config, which any bag fits."""

    def check_bag(self, bag: FeatureBag) -> None:
        pass


def bundle_of(network: SurvivalNetwork) -> ModelBundle:
    return AnyBag(config=None, network=network, fingerprint="")


def test_a_bag_is_attributed_and_one_of_another_encoder_refused(bag: FeatureBag, demo_bundle):
    found = attribute(bag, bundle_of(standardised("crossfusion")))
    assert {scale: len(values) for scale, values in found.values.items()} == bag.counts()
    with pytest.raises(TiacfError, match="encoder"):
        attribute(bag, demo_bundle)


def test_weights_that_give_no_number_are_named(bag: FeatureBag):
    network = standardised("crossfusion")
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    with pytest.raises(TiacfError, match=r"SIM-0001: the attribution .* not finite") as error:
        attribute(bag, bundle_of(network))
    assert "\n" not in str(error.value)


def test_rolled_attention_sums_to_one_and_is_averaged_over_members(bag: FeatureBag):
    members = [make_network("crossfusion", seed=seed) for seed in range(2)]
    alone = [rolled_scores(bag, bundle_of(member)) for member in members]
    for scores in alone:
        assert {scale: len(values) for scale, values in scores.items()} == bag.counts()
        assert sum(values.sum() for values in scores.values()) == pytest.approx(1, abs=1e-5)
    bins = members[0].num_bins
    weights = torch.eye(bins + 1)[1:].expand(2, bins, bins + 1)
    together = rolled_scores(bag, bundle_of(Ensemble(members, weights)))
    for scale in SCALES:
        np.testing.assert_allclose(together[scale], (alone[0][scale] + alone[1][scale]) / 2)
    assert list(rolled_scores(bag, bundle_of(make_network("crossfusion-20x")))) == ["20x"]
    assert rolled_scores(bag, bundle_of(make_network("abmil"))) is None
