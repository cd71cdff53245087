"""A user's own network is one file: registered, in a bundle, predicted with, attributed."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.explain.attribution import attribute, attribute_tokens
from tiacrossfusion.explain.rolled import rolled_scores
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.models.bundle import ModelBundle, load_bundle, make_ensemble, save_bundle
from tiacrossfusion.models.config import BundleConfig, ModelCard
from tiacrossfusion.models.network import describe_network, network_of
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_network, input_names, required_inputs
from tiacrossfusion.networks.registry import NETWORKS, model_names
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.simulation.bags import BagOptions, draw_bag
from tiacrossfusion.simulation.planted import draw_planted_cohort, slide_rng
from tiacrossfusion.survival import TimeBins

WIDTH, BINS = 6, TimeBins(edges=(0, 1, 2, 3), unit="years")


@pytest.fixture
def own(monkeypatch) -> str:
    """The name that the example registers its network under."""
    path = Path(__file__).parents[2] / "examples" / "own_network.py"
    spec = importlib.util.spec_from_file_location("own_network", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_network", module)
    monkeypatch.setattr(NETWORKS, "_registered", {})
    spec.loader.exec_module(module)
    return "placed-pool"


@pytest.fixture(scope="module")
def bag() -> FeatureBag:
    row = draw_planted_cohort(2, 1, scenario="product", side=3).iloc[0].to_dict()
    return draw_bag(row, slide_rng(1, 0), BagOptions("product", WIDTH, 3))


def config_of(bag: FeatureBag, name: str, **flags: object) -> BundleConfig:
    members = flags.pop("members", ())
    sizes = {"embed_dim": 8, "num_heads": 2}
    return BundleConfig(
        name="own",
        version="1",
        architecture=describe_network(name, encoder_width=WIDTH, num_bins=3, sizes=sizes, **flags),
        sampling=bag.provenance.sampling,
        encoder=bag.provenance.encoder,
        time_bins=BINS,
        members=members,
        risk_reference=None,
        card=ModelCard(description="", cohort="", licence="", notice="research"),
    )


def fresh(config: BundleConfig) -> SurvivalNetwork:
    network = network_of(config.architecture)
    if isinstance(network, TrainedNetwork):
        network.set_moments(torch.zeros(3, WIDTH), torch.full((3, WIDTH), 0.5))
        if config.architecture.proportional_hazards:
            network.set_baseline(torch.tensor([0.1, 0.2, 0.4]))
    return network


@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("standardise", [False, True])
def test_it_is_kept_in_a_bundle_predicted_with_and_attributed(
    own, bag, tmp_path, standardise, proportional
):
    flags = {"standardise": standardise, "proportional_hazards": standardise and proportional}
    config = config_of(bag, own, **flags)
    assert config.architecture.package == "own_network.py"
    assert config.architecture.sizes == {"embed_dim": 8, "num_covariates": 0}
    network = fresh(config)
    save_bundle(tmp_path, config, network)
    bundle = load_bundle(tmp_path)
    assert bundle.config == config
    assert input_names(bundle.network) == ("x20", "grid20", "covariates")
    assert required_inputs(bundle.network) == ("x20", "grid20")

    prediction = predict_bag(bag, bundle)
    expected = call_network(network.eval(), bundle.tokens(bag))
    assert prediction.risk == pytest.approx(float(expected.risk.detach()), abs=1e-6)
    assert prediction.hazards.shape == (3,)
    assert prediction.attention == {}
    assert rolled_scores(bag, bundle) is None

    found = attribute(bag, bundle)
    assert list(found.values) == ["20x"]
    assert np.abs(found.values["20x"]).max() > 0
    assert found.baseline == ("training" if standardise else "own")
    assert found.scale_contribution["20x"] == pytest.approx(found.risk - found.baseline_risk)


def test_attribution_at_the_features_is_their_slope_with_positions_kept(own, bag):
    network = network_of(config_of(bag, own).architecture).double().eval()
    tokens = SlideTokens.from_bag(bag).to("cpu", torch.float64)
    found = attribute_tokens(network, tokens)
    x = tokens.features["20x"]
    for index in (0, 3):
        step = torch.zeros_like(x)
        step[0, index] = 1e-6 * (x[0, index] - x.mean(dim=1)[0])
        up, down = (
            call_network(network, tokens.with_features({"20x": x + sign * step})).risk.item()
            for sign in (1, -1)
        )
        assert found.values["20x"][index] == pytest.approx((up - down) / 2e-6, rel=1e-4)


def test_positions_and_covariates_reach_it(own):
    network = network_of(
        describe_network(own, encoder_width=WIDTH, num_bins=3, sizes={"num_covariates": 2})
    )
    grid = torch.stack([torch.arange(4), torch.arange(4) ** 2], dim=1)[None]
    x20, age = torch.randn(1, 4, WIDTH), torch.tensor([[0.3, -1.0]])
    tokens = SlideTokens({"20x": x20}, {"20x": grid}, age)
    first = call_network(network, tokens).logits
    assert torch.equal(first, network(x20, grid, age).logits)
    turned = SlideTokens({"20x": x20}, {"20x": grid.flip(1)}, age)
    assert not torch.equal(call_network(network, turned).logits, first)
    older = SlideTokens({"20x": x20}, {"20x": grid}, age + 1)
    assert not torch.equal(call_network(network, older).logits, first)


def test_a_bundle_names_its_covariates_and_takes_raw_values(own, bag):
    config = config_of(bag, own, standardise=True, covariates=("age", "stage"))
    sizes = config.architecture.sizes | {"num_covariates": 2}
    config = config.model_copy(
        update={"architecture": config.architecture.model_copy(update={"sizes": sizes})}
    )
    network = fresh(config).eval()
    network.set_covariate_moments(torch.tensor([60.0, 2.0]), torch.tensor([10.0, 0.0]))
    bundle = ModelBundle(config, network, "")
    values = bundle.covariates_of({"stage": 3, "age": 75.0, "sex": 1})
    assert values.tolist() == [75.0, 3.0]
    tokens = bundle.tokens(bag, values)
    by_hand = (bundle.tokens(bag, values).features["20x"] - network.mean[2]) / network.sd[2]
    inner = network.network.plain(by_hand, tokens.grid["20x"], torch.tensor([[1.5, 1.0]]))
    torch.testing.assert_close(call_network(network, tokens).logits, inner)
    assert np.abs(attribute(bag, bundle, values).values["20x"]).max() > 0
    for refused, words in (
        (lambda: bundle.covariates_of({"age": 75.0}), "needs the covariates stage;"),
        (lambda: bundle.covariates_of({"age": np.nan, "stage": 1}), "needs the covariates age;"),
        (lambda: bundle.tokens(bag), "no covariates, which the network needs"),
        (lambda: bundle.tokens(bag, values[:1]), "give one number for each of age, stage"),
    ):
        with pytest.raises(TiacfError, match=words) as refusal:
            refused()
        assert "\n" not in str(refusal.value)


def test_an_ensemble_of_it_passes_its_inputs_on(own, bag, tmp_path):
    config = config_of(bag, own, standardise=True, members=(BINS, BINS))
    save_bundle(tmp_path, config, make_ensemble([fresh(config) for _ in range(2)], config))
    bundle = load_bundle(tmp_path)
    alone = [
        attribute_tokens(member, bundle.tokens(bag)).values["20x"]
        for member in bundle.network.members
    ]
    together = attribute(bag, bundle).values["20x"]
    np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-3, atol=1e-6)
    assert predict_bag(bag, bundle).member_risks.shape == (2,)


def test_what_a_bag_lacks_is_one_line(own, bag):
    config = config_of(bag, own)
    bundle = ModelBundle(config, network_of(config.architecture), "")
    imported = bag.provenance.model_copy(update={"imported": "h5"})
    without = {s: replace(found, grid=None) for s, found in bag.scales.items()}
    for lacking, words in (
        (FeatureBag(without, imported), "no positions on the grid at 20x, which the network needs"),
        (FeatureBag(bag.scales | {"20x": empty(bag.scales["20x"])}, imported), "no patches at 20x"),
    ):
        with pytest.raises(TiacfError, match=words) as refusal:
            bundle.tokens(lacking)
        assert str(refusal.value).startswith(f"bag of {bag.provenance.slide}: ")
        assert "\n" not in str(refusal.value)
    bundle.tokens(FeatureBag(bag.scales | {"5x": empty(bag.scales["5x"])}, imported))  # is not read


def empty(scale: ScaleFeatures) -> ScaleFeatures:
    return ScaleFeatures(scale.features[:0], scale.bounds[:0], scale.grid[:0])


def test_a_bundle_without_its_file_names_it(own, bag, tmp_path, monkeypatch):
    config = config_of(bag, own)
    save_bundle(tmp_path, config, network_of(config.architecture))
    assert json.loads((tmp_path / "config.json").read_text())["architecture"]["package"]
    monkeypatch.setattr(NETWORKS, "_registered", {})
    with pytest.raises(
        TiacfError, match=r"placed-pool: comes from own_network\.py, which"
    ) as refusal:
        load_bundle(tmp_path)
    assert "\n" not in str(refusal.value)


def test_names_are_those_of_networks_and_registering_a_built_in_one_is_refused(own):
    assert own in model_names()
    with pytest.raises(UsageError, match="abmil: is a built-in network"):
        NETWORKS.register("abmil")


def test_constructors_that_do_not_fit_are_one_line(own):
    @NETWORKS.register("fixed")
    class Fixed(nn.Module):
        def forward(self, x20: Tensor) -> Tensor:
            return x20.mean(dim=1)

    with pytest.raises(UsageError, match="its constructor takes no encoder_width and no num_bins"):
        describe_network("fixed", encoder_width=6, num_bins=4, sizes={})

    @NETWORKS.register("failing")
    class Failing(nn.Module):
        def __init__(self, encoder_width, num_bins):
            raise ValueError("no\nway")

    described = describe_network("failing", encoder_width=6, num_bins=4, sizes={})
    with pytest.raises(UsageError, match=r"failing cannot be built .*no way") as refusal:
        network_of(described)
    assert "\n" not in str(refusal.value)


def test_a_plain_network_of_any_scales_is_attributed(own):
    @NETWORKS.register("two-scales")
    class TwoScales(nn.Module):
        def __init__(self, encoder_width: int, num_bins: int) -> None:
            super().__init__()
            self.head = nn.Linear(2 * encoder_width, num_bins)

        def forward(self, x5: Tensor, x20: Tensor) -> Tensor:
            return self.head(torch.cat([x5.mean(dim=1), x20.mean(dim=1)], dim=1))

    described = describe_network("two-scales", encoder_width=6, num_bins=4, sizes={})
    tokens = SlideTokens({s: torch.randn(1, n, 6) for s, n in (("5x", 2), ("10x", 3), ("20x", 7))})
    found = attribute_tokens(network_of(described).eval(), tokens)
    assert {scale: len(values) for scale, values in found.values.items()} == {"5x": 2, "20x": 7}
    assert found.scale_contribution["10x"] == 0
    total = sum(found.scale_contribution.values())
    assert total == pytest.approx(found.risk - found.baseline_risk, abs=1e-6)
