"""Statistics found in closed form, training on parts of slides, and bags whose grids do not nest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.attribution import attribute_tokens
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.models.network import describe_network, network_of
from tiacrossfusion.networks.calling import call_network, input_names
from tiacrossfusion.networks.recipe import Recipe
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.simulation.bags import BagOptions, draw_bag, draw_bags, pattern_direction
from tiacrossfusion.simulation.patterns import draw_patterns
from tiacrossfusion.simulation.planted import draw_planted_cohort, slide_rng
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.config import make_config
from tiacrossfusion.training.parts import random_part
from tiacrossfusion.training.patients import patients_of
from tiacrossfusion.training.plan import Cohort
from tiacrossfusion.training.run import TrainingRun
from tiacrossfusion.training.statistics import fit_statistics

WIDTH, SIDE, SEED = 6, 4, 3


def cohort_of(scenario: str, n: int, *, strength: float = 4.0, auc: float = 0.99) -> Cohort:
    table = draw_planted_cohort(n, SEED, scenario=scenario, strength=strength, side=SIDE)
    bags = draw_bags(table, SEED, BagOptions(scenario, WIDTH, SIDE, auc))
    follow_up = table.set_index("patient")[["time", "event"]].sort_index()
    checked = CohortTable(follow_up, table[["slide", "patient"]], "months", scenario)
    return Cohort(scenario, checked, dict(zip(table.slide, bags, strict=True)))


def fitted(
    cohort: Cohort, patients: int | None = None, model: str = "mean-pool"
) -> tuple[TrainedNetwork, list[str]]:
    bags = CohortBags(cohort.sources, show_progress=False)
    training = patients_of(cohort.table, cohort.table.patients.index[:patients])
    torch.manual_seed(0)
    network = network_of(
        describe_network(
            model,
            encoder_width=WIDTH,
            num_bins=4,
            sizes={"embed_dim": 8},
            standardise=True,
            proportional_hazards=True,
            statistics=True,
        )
    )
    network.set_moments(*bags.moments([s for p in training for s in p.slides]))
    network.set_baseline(torch.full((4,), 0.1))
    return network.eval(), fit_statistics(network, bags, training, seed=1)


@pytest.mark.parametrize(
    ("scenario", "name"),
    [
        ("colocation", "20x inside 5x"),
        ("neighbour", "20x beside 5x"),
        ("middle-inside", "10x inside 5x"),
        ("rare", "rare 20x patches"),
    ],
)
def test_what_is_planted_is_found_with_its_direction(scenario, name):
    network, found = fitted(cohort_of(scenario, 160))
    assert any(line.startswith(f"{name} (") for line in found), found
    statistics = network.statistics
    assert name in statistics.kept()
    if scenario == "rare":
        along = torch.nn.functional.normalize(statistics.rare, dim=0)
        assert abs(along @ torch.from_numpy(pattern_direction("20x", WIDTH))) > 0.8


def test_nothing_is_kept_where_nothing_is_planted():
    network, found = fitted(cohort_of("product", 120, strength=0.0))
    assert found == network.statistics.kept() == []
    tokens = SlideTokens.from_bag(draw(0, "product"))
    with torch.no_grad():
        assert not network.statistics(network.standardised(tokens.inputs())).any()


def draw(number: int, scenario: str) -> FeatureBag:
    row = draw_planted_cohort(160, SEED, scenario=scenario, strength=4.0, side=SIDE)
    return draw_bag(
        row.iloc[number].to_dict(), slide_rng(SEED, number), BagOptions(scenario, WIDTH, SIDE, 0.99)
    )


def test_other_patients_change_nothing():
    whole = cohort_of("colocation", 160)
    some = set(whole.table.patients.index[:100])
    slides = whole.table.slides
    bags = {s: whole.sources[s] for s in slides.slide[slides.patient.isin(some)]}
    network, found = fitted(whole, 100)
    other, same = fitted(replace(whole, sources=bags), 100)
    assert found == same
    for name, value in network.statistics.state_dict().items():
        torch.testing.assert_close(value, other.statistics.state_dict()[name], msg=name)


def test_statistics_do_not_depend_on_the_order_of_the_tokens_nor_on_the_batch():
    network, _ = fitted(cohort_of("colocation", 160), model="nested-fusion")
    with torch.no_grad():
        network.skip.fill_(0.3)
    slides = [SlideTokens.from_bag(draw(i, "colocation")) for i in (0, 1)]
    mixed = slides[0]
    for scale, x in mixed.features.items():
        mixed = mixed.keep(scale, torch.randperm(x.shape[1]))
    with torch.no_grad():
        alone = [call_network(network, each).logits for each in (*slides, mixed)]
        together = call_network(network, SlideTokens.stack(slides)).logits
    torch.testing.assert_close(alone[2], alone[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, torch.cat(alone[:2]), atol=1e-4, rtol=1e-4)


def test_the_map_of_a_statistic_shows_the_cells_that_hold_both_patterns():
    network, _ = fitted(cohort_of("colocation", 160))
    assert set(input_names(network)) >= {"grid5", "grid10", "grid20"}
    with torch.no_grad():
        network.skip.fill_(1.0)
    z, both = [], []
    for number in range(12):
        bag = draw(number, "colocation")
        tokens = SlideTokens.from_bag(bag)
        terms = attribute_tokens(network, tokens).terms
        (values,) = (v for term, v in terms.items() if term.name.endswith("20x inside 5x"))
        row = draw_planted_cohort(160, SEED, scenario="colocation", strength=4.0, side=SIDE)
        patterns = draw_patterns(
            row.iloc[number].to_dict(), slide_rng(SEED, number), scenario="colocation", side=SIDE
        )
        cells = [tuple(cell) for cell in (patterns.grid["20x"] // 4).tolist()]
        fine = [
            patterns.has["20x"][[c == tuple(cell) for c in cells]].mean()
            for cell in patterns.grid["5x"].tolist()
        ]
        both.append(np.array(fine) * patterns.has["5x"] > 0.5)
        z.append(values)
    values, has = np.concatenate(z), np.concatenate(both)
    above = (values[has][:, None] > values[~has][None]).mean()
    assert above > 0.8  # cells that hold neither covary, too; area under the ROC curve


def test_a_bundle_with_statistics_predicts_as_trained(tmp_path: Path):
    cohort = cohort_of("colocation", 100)
    settings = {
        "time_unit": "months",
        "models": ["nested-fusion"],
        "protocol": {"folds": 2},
        "network": {"embed_dim": 8, "num_bins": 3},
        "fitting": {"epochs": 2, "warm_up": 1, "cell_share": 0.5, "scale_dropout": 0.3},
    }
    said: list[str] = []
    run = TrainingRun(tmp_path / "run", cohort, make_config(settings, "test"), say=said.append)
    run.train()
    assert sum("statistics kept: 20x inside 5x (" in line for line in said) == 2
    assert sum("needs about 300; give more --epochs" in line for line in said) == 2
    ensemble = load_bundle(tmp_path / "run" / "nested-fusion" / "ensemble")
    assert ensemble.config.architecture.statistics
    tokens = ensemble.tokens(next(iter(cohort.sources.values())))
    with torch.inference_mode():
        assert call_network(ensemble.network, tokens).risk.isfinite().all()


def test_parts_of_slides_hold_whole_families_and_at_least_one_scale():
    tokens = SlideTokens.from_bag(draw(0, "product"))
    network = network_of(
        describe_network("mean-pool", encoder_width=WIDTH, num_bins=4, sizes={}, standardise=True)
    )
    torch.manual_seed(0)
    part = random_part(tokens, network, Recipe(cell_share=0.25))
    assert part.counts() == (4, 16, 64)
    inside = {tuple(cell) for cell in (part.grid["20x"][0] // 4).tolist()}
    assert inside == {tuple(cell) for cell in part.grid["5x"][0].tolist()}
    for _ in range(20):
        part = random_part(tokens, network, Recipe(scale_dropout=0.9))
        constant = [bool((x == x[:, :1]).all()) for x in part.features.values()]
        assert not all(constant)
    assert random_part(tokens, network, Recipe()) is tokens


def test_bags_whose_grids_do_not_nest_are_refused_before_training(tmp_path: Path):
    cohort = cohort_of("product", 40)
    slide, bag = next(iter(cohort.sources.items()))
    scales = dict(bag.scales)
    lost = scales["10x"]
    scales["10x"] = ScaleFeatures(lost.features[1:], lost.bounds[1:], lost.grid[1:])
    sources = {**cohort.sources, slide: FeatureBag(scales, bag.provenance)}
    settings = {"time_unit": "months", "models": ["nested-fusion"], "protocol": {"folds": 2}}
    run = TrainingRun(
        tmp_path / "run", replace(cohort, sources=sources), make_config(settings, "test")
    )
    with pytest.raises(
        TiacfError, match=r"no nested grids, such as SIM-0001; .*mean-pool"
    ) as caught:
        run.train()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "nested-fusion").exists()
