"""`tiacf distil`, and predictions by students that read no 20x."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import assert_failed, assert_usage, tiacf
from small_training import SETTINGS

from tiacrossfusion import train
from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.encoders.encoder import Encoder
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.training.student import distillation_loss


@pytest.fixture(scope="module")
def cohort(made_once) -> Path:
    """A trained nested fusion, its bags, and its students of 5x and 10x."""

    def make(folder: Path) -> None:
        simulate_bags(folder, 30, 5, scenario="sum", side=4, encoder_width=8)
        train(
            folder / "cohort.csv",
            folder / "bags",
            folder / "run",
            config=SETTINGS,
            models=("nested-fusion", "transmil"),
        )
        result = tiacf(*asked(folder), "--output-path", folder / "students")
        assert result.exit_code == 0, result.output
        (folder / "said.txt").write_text(result.output)

    return made_once("distil", make)


def asked(cohort: Path) -> list[object]:
    return ["distil", "--teacher", teacher(cohort), "--bags", cohort / "bags"]


def teacher(cohort: Path) -> Path:
    return cohort / "run" / "nested-fusion" / "ensemble"


def coarse_bag(cohort: Path, number: int = 0) -> tuple[FeatureBag, FeatureBag]:
    bag = FeatureBag.load(sorted((cohort / "bags").iterdir())[number])
    return bag, FeatureBag({s: bag.scales[s] for s in ("5x", "10x")}, bag.provenance)


def test_the_students_say_who_taught_them_and_what_they_read(cohort):
    for way in ("trained", "closed"):
        bundle = load_bundle(cohort / "students" / way)
        assert bundle.scales == ("5x", "10x")
        taught = bundle.config.taught_by
        assert taught.name == "nested-fusion-ensemble"
        assert taught.fingerprint == load_bundle(teacher(cohort)).fingerprint
        assert taught.way == way
        assert "Student of nested-fusion-ensemble" in bundle.config.card.description
    table = pd.read_csv(cohort / "students" / "distillation.csv")
    assert len(table) == 5
    assert np.corrcoef(table.risk_teacher, table.risk_closed)[0, 1] > 0.8
    said = (cohort / "said.txt").read_text()
    assert "25 slides taught; on 5 others" in said


@pytest.mark.parametrize("way", ["trained", "closed"])
def test_a_student_needs_no_20x(cohort, way):
    """20x tokens in a bag change nothing, and their absence neither."""
    bundle = load_bundle(cohort / "students" / way)
    whole, coarse = coarse_bag(cohort)
    with torch.no_grad():
        risks = [
            float(call_network(bundle.network, bundle.tokens(b)).risk) for b in (whole, coarse)
        ]
    assert risks[0] == risks[1]


def test_where_10x_tells_the_means_the_closed_student_is_its_teacher(cohort):
    """With coefficients that are true, the teacher's hazards come out."""
    teaching = load_bundle(teacher(cohort))
    student = load_bundle(cohort / "students" / "closed").network
    bag, _ = coarse_bag(cohort)
    tokens = teaching.tokens(bag)
    pools = teaching.network.family_sums(tokens.inputs())
    told = [pool for pool in pools if pool.reads == "20x"]
    per_token = torch.cat([pool.sums.sum(0) / len(bag.scales[pool.scale]) for pool in told])
    student.coefficients.zero_()
    student.coefficients[0] = per_token
    with torch.no_grad():
        found, wanted = (call_network(net, tokens).hazards for net in (student, teaching.network))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("way", ["trained", "closed"])
def test_maps_are_on_10x_where_nothing_finer_was_read(cohort, tmp_path, way):
    _, coarse = coarse_bag(cohort)
    (tmp_path / "bags").mkdir()
    coarse.save(tmp_path / "bags" / "one.zarr")
    result = tiacf(
        *("predict", "--bags", tmp_path / "bags", "--model", cohort / "students" / way),
        *("--output-path", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output
    row = pd.read_csv(tmp_path / "out" / "predictions.csv").iloc[0]
    assert row.risk_group in ("low", "high")
    document = json.loads((tmp_path / "out" / "one.geojson").read_text())
    assert document["tiacrossfusion"]["tiles"] == "10x"
    tiles = [f for f in document["features"] if f["properties"]["objectType"] == "tile"]
    assert len(tiles) == len(coarse.scales["10x"])
    assert "Attribution total" in tiles[0]["properties"]["measurements"]
    assert not json.loads((tmp_path / "out" / "one_10x.geojson").read_text())["features"]
    assert (tmp_path / "out" / "one_attention.png").exists()


def test_of_a_slide_no_20x_patch_is_encoded(cohort, demo_bundle, simulated, tmp_path, monkeypatch):
    """The demo model's encoder and a student that was made for its features."""
    from tiacrossfusion.models.bundle import save_bundle
    from tiacrossfusion.models.network import describe_network, network_of

    config = demo_bundle.config
    architecture = describe_network(
        "nested-fusion-5x-10x",
        encoder_width=config.encoder.width,
        num_bins=config.architecture.num_bins,
        sizes={"embed_dim": 8},
    )
    torch.manual_seed(0)
    save_bundle(
        tmp_path / "student",
        config.model_copy(update={"architecture": architecture, "members": ()}),
        network_of(architecture),
    )
    encoded = []
    whole = Encoder.encode_stream

    def counted(self, images):
        for made in whole(self, images):
            encoded.append(len(made))
            yield made

    monkeypatch.setattr(Encoder, "encode_stream", counted)
    result = tiacf(
        *("predict", "--img-input", simulated / "high.svs", "--model", tmp_path / "student"),
        *("--output-path", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output
    row = pd.read_csv(tmp_path / "out" / "predictions.csv").iloc[0]
    assert row.patches_10x > row.patches_5x > 0
    assert not row.patches_20x > 0
    assert sum(encoded) == row.patches_5x + row.patches_10x


def test_the_loss_is_least_at_the_teachers_hazards():
    torch.manual_seed(0)
    taught = torch.rand(20, 4)
    least = distillation_loss(taught, taught)
    for _ in range(10):
        assert (distillation_loss(torch.rand(20, 4), taught) >= least).all()


def test_a_feature_that_hardly_varies_does_no_harm(cohort, tmp_path):
    """Its component is divided by its SD, which float16 could not hold."""
    rng = np.random.default_rng(0)
    for path in sorted((cohort / "bags").iterdir()):
        bag, scales = FeatureBag.load(path), {}
        for scale, tokens in bag.scales.items():
            features = tokens.features.copy()
            features[:, 0] = 2e-6 * rng.standard_normal(len(features))
            scales[scale] = ScaleFeatures(features, tokens.bounds, tokens.grid)
        FeatureBag(scales, bag.provenance).save(tmp_path / "bags" / path.name)
    result = tiacf(*asked(cohort), "--bags", tmp_path / "bags", "--output-path", tmp_path / "out")
    assert result.exit_code == 0, result.output
    student = load_bundle(tmp_path / "out" / "closed").network
    assert student.directions.abs().max() > 65504
    assert pd.read_csv(tmp_path / "out" / "distillation.csv").notna().all(axis=None)


class TestRefused:
    def test_a_model_that_does_not_pool_has_no_closed_student(self, cohort, tmp_path):
        model = cohort / "run" / "transmil" / "ensemble"
        result = tiacf(*asked(cohort), "--teacher", model, "--output-path", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert "no student in closed form" in result.output
        assert (tmp_path / "out" / "trained" / "config.json").exists()
        assert not (tmp_path / "out" / "closed").exists()

    def test_scales_that_are_none(self, cohort, tmp_path):
        for scales in ("20x", "10x", "5x,7x", ""):
            result = tiacf(*asked(cohort), "--scales", scales, "--output-path", tmp_path / "out")
            assert_usage(result, "--scales")
        assert not (tmp_path / "out").exists()

    def test_a_teacher_that_reads_no_more(self, cohort, tmp_path):
        student = cohort / "students" / "trained"
        result = tiacf(*asked(cohort), "--teacher", student, "--output-path", tmp_path / "out")
        assert_usage(result, "saves nothing")

    def test_bags_of_another_encoder(self, cohort, tmp_path):
        bags = tmp_path / "bags"
        shutil.copytree(cohort / "bags", bags)
        path = sorted(bags.iterdir())[2]
        bag = FeatureBag.load(path)
        encoder = bag.provenance.encoder.model_copy(update={"name": "another"})
        made = bag.provenance.model_copy(update={"encoder": encoder})
        FeatureBag(bag.scales, made).save(path)
        result = tiacf(*asked(cohort), "--bags", bags, "--output-path", tmp_path / "out")
        assert_failed(result, path.stem, "encoder name = another")

    def test_a_teacher_by_name_whose_encoder_is_not_that_of_the_bags(self, cohort, tmp_path):
        result = tiacf(
            *asked(cohort), "--teacher", "nested-demo", "--output-path", tmp_path / "out"
        )
        assert_failed(result, "made with encoder", "the model needs")

    def test_bags_that_lack_20x(self, cohort, tmp_path):
        bags = tmp_path / "bags"
        shutil.copytree(cohort / "bags", bags)
        path = sorted(bags.iterdir())[2]
        coarse_bag(cohort, 2)[1].save(path)
        result = tiacf(*asked(cohort), "--bags", bags, "--output-path", tmp_path / "out")
        assert_failed(result, path.stem, "20x")

    def test_too_few_bags(self, cohort, tmp_path):
        (tmp_path / "bags").mkdir()
        for path in sorted((cohort / "bags").iterdir())[:4]:
            shutil.copytree(path, tmp_path / "bags" / path.name)
        result = tiacf(
            *asked(cohort), "--bags", tmp_path / "bags", "--output-path", tmp_path / "out"
        )
        assert_failed(result, "4 bags", "10 or more")


def test_unlabelled_slides_teach_too(cohort, tmp_path):
    bags, more = tmp_path / "bags", tmp_path / "more"
    for number, path in enumerate(sorted((cohort / "bags").iterdir())):
        for folder, wanted in ((bags, number < 18), (more, number >= 16)):
            if wanted:
                shutil.copytree(path, folder / path.name)
    result = tiacf(
        *(*asked(cohort), "--bags", bags, "--unlabelled", more, "--scales", "5x"),
        *("--output-path", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output
    assert "2 unlabelled slides are in --bags too" in result.output
    assert "25 slides taught" in result.output
    assert load_bundle(tmp_path / "out" / "closed").scales == ("5x",)
    tokens = SlideTokens.from_bag(coarse_bag(cohort)[1])
    for way in ("trained", "closed"):
        network = load_bundle(tmp_path / "out" / way).network
        assert call_network(network, tokens.to("cpu", torch.float32)).hazards.isfinite().all()
