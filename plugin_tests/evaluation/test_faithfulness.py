"""Faithfulness of scores, on a planted cohort where the tokens that decide are known."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_line import FAILED, USAGE, assert_refused

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.cli import main
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.faithfulness import Faithfulness, auc, faithfulness, token_scores
from tiacrossfusion.evaluation.true_regions import planted_tokens
from tiacrossfusion.explain.attribution import attribute
from tiacrossfusion.models.bundle import ModelBundle, load_bundle
from tiacrossfusion.simulation.bags import BagOptions, draw_bag, draw_bags
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.planted import draw_planted_cohort, slide_rng
from tiacrossfusion.simulation.truth import SlideTruth
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.training.config import make_config
from tiacrossfusion.training.plan import Cohort
from tiacrossfusion.training.run import TrainingRun

PATIENTS, SEED, WIDTH, SIDE, AUC = 160, 5, 8, 3, 0.97


@dataclass
class Planted:
    """A trained model, its folder, and bags of patients it has not seen with their true tokens."""

    folder: Path
    bundle: ModelBundle
    bags: list[FeatureBag]
    regions: list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """CrossFusion trained for some seconds on a cohort in which the 20x burden decides."""
    table = draw_planted_cohort(PATIENTS, SEED, scenario="fine", strength=1.5, side=SIDE)
    drawn = {"encoder_width": WIDTH, "side": SIDE}
    bags = list(draw_bags(table, SEED, BagOptions("fine", auc=AUC, **drawn)))
    follow_up = table.set_index("patient")[["time", "event"]].sort_index()
    checked = CohortTable(follow_up, table[["slide", "patient"]], "months", "planted")
    settings = {
        "models": ("crossfusion",),
        "time_unit": "months",
        "recipe": "paper",
        "protocol": {"protocol": "holdout"},
        "network": {"embed_dim": 16, "attention_dropout": 0.0, "dropout": 0.0},
        "fitting": {
            "epochs": 10,
            "warm_up": 1,
            "patience": 10,
            "patients_per_step": 4,
            "learning_rate": 1e-3,
        },
    }
    folder = tmp_path_factory.mktemp("run")
    cohort = Cohort("planted", checked, dict(zip(table.slide, bags, strict=True)))
    run = TrainingRun(folder / "run", cohort, make_config(settings, "test"))
    run.fit("crossfusion")
    place = folder / "run" / "crossfusion" / "fold-0" / "bundle"
    test = set(run.plan.folds[0].test)
    rows = table.to_dict("records")
    numbers = [n for n, row in enumerate(rows) if row["patient"] in test][:12]
    regions = []
    for number in numbers:
        # The same bag with a pattern that cannot be told: they differ in the tokens that have it.
        plain = draw_bag(
            rows[number], slide_rng(SEED, number), BagOptions("fine", auc=0.5, **drawn)
        )
        regions.append(
            {
                scale: (bags[number].scales[scale].features != plain.scales[scale].features).any(
                    axis=1
                )
                for scale in ("5x", "20x")
            }
        )
    return Planted(place, load_bundle(place), [bags[number] for number in numbers], regions)


@pytest.fixture(scope="module")
def figures(planted: Planted) -> Faithfulness:
    return faithfulness(
        planted.bags, planted.bundle, regions=planted.regions, shares=(0.1, 0.2), draws=200
    )


def test_deleting_what_attribution_ranks_highest_moves_the_risk_more_than_chance(
    figures: Faithfulness,
):
    rows = [row for row in figures.deletions if (row.score, row.scale) == ("attribution", "20x")]
    assert len(rows) == 2 * 2  # ends, shares
    for row in rows:
        assert row.slides == 12
        assert row.ratio.low > 1
        assert row.ratio.value > 2
        assert row.ratio.value == pytest.approx(row.change.value / row.random.value)
        assert row.direction.high < 0 if row.end == "highest" else row.direction.low > 0


def test_attribution_finds_the_planted_tokens(figures: Faithfulness):
    found = {(row.score, row.scale): row for row in figures.regions}
    assert found["attribution", "20x"].auc.low > 0.8
    assert {score for score, _ in found} == {
        "attention 5x",
        "attention 20x",
        "attention rolled",
        "attribution",
    }


def test_the_scale_that_decides_contributes_most(planted: Planted):
    found = [attribute(bag, planted.bundle).scale_contribution for bag in planted.bags]
    spread = {scale: np.std([of_slide[scale] for of_slide in found]) for scale in SCALES}
    assert spread["20x"] > 2 * spread["5x"]
    assert spread["20x"] > 2 * spread["10x"]


def test_all_scores_of_a_network_are_judged_and_kept_as_json(
    planted: Planted, figures: Faithfulness
):
    judged = {(row.score, row.scale, row.end) for row in figures.deletions}
    names = {(score.name, score.scale) for score in token_scores(planted.bags[0], planted.bundle)}
    assert {(score, scale) for score, scale, _ in judged} == names
    assert len(names) == 4 + 3 + 3
    assert Faithfulness.model_validate_json(figures.model_dump_json()) == figures


def test_scores_that_are_blind_to_the_tokens_are_no_better_than_chance(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
):
    from tiacrossfusion.evaluation import faithfulness as module

    rng = np.random.default_rng(0)

    def blind(bag: FeatureBag, bundle: ModelBundle) -> list[module.Score]:
        n = len(bag.scales["20x"])
        return [module.Score(f"blind {k}", "20x", rng.random(n)) for k in range(20)]

    monkeypatch.setattr(module, "token_scores", blind)
    found = faithfulness(
        planted.bags, planted.bundle, regions=planted.regions, shares=(0.2,), random_deletions=8
    )
    assert 0.7 < np.mean([row.ratio.value for row in found.deletions]) < 1.4
    assert 0.48 < np.mean([region.auc.value for region in found.regions]) < 0.52


def test_a_scale_of_one_token_is_left_out(planted: Planted):
    bag = planted.bags[0]
    one = bag.scales["5x"]
    single = ScaleFeatures(one.features[:1], one.bounds[:1], one.grid[:1])
    small = FeatureBag(bag.scales | {"5x": single}, bag.provenance)
    found = faithfulness([small], planted.bundle, shares=(0.5,), draws=100)
    assert {row.scale for row in found.deletions} == {"10x", "20x"}
    assert found.regions == ()
    assert faithfulness([small], planted.bundle, shares=(0.5,), draws=100) == found
    assert "no more than a hint" in found.notes[0]
    with pytest.raises(TiacfError, match="no bag"):
        faithfulness([], planted.bundle)


def test_auc_counts_pairs():
    values = np.array([0.1, 0.4, 0.4, 0.9])
    truth = np.array([False, True, False, True])
    assert auc(values, truth) == (0.5 + 1 + 1 + 1) / 4
    assert auc(-values, truth) == pytest.approx(1 - auc(values, truth))
    assert np.isnan(auc(values, np.ones(4, bool)))


def test_planted_tokens_are_those_half_of_whose_area_shows_the_pattern(planted: Planted):
    bag = planted.bags[0]  # 20x tiles of 128 microns, 16 pixels of a map
    maps = {
        name: np.zeros((16 * 12, 16 * 12), bool)
        for name in ("tissue", "tumour", "architecture", "glands", "nuclei")
    }
    maps["nuclei"][:16, :8] = True  # half of the tile at (0, 0)
    maps["nuclei"][16:32, 32:39] = True  # less than half of that at column 2, row 1
    maps["architecture"][64:128, 64:128] = True
    truth = SlideTruth(TissueParameters(0.5, 0.5, 0.5), 0.0, 8.0, **maps)
    found = planted_tokens(bag, truth)
    assert bag.scales["20x"].grid[found["20x"]].tolist() == [[0, 0]]
    assert bag.scales["5x"].grid[found["5x"]].tolist() == [[1, 1]]


# The command


@pytest.fixture(scope="module")
def bags_folder(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    for bag in planted.bags[:3]:
        bag.save(folder / f"{bag.provenance.slide}.zarr")
    return folder


def test_the_command_writes_and_says_the_figures(
    planted: Planted, bags_folder: Path, tmp_path: Path
):
    arguments = ["--bags", bags_folder, "--model", planted.folder, "--output-path", tmp_path]
    arguments += ["--slides", "2", "--draws", "100", "--seed", "1"]
    truths = tmp_path / "truth"
    truths.mkdir()
    blank = np.zeros((192, 192), bool)
    half = blank.copy()
    half[:96] = True
    for bag in planted.bags[:3]:
        SlideTruth(TissueParameters(0.5, 0.5, 0.5), 0.0, 8.0, blank, blank, half, blank, half).save(
            truths / f"{bag.provenance.slide}.npz"
        )
    arguments += ["--truth", truths]
    done = CliRunner().invoke(main, ["evaluate", "--faithfulness", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    written = Faithfulness.model_validate_json((tmp_path / "faithfulness.json").read_text("utf-8"))
    assert (written.slides, written.draws, written.seed) == (2, 100, 1)
    assert {row.scale for row in written.regions} == {"5x", "20x"}
    with (tmp_path / "faithfulness.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(written.deletions) + len(written.regions)
    assert float(rows[0]["ratio"]) == pytest.approx(written.deletions[0].ratio.value)
    assert "attribution      highest  10% of 20x" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--faithfulness", "--model", "crossfusion-demo"], "--bags is missing"),
        (["--faithfulness", "--bags", "{bags}"], "--model is missing"),
        (["--faithfulness", "--bags", "{bags}/none", "--model", "m"], "no such file or folder"),
        (["--faithfulness", "--bags", "{empty}", "--model", "m"], "holds no bag"),
        (["--faithfulness", "--predictions", "p"], "--predictions with --faithfulness"),
        (["--predictions", "p", "--bags", "{bags}"], "--bags without --model"),
        (
            ["--faithfulness", "--bags", "{bags}", "--model", "m", "--truth", "{empty}"],
            r"holds no SIM-\d+.npz",
        ),
        (["--faithfulness", "--bags", "{bags}", "--model", "crossfusion-demo"], "encoder"),
    ],
)
def test_what_does_not_serve_is_refused_in_one_line(
    arguments: list[str], message: str, bags_folder: Path, tmp_path: Path
):
    (tmp_path / "empty").mkdir()
    filled = [text.format(bags=bags_folder, empty=tmp_path / "empty") for text in arguments]
    filled += ["--output-path", str(tmp_path / "out")]
    done = CliRunner().invoke(main, ["evaluate", *filled])
    assert_refused(done, code=FAILED if message == "encoder" else USAGE)
    assert re.search(message, done.output)


def test_weights_stay_as_they_are(planted: Planted):
    before = {key: value.clone() for key, value in planted.bundle.network.state_dict().items()}
    token_scores(planted.bags[0], planted.bundle)
    for key, value in planted.bundle.network.state_dict().items():
        assert torch.equal(value, before[key])
