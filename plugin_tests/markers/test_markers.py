"""Kinds of tissue: their layout, their tests, and `tiacf markers`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import assert_failed, assert_usage, tiacf
from lifelines import CoxPHFitter
from lifelines.statistics import logrank_test

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.markers.layout import layout_of
from tiacrossfusion.markers.testing import Outcome, share_tests
from tiacrossfusion.markers.vocabulary import choose_number, fit_centres, match
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.simulation.fields import smooth_field
from tiacrossfusion.simulation.follow_up import follow_up
from tiacrossfusion.survival.score_test import added_scores, cox_score

KINDS, SIDE, WIDTH = 4, 12, 8


def lattice(side: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(side * side), side)
    return np.stack([columns, rows], 1).astype(np.int32)


def tissue(rng: np.random.Generator, side: int = 20) -> np.ndarray:
    """Three kinds of tissue in smooth areas, (side * side,)."""
    return np.argmax([smooth_field(rng, (side, side), 4.0).ravel() for _ in range(3)], axis=0)


class TestLayout:
    def test_a_turned_mirrored_or_reordered_slide_lies_the_same(self):
        rng = np.random.default_rng(0)
        labels, grid = tissue(rng), lattice(20)
        kept = rng.random(len(labels)) < 0.8
        labels, grid = labels[kept], grid[kept]
        whole = layout_of(labels, grid, 3)
        order = rng.permutation(len(labels))
        for other in (
            layout_of(labels[order], grid[order], 3),
            layout_of(labels, np.stack([19 - grid[:, 1], grid[:, 0]], 1), 3),
            layout_of(labels, np.stack([19 - grid[:, 0], grid[:, 1] + 100], 1), 3),
        ):
            for name in ("counts", "moran", "neighbours", "closeness"):
                np.testing.assert_allclose(getattr(other, name), getattr(whole, name), atol=1e-12)

    def test_morans_i_is_its_definition(self):
        rng = np.random.default_rng(1)
        labels, grid = tissue(rng, 9), lattice(9)
        near = np.abs(grid[:, None] - grid[None]).max(axis=2) == 1
        for marker in range(3):
            x = (labels == marker) - (labels == marker).mean()
            expected = len(x) / near.sum() * (x @ near @ x) / (x @ x)
            found = layout_of(labels, grid, 3)
            assert found.moran[marker] == pytest.approx(expected)
            own = near[labels == marker]
            assert found.neighbours[marker] == pytest.approx(
                own[:, labels == marker].sum() / own.sum()
            )

    def test_closeness_tells_beside_from_away(self):
        labels = np.zeros(400, int)
        grid = lattice(20)
        labels[grid[:, 0] < 3] = 1
        labels[(grid[:, 0] == 3)] = 2  # beside kind 1
        labels[grid[:, 0] == 19] = 3  # far away
        closeness = layout_of(labels, grid, 4).closeness
        assert closeness[2, 1] < -1 < 0.5 < closeness[3, 1]
        assert np.isnan(np.diag(closeness)).all()

    def test_what_is_absent_is_unknown(self):
        found = layout_of(np.zeros(9, int), lattice(3), 2)
        assert found.counts.tolist() == [9, 0]
        assert np.isnan(found.moran).all()
        assert np.isnan(found.neighbours[1])
        assert np.isnan(found.closeness).all()
        assert np.isnan(layout_of(np.zeros(9, int), None, 2).neighbours).all()


def follow(rng: np.random.Generator, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    exponential = rng.standard_exponential
    time, event = follow_up(eta, exponential(len(eta)), exponential(len(eta)), censored_share=0.3)
    return np.asarray(time, float), np.asarray(event, int)


class TestScores:
    def test_of_one_covariate_alone_it_is_coxs_score_test(self):
        rng = np.random.default_rng(2)
        x = rng.standard_normal((80, 3))
        time, event = follow(rng, 0.5 * x[:, 0])
        found = added_scores(x, np.zeros((80, 0)), time, event)
        for column, z in enumerate(found):
            score, information = cox_score(time, event, x[:, column])
            assert z == pytest.approx(score / np.sqrt(information))
        groups = (x[:, 0] > 0).astype(float)
        p = logrank_test(
            time[groups == 1], time[groups == 0], event[groups == 1], event[groups == 0]
        )
        z = added_scores(groups[:, None], np.zeros((80, 0)), time, event)[0]
        assert z**2 == pytest.approx(p.test_statistic, rel=0.02)

    def test_adjusted_it_is_close_to_lifelines_wald_test(self):
        rng = np.random.default_rng(3)
        beside = rng.standard_normal((400, 2))
        x = 0.7 * beside[:, 0] + rng.standard_normal(400)
        time, event = follow(rng, beside[:, 0] + 0.15 * x)
        frame = pd.DataFrame(
            {"time": time, "event": event, "x": x, "a": beside[:, 0], "b": beside[:, 1]}
        )
        wald = CoxPHFitter().fit(frame, "time", "event").summary.loc["x", "z"]
        assert added_scores(x[:, None], beside, time, event)[0] == pytest.approx(wald, rel=0.05)

    def test_what_follows_from_the_terms_is_not_tested(self):
        rng = np.random.default_rng(4)
        beside = rng.standard_normal((60, 2))
        time, event = follow(rng, beside[:, 0])
        candidates = np.column_stack([beside @ [1.0, -2.0], np.ones(60), rng.standard_normal(60)])
        found = added_scores(candidates, beside, time, event)
        assert np.isnan(found[:2]).all()
        assert np.isfinite(found[2])


class TestShares:
    def test_one_marker_that_grows_makes_no_other_pass(self):
        """Shares sum to 1, so all others shrink with it."""
        passed = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            shares = rng.dirichlet([4, 2, 1, 1, 0.5], size=200)
            counts = np.stack([rng.multinomial(2000, one) for one in shares])
            time, event = follow(rng, 0.8 * (shares[:, 0] - 0.5) / shares[:, 0].std())
            outcome = Outcome(time, event, None, np.zeros((200, 0)))
            found = share_tests(counts, outcome, 0.05)
            assert found.found[0] == 0
            # The complement would have passed alone.
            assert (found.alone[1:] < 0.05).any()
            passed.append(len(found.found) - 1)
        assert sum(passed) <= 1

    def test_nothing_planted_passes_at_the_stated_rate(self):
        passed = 0
        for seed in range(60):
            rng = np.random.default_rng([seed, 1])
            counts = np.stack(
                [rng.multinomial(500, one) for one in rng.dirichlet([3, 2, 1, 1, 0.5], size=100)]
            )
            time, event = follow(rng, np.zeros(100))
            outcome = Outcome(time, event, None, np.zeros((100, 0)))
            passed += bool(share_tests(counts, outcome, 0.05).found)
        assert passed <= 8  # more happens in 1 of 200 times at a rate of .05

    def test_a_confounder_is_adjusted_for(self):
        rng = np.random.default_rng(5)
        stage = rng.standard_normal(300)
        share = 1 / (1 + np.exp(-stage - 0.5 * rng.standard_normal(300)))
        counts = np.stack([rng.multinomial(1000, [s, 0.6 * (1 - s), 0.4 * (1 - s)]) for s in share])
        time, event = follow(rng, stage)
        without = share_tests(counts, Outcome(time, event, None, np.zeros((300, 0))), 0.05)
        adjusted = share_tests(counts, Outcome(time, event, None, stage[:, None]), 0.05)
        assert without.found
        assert not adjusted.found


class TestVocabulary:
    def test_the_number_of_kinds_is_found(self):
        rng = np.random.default_rng(6)
        centres = 8 * np.eye(5, 6)
        points = (centres[rng.integers(5, size=3000)] + rng.standard_normal((3000, 6))).astype("f4")
        number, tried = choose_number(points, np.arange(3000) % 30, (3, 4, 5, 6, 8), rng)
        assert number == 5
        assert max(one.agreement for one in tried) > 0.95

    def test_clusters_are_matched_whatever_their_order(self):
        rng = np.random.default_rng(7)
        points = (8 * np.eye(4)[rng.integers(4, size=800)] + rng.standard_normal((800, 4))).astype(
            "f4"
        )
        centres = fit_centres(points, 4, 0)
        turned = centres[[2, 0, 3, 1]]
        labels = [((points[:, None] - c) ** 2).sum(2).argmin(1) for c in (centres, turned)]
        np.testing.assert_allclose(turned[match(*labels, 4)], centres)


@pytest.fixture(scope="module")
def planted(made_once) -> Path:
    """Bags of 60 patients with four kinds of tissue, and follow-up by the share of the rarest."""

    def make(folder: Path) -> None:
        simulate_bags(folder / "template", 2, 1, scenario="coarse", side=3, encoder_width=WIDTH)
        made = FeatureBag.load(next((folder / "template" / "bags").iterdir())).provenance
        rng = np.random.default_rng(8)
        centres = 6 * np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0][:KINDS]
        (folder / "bags").mkdir()
        grid = lattice(SIDE)
        bounds = np.concatenate([grid, grid + 1], 1).astype(np.int64) * 256
        rare = []
        for number in range(60):
            share = rng.dirichlet([4, 3, 2, 1])
            labels = rng.choice(KINDS, SIDE**2, p=share)
            features = centres[labels] + rng.standard_normal((SIDE**2, WIDTH))
            rare.append((labels == 3).mean())
            size = (SIDE * 256 - 100, SIDE * 256)
            own = made.model_copy(update={"slide": f"S{number:02d}", "dimensions": size})
            scales = {"20x": ScaleFeatures(features.astype(np.float16), bounds, grid)}
            FeatureBag(scales, own).save(folder / "bags" / f"S{number:02d}.zarr")
        eta = 1.2 * (np.array(rare) - np.mean(rare)) / np.std(rare)
        time, event = follow(rng, eta)
        names = [f"S{number:02d}" for number in range(60)]
        table = pd.DataFrame({"slide": names, "patient": names, "time": time, "event": event})
        table["age"] = rng.normal(60, 8, 60).round()
        table.to_csv(folder / "table.csv", index=False)

    return made_once("markers", make)


def run(planted: Path, out: Path, *more: object):
    return tiacf(
        *("markers", "--bags", planted / "bags", "--table", planted / "table.csv"),
        *("--output-path", out, *more),
    )


class TestCommand:
    def test_the_planted_marker_is_found_and_shown(self, planted, tmp_path):
        result = run(planted, tmp_path / "out", "--covariates", "age", "--folds", "3")
        assert result.exit_code == 0, result.output
        assert "Marker 4 (more of it goes with shorter survival)" in result.output
        table = pd.read_csv(tmp_path / "out" / "markers.csv", index_col="marker")
        assert table.found.tolist() == [False, False, False, True]
        assert table.hr_low[4] > 1
        assert table.hr_held_out[4] > 1
        assert table.folds_found[4] >= 2
        patients = pd.read_csv(tmp_path / "out" / "patients.csv")
        shares = patients.filter(like="share_")
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
        page = (tmp_path / "out" / "report.html").read_text()
        assert "Adjusted for age" in page
        assert "http" not in page.replace("http-equiv", "")
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert {"forest.png", "kaplan_meier_4.png", "map_4.png", "markers.safetensors"} <= names

    def test_maps_have_an_annotation_of_own_class_for_each_marker(self, planted, tmp_path):
        run(planted, tmp_path, "--number", "4", "--folds", "2")
        counts = pd.read_csv(tmp_path / "slides.csv", index_col="slide")
        content = json.loads((tmp_path / "slides" / "S07.geojson").read_text())
        share = {
            feature["properties"]["classification"]["name"]: feature["properties"]["measurements"]
            for feature in content["features"]
        }
        for marker in range(1, 5):
            measured = share.get(f"tiacrossfusion marker {marker}", {"Share": 0})["Share"]
            assert measured == pytest.approx(counts.loc["S07", f"share_{marker}"], abs=1e-5)
        right = max(
            point[0]
            for feature in content["features"]
            for polygon in (
                feature["geometry"]["coordinates"]
                if feature["geometry"]["type"] == "MultiPolygon"
                else [feature["geometry"]["coordinates"]]
            )
            for ring in polygon
            for point in ring
        )
        assert right == SIDE * 256 - 100  # clipped to the slide

    def test_the_same_seed_gives_the_same_files(self, planted, tmp_path):
        for name in "ab":
            run(planted, tmp_path / name, "--number", "4", "--folds", "2")
        for name in ("markers.csv", "arrangement.csv", "typical_patches.csv", "forest.png"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_the_order_of_rows_and_patches_does_not_matter(self, planted, tmp_path):
        run(planted, tmp_path / "a", "--number", "4", "--folds", "2")
        other = tmp_path / "other"
        shutil.copytree(planted, other)
        table = pd.read_csv(other / "table.csv")
        table.iloc[::-1].to_csv(other / "table.csv", index=False)
        run(other, tmp_path / "b", "--number", "4", "--folds", "2")
        first, second = (pd.read_csv(tmp_path / name / "markers.csv") for name in "ab")
        pd.testing.assert_frame_equal(first, second)

    def test_slides_of_one_patient_are_pooled(self, planted, tmp_path):
        table = pd.read_csv(planted / "table.csv")
        table["patient"] = [f"P{i // 2}" for i in range(len(table))]
        first = table.groupby("patient")[["time", "event"]].transform("first")
        table[["time", "event"]] = first
        table.to_csv(tmp_path / "two.csv", index=False)
        out = tmp_path / "out"
        run(planted, out, "--table", tmp_path / "two.csv", "--number", "4", "--folds", "2")
        slides = pd.read_csv(out / "slides.csv", index_col="slide")
        patients = pd.read_csv(out / "patients.csv", index_col="patient")
        assert len(patients) == 30
        mean = slides.loc[["S00", "S01"], "share_2"].mean()  # of equally many patches
        assert patients.loc["P0", "share_2"] == pytest.approx(mean, abs=1e-5)


class TestRefused:
    def test_too_few_patients(self, planted, tmp_path):
        table = pd.read_csv(planted / "table.csv").head(20)
        table.to_csv(tmp_path / "few.csv", index=False)
        result = run(planted, tmp_path / "out", "--table", tmp_path / "few.csv")
        assert_failed(result, "20 patients", "30 patients")

    def test_a_scale_that_the_bags_lack(self, planted, tmp_path):
        assert_failed(run(planted, tmp_path / "out", "--scale", "5x"), "no 5x patches", "--scale")

    def test_a_false_discovery_rate_of_1(self, planted, tmp_path):
        assert_usage(run(planted, tmp_path / "out", "--level", "1"), "--level", "between 0 and 1")

    def test_slides_that_are_not_there_before_anything_is_computed(self, planted, tmp_path):
        result = run(planted, tmp_path / "out", "--slides", tmp_path / "absent")
        assert_usage(result, "absent")
        assert not (tmp_path / "out").exists()

    def test_features_that_are_all_the_same(self, planted, tmp_path):
        bags = tmp_path / "bags"
        bags.mkdir()
        for path in sorted((planted / "bags").iterdir()):
            bag = FeatureBag.load(path)
            tokens = bag.scales["20x"]
            same = ScaleFeatures(np.ones_like(tokens.features), tokens.bounds, tokens.grid)
            FeatureBag({"20x": same}, bag.provenance).save(bags / path.name)
        assert_failed(run(planted, tmp_path / "out", "--bags", bags), "are the same")

    def test_more_markers_than_patches(self, planted, tmp_path):
        result = run(planted, tmp_path / "out", "--number", "900")
        assert_failed(result, "too few for 900 markers", "--number")

    def test_bags_of_two_encoders(self, planted, tmp_path):
        bags = tmp_path / "bags"
        shutil.copytree(planted / "bags", bags)
        bag = FeatureBag.load(bags / "S03.zarr")
        encoder = bag.provenance.encoder.model_copy(update={"name": "another"})
        made = bag.provenance.model_copy(update={"encoder": encoder})
        FeatureBag(bag.scales, made).save(bags / "S03.zarr")
        result = run(planted, tmp_path / "out", "--bags", bags)
        assert_failed(result, "S03", "another", "one encoder")

    def test_bags_without_positions_have_shares_only(self, planted, tmp_path):
        bags = tmp_path / "bags"
        shutil.copytree(planted / "bags", bags)
        bag = FeatureBag.load(bags / "S03.zarr")
        made = bag.provenance.model_copy(update={"imported": "h5"})
        tokens = ScaleFeatures(bag.scales["20x"].features, None, None)
        FeatureBag({"20x": tokens}, made).save(bags / "S03.zarr")
        result = run(planted, tmp_path / "out", "--bags", bags, "--number", "4", "--folds", "2")
        assert result.exit_code == 0, result.output
        assert "1 slides have no positions" in result.output
        assert not (tmp_path / "out" / "slides" / "S03.geojson").exists()
        patients = pd.read_csv(tmp_path / "out" / "patients.csv", index_col="patient")
        assert np.isnan(patients.loc["S03", "moran_1"])
        assert patients.loc["S03", "share_1"] > 0
