"""Adversaries on features, beside chance and where the optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tiacrossfusion.audit.adversaries import (
    random_sparse,
    random_universal,
    sparse,
    universal,
)
from tiacrossfusion.audit.directions import compare_directions, mean_features, site_directions
from tiacrossfusion.audit.effects import effect_of
from tiacrossfusion.audit.sites import site_shift, told_sites
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.markers.testing import Outcome
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.mean_pool import MeanPool20x
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.perturbed import Audited, risks
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.training.generator import PROTOTYPES, fit_generator

WIDTH = 24


class Linear(SurvivalNetwork):
    """A log-hazard that is linear in the mean 20x feature."""

    def __init__(self) -> None:
        super().__init__(WIDTH, 1)
        self.weight = nn.Parameter(torch.tensor([0.5, -0.2, 0.1, 0.0, -0.4, 0.3] * 4))

    def forward(self, x20: Tensor) -> SurvivalOutput:
        return SurvivalOutput.from_logits((x20.mean(dim=1) @ self.weight)[:, None])


def slides(count: int, seed: int = 0, shift: np.ndarray | None = None) -> list[SlideTokens]:
    """Slides of 40 patches whose means differ."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        x = rng.standard_normal((40, WIDTH)) + rng.standard_normal(WIDTH)
        if shift is not None:
            x = x + shift[number]
        made.append(SlideTokens({"20x": torch.from_numpy(x).float()[None]}))
    return made


def trained(network: SurvivalNetwork, sd: float = 2.0) -> Audited:
    wrapped = TrainedNetwork(network, standardise=True)
    wrapped.set_moments(torch.zeros(3, WIDTH), torch.full((3, WIDTH), sd))
    return Audited.of(wrapped, "a model")


def pooling(seed: int = 0) -> MeanPool20x:
    torch.manual_seed(seed)
    network = MeanPool20x(WIDTH, 8, 4, dropout=0.0)
    for parameter in network.parameters():
        parameter.data.mul_(2)
    return network


class TestUniversal:
    @pytest.mark.parametrize("strength", [0.05, 0.5])
    def test_of_a_linear_model_it_is_the_known_optimum(self, strength):
        model = Linear()
        audited = trained(model)
        found = universal(audited, slides(12), strength)["20x"]
        known = model.weight != 0
        best = strength * model.weight.sign()
        assert torch.equal(found[known].abs(), best[known].abs())
        assert (found[known] == best[known]).all() or (found[known] == -best[known]).all()

    def test_it_moves_slides_that_it_has_not_seen_more_than_chance(self):
        audited, unseen = trained(pooling()), slides(20, seed=5)
        before = risks(audited, unseen)
        delta = universal(audited, slides(12), 0.3)
        generator = torch.Generator().manual_seed(0)
        by_chance = [
            (risks(audited, unseen, random_universal(audited, 0.3, generator)) - before)
            .abs()
            .mean()
            for _ in range(20)
        ]
        assert (risks(audited, unseen, delta) - before).abs().mean() > max(by_chance)
        assert all(each.abs().max() <= 0.3 for each in delta.values())

    def test_strength_is_in_standard_deviations(self):
        """Twice the SD moves the features, and so the risk of a linear model, twice as far."""
        one, two = trained(Linear(), 1.0), trained(Linear(), 2.0)
        slide = slides(1)
        delta = {"20x": torch.full((WIDTH,), 0.25)}
        moved = [slide[0].features["20x"] + 0.25 * sd for sd in (1, 2)]
        for audited, x in zip((one, two), moved, strict=True):
            expected = audited.risk(SlideTokens({"20x": x}))
            assert torch.allclose(audited.risk(slide[0], delta), expected)

    def test_a_model_without_moments_is_refused(self):
        with pytest.raises(TiacfError, match="a model has no moments"):
            Audited.of(Linear(), "a model")


class TestSparse:
    def test_few_tokens_of_the_largest_attribution_are_moved(self):
        audited, slide = trained(pooling()), slides(1, seed=3)[0]
        delta = sparse(audited, slide, 0.5, 0.1)["20x"][0]
        touched = delta.abs().sum(dim=1) > 0
        assert touched.sum() == 4
        assert delta.abs().max() <= 0.5
        largest = audited.attribution(slide)["20x"].abs().topk(4).indices
        assert set(touched.nonzero()[:, 0].tolist()) <= set(largest.tolist())

    def test_it_moves_a_slide_more_than_chance(self):
        audited, slide = trained(pooling()), slides(1, seed=3)[0]
        before = float(audited.risk(slide))
        generator = torch.Generator().manual_seed(0)
        chance = max(
            abs(
                float(audited.risk(slide, random_sparse(audited, slide, 0.5, 0.1, generator)))
                - before
            )
            for _ in range(20)
        )
        moved = float(audited.risk(slide, sparse(audited, slide, 0.5, 0.1)))
        assert abs(moved - before) > chance


class TestGenerator:
    def test_it_moves_another_model_more_than_chance_without_labels(self):
        first, second = trained(pooling(0)), trained(pooling(1))
        unseen = slides(15, seed=9)
        generator = fit_generator(first, slides(12), 0.3)
        before = risks(second, unseen)
        with torch.no_grad():
            after = torch.cat([second.risk(s, generator(second, s, 0.3)) for s in unseen]).double()
        drawn = torch.Generator().manual_seed(0)
        chance = np.mean(
            [
                float(
                    (
                        torch.cat(
                            [
                                second.risk(s, random_sparse(second, s, 0.3, 1.0, drawn))
                                for s in unseen
                            ]
                        ).double()
                        - before
                    )
                    .abs()
                    .mean()
                )
                for _ in range(5)
            ]
        )
        assert float((after - before).abs().mean()) > 2 * chance

    def test_the_perturbation_is_bounded(self):
        audited = trained(pooling())
        generator = fit_generator(audited, slides(4), 0.3)
        delta = generator(audited, slides(1)[0], 0.3)["20x"]
        assert delta.shape == (1, 40, WIDTH)
        assert delta.abs().max() <= 0.3

    def test_fewer_tokens_than_prototypes_are_refused(self):
        few = [SlideTokens({"20x": torch.randn(1, 3, WIDTH)})]
        with pytest.raises(TiacfError, match=f"fewer than the {PROTOTYPES} prototypes"):
            fit_generator(trained(pooling()), few, 0.3)


class TestEffects:
    def test_a_shift_of_all_slides_alike_has_no_spread(self):
        before = np.random.default_rng(0).standard_normal(200)
        found = effect_of(before, before + 0.5 * before.std(), 0.0)
        assert found.shift.value == pytest.approx(0.5)
        assert found.spread.value == pytest.approx(0, abs=1e-9)
        assert found.rank.value == pytest.approx(1)
        expected = np.mean((before <= 0) & (before > -0.5 * before.std()))
        assert found.changed.value == pytest.approx(expected)
        assert found.changed.low < found.changed.value < found.changed.high


class TestSites:
    def test_a_planted_site_is_told_and_is_among_the_largest_directions(self):
        """A vector is added to the slides of one site, along which the model has learnt to look."""
        rng = np.random.default_rng(4)
        site = rng.random(60) < 0.5
        vector = np.array([1.0, -1.0, 0.5, 0, -1.0, 1.0] * 4)
        audited = trained(Linear())
        made = slides(60, seed=2, shift=1.5 * site[:, None] * vector)
        names = np.where(site, "A", "B")
        means = mean_features(audited, made)
        told = told_sites(means.reshape(60, -1), names)
        assert all(one.low > one.chance and one.p < 0.05 for one in told)
        found = compare_directions(
            audited, made, site_directions(means, names, 5), risks(audited, made), 0
        )
        assert {"site A", "site B"} & {one.name for one in found[:3]}

    def test_sites_that_are_none_are_told_by_chance(self):
        means = mean_features(trained(Linear()), slides(60, seed=2)).reshape(60, -1)
        p = [
            one.p
            for seed in range(3)
            for one in told_sites(means, np.random.default_rng(seed).choice(["A", "B"], 60))
        ]
        assert np.median(p) > 0.05

    def test_one_site_is_refused(self):
        with pytest.raises(TiacfError, match="1 site"):
            told_sites(np.zeros((20, 3)), np.full(20, "A"))

    def test_a_site_that_moves_the_risk_shows_at_equal_follow_up(self):
        rng = np.random.default_rng(6)
        sites = rng.choice(["A", "B"], 200)
        hazard = rng.standard_normal(200)
        times = rng.exponential(np.exp(-hazard))
        outcome = Outcome(times, np.ones(200, int), None, np.zeros((200, 0)))
        fair = site_shift(hazard, outcome, sites)
        moved = site_shift(hazard + 2 * (sites == "A"), outcome, sites)
        assert fair.p > 0.01
        assert moved.p < 1e-6
        assert moved.shifts["A"] > 0 > moved.shifts["B"]
        assert moved.c_within > moved.c_across
        assert moved.within.value > moved.ratio.value
