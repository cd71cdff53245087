"""Simulated cohorts: the planted hazard, bags, slides and the command that writes them."""

from __future__ import annotations

import math
import shlex
import signal
import subprocess
import sys

import numpy as np
import openslide
import pandas as pd
import pytest
from click.testing import CliRunner
from command_line import assert_usage

from tiacrossfusion.bags.bag import FeatureBag, check_same
from tiacrossfusion.cli import main
from tiacrossfusion.encoders.stored import load_encoder_of
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.simulation import bags as of_bags
from tiacrossfusion.simulation.bags import BagOptions, simulate_bags
from tiacrossfusion.simulation.planted import (
    draw_planted_cohort,
    slide_rng,
    true_concordance,
)
from tiacrossfusion.simulation.scenarios import OF_SLIDES
from tiacrossfusion.simulation.slides import simulate_slides
from tiacrossfusion.simulation.truth import SlideTruth
from tiacrossfusion.slides.grid import nested_grids
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SamplingSpec

COLUMNS = [
    *("slide", "patient", "time", "event"),
    *("log_hazard", "coarse_burden", "fine_burden", "overlap"),
]
CLEAR = 1 - 1e-15  # a shift of 11 standard deviations: every pattern can be read off
SCENARIOS = OF_SLIDES  # the others are in test_scenarios.py
TINY = {"scenario": "product", "encoder_width": 4, "side": 2}
SLIDES = {"scenario": "colocation", "size": (600, 600), "mpp": 1.0}


def draw_bag(row, rng, **options):
    """A bag of the scenario that the row tells."""
    scenario = "product" if math.isnan(row["overlap"]) else "colocation"
    return of_bags.draw_bag(row, rng, BagOptions(scenario, **options))


def draw_bags(cohort, seed, **options):
    scenario = "product" if cohort["overlap"].isna().all() else "colocation"
    return of_bags.draw_bags(cohort, seed, BagOptions(scenario, **options))


def run(*arguments: object):
    return CliRunner().invoke(main, ["simulate", *(str(argument) for argument in arguments)])


def patterns(bag: FeatureBag, scale: str) -> np.ndarray:
    """Which tokens show the pattern, (N,) bool; exact for bags drawn with the AUC `CLEAR`."""
    n_coarse = len(bag.scales["5x"])
    width = bag.provenance.encoder.width
    full, empty = (
        draw_bag(
            {"slide": "a", "coarse_burden": share, "fine_burden": share, "overlap": math.nan},
            np.random.default_rng(0),
            encoder_width=width,
            side=math.isqrt(n_coarse),
            auc=CLEAR,
        )
        for share in (1.0, 0.0)
    )
    difference = (full.scales[scale].features - empty.scales[scale].features).astype(float)
    step = difference.mean(axis=0)
    features = bag.scales[scale].features.astype(float)
    return features @ step / (step @ step) > 0.5


class TestTable:
    @pytest.mark.parametrize("scenario", SCENARIOS)
    @pytest.mark.parametrize("side", [None, 2, 5])
    def test_log_hazard_has_mean_0_and_the_asked_deviation(self, scenario, side):
        log_hazard = draw_planted_cohort(40_000, 1, scenario=scenario, strength=1.5, side=side)[
            "log_hazard"
        ]
        assert log_hazard.mean() == pytest.approx(0, abs=0.03)
        assert log_hazard.std() == pytest.approx(1.5, rel=0.02)

    def test_what_each_scenario_depends_on(self):
        def correlations(scenario):
            cohort = draw_planted_cohort(20_000, 2, scenario=scenario, side=5)
            c, f = cohort["coarse_burden"] - 0.5, cohort["fine_burden"] - 0.5
            h = cohort["log_hazard"]
            return [np.corrcoef(h, x)[0, 1] for x in (c, f, c * f)]

        half = math.sqrt(0.5)
        assert correlations("coarse") == pytest.approx([1, 0, 0], abs=0.03)
        assert correlations("fine") == pytest.approx([0, 1, 0], abs=0.03)
        assert correlations("sum") == pytest.approx([half, half, 0], abs=0.03)
        one, both = math.sqrt(3 / 7), math.sqrt(1 / 7)
        assert correlations("product") == pytest.approx([one, one, both], abs=0.03)

    def test_one_burden_of_the_product_counts_as_far_as_the_other_is_there(self):
        cohort = draw_planted_cohort(40_000, 3, scenario="product")
        for one, other in (
            ("coarse_burden", "fine_burden"),
            ("fine_burden", "coarse_burden"),
        ):
            absent = cohort[cohort[other] < 0.02]
            present = cohort[cohort[other] > 0.98]
            assert absent["log_hazard"].std() < 0.1
            slope = np.polyfit(present[one], present["log_hazard"], 1)[0]
            assert slope == pytest.approx(1.5 / math.sqrt(7 / 144), rel=0.03)

    def test_colocation_holds_the_burdens(self):
        cohort = draw_planted_cohort(500, 4, scenario="colocation", side=4)
        assert (cohort["coarse_burden"] == 0.5).all()
        assert (cohort["fine_burden"] == 0.5).all()
        assert cohort["overlap"].between(0, 1).all()
        assert np.corrcoef(cohort["overlap"], cohort["log_hazard"])[0, 1] == pytest.approx(1)
        odd = draw_planted_cohort(500, 4, scenario="colocation", side=5)
        assert set(odd["coarse_burden"]) == set(odd["fine_burden"]) == {12 / 25}

    @pytest.mark.parametrize("scenario", SCENARIOS[:4])
    def test_overlap_stands_only_where_it_is_planted(self, scenario):
        assert draw_planted_cohort(3, 1, scenario=scenario)["overlap"].isna().all()

    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_a_larger_cohort_begins_as_the_smaller_one(self, scenario):
        small = draw_planted_cohort(20, 5, scenario=scenario, censored_share=0)
        large = draw_planted_cohort(50, 5, scenario=scenario, censored_share=0)
        pd.testing.assert_frame_equal(small, large[:20])

    def test_columns_and_seed(self):
        cohort = draw_planted_cohort(30, 6, scenario="product")
        assert list(cohort.columns) == COLUMNS
        assert cohort["slide"].is_unique
        assert cohort.equals(draw_planted_cohort(30, 6, scenario="product"))
        other = draw_planted_cohort(30, 7, scenario="product")
        assert not np.isin(cohort["log_hazard"], other["log_hazard"]).any()

    @pytest.mark.parametrize("share", [0.0, 0.25, 1 / 3, 0.9])
    def test_censored_share(self, share):
        cohort = draw_planted_cohort(600, 7, scenario="product", censored_share=share)
        assert (cohort["event"] == 0).sum() == round(600 * share)
        assert (cohort["time"] > 0).all()
        assert np.isfinite(cohort["time"]).all()

    def test_slides_of_a_patient_share_everything_but_their_name(self):
        one = draw_planted_cohort(10, 8, scenario="sum")
        three = draw_planted_cohort(10, 8, scenario="sum", slides_per_patient=3)
        assert len(three) == 30
        assert three["slide"].is_unique
        assert list(three["slide"][:3]) == ["SIM-0001-1", "SIM-0001-2", "SIM-0001-3"]
        columns = COLUMNS[1:]
        for number in range(3):
            rows = three[number::3].reset_index(drop=True)
            pd.testing.assert_frame_equal(rows[columns], one[columns])
        assert true_concordance(three) == true_concordance(one)

    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_true_concordance(self, scenario):
        cohort = draw_planted_cohort(800, 9, scenario=scenario)
        concordance = true_concordance(cohort)
        assert concordance == pytest.approx(0.80, abs=0.04)
        time, event = cohort["time"].to_numpy(), cohort["event"].to_numpy()
        risk = cohort["log_hazard"].to_numpy()
        comparable = (event[:, None] == 1) & (time[:, None] < time[None, :])
        assert concordance == pytest.approx((risk[:, None] > risk[None, :])[comparable].mean())

    def test_nothing_planted(self):
        cohort = draw_planted_cohort(800, 10, scenario="product", strength=0)
        assert (cohort["log_hazard"] == 0).all()
        assert true_concordance(cohort) == 0.5
        burdens = cohort.assign(log_hazard=(cohort["coarse_burden"] - 0.5) * cohort["fine_burden"])
        assert true_concordance(burdens) == pytest.approx(0.5, abs=0.04)

    def test_hazard_rises_with_the_log_hazard_as_told(self):
        """The times fit a proportional hazard whose coefficient of the log-hazard is 1."""
        from lifelines import CoxPHFitter

        cohort = draw_planted_cohort(3000, 11, scenario="product")
        fitted = CoxPHFitter().fit(cohort[["time", "event", "log_hazard"]], "time", "event")
        low, high = fitted.confidence_intervals_.loc["log_hazard"]
        assert low - 0.03 < 1 < high + 0.03
        assert high - low < 0.2

    def test_no_pair_gives_no_concordance(self):
        assert math.isnan(true_concordance(draw_planted_cohort(1, 1, scenario="sum")))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n_patients": 0}, "n_patients is 0; give"),
            ({"seed": -1}, "seed is -1; give"),
            ({"scenario": "both"}, "scenario is 'both'; give one of coarse, fine, sum"),
            ({"strength": -0.1}, "strength is -0.1; give"),
            ({"strength": float("nan")}, "strength is nan; give"),
            ({"strength": 1e3}, "strength is 1000.0; give"),
            ({"censored_share": 1.0}, "censored_share is 1.0; give"),
            ({"slides_per_patient": 0}, "slides_per_patient is 0; give"),
            ({"side": 0}, "side is 0; give"),
            ({"scenario": "colocation", "side": 1}, "side is 1; give at least 2 for colocation"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(TiacfError, match=message) as caught:
            draw_planted_cohort(**{"n_patients": 5, "seed": 0, "scenario": "sum", **arguments})
        assert "\n" not in str(caught.value)


class TestBag:
    @pytest.mark.parametrize("side", [1, 2, 5])
    def test_grids_are_those_of_a_slide_full_of_tissue(self, side):
        cohort = draw_planted_cohort(1, 1, scenario="product", side=side)
        (bag,) = draw_bags(cohort, 1, side=side)
        assert bag.counts() == {"5x": side**2, "10x": 4 * side**2, "20x": 16 * side**2}
        provenance = bag.provenance
        slide = Slide(None, None, provenance.dimensions, provenance.mpp, provenance.power)
        grids = nested_grids(slide, None, provenance.sampling)
        for scale, features in bag.scales.items():
            assert np.array_equal(features.grid, grids[scale].grid)
            assert features.grid.dtype == grids[scale].grid.dtype
            assert np.array_equal(features.bounds, grids[scale].bounds)
            assert features.bounds.dtype == grids[scale].bounds.dtype
            assert features.features.dtype == np.float16

    @pytest.mark.parametrize("auc", [0.5, 0.8, 0.95])
    def test_one_token_is_told_from_noise_with_the_asked_auc(self, auc):
        row = {"slide": "a", "overlap": math.nan}
        options = {"encoder_width": 16, "side": 12, "auc": auc}
        rng = np.random.default_rng(1)
        full, empty = (
            draw_bag({**row, "coarse_burden": share, "fine_burden": share}, rng, **options)
            for share in (1, 0)
        )
        clear = [
            draw_bag(
                {**row, "coarse_burden": share, "fine_burden": share},
                np.random.default_rng(2),
                **{**options, "auc": CLEAR},
            )
            for share in (1, 0)
        ]
        for scale in ("5x", "20x"):
            means = [bag.scales[scale].features.astype(float).mean(axis=0) for bag in clear]
            direction = means[0] - means[1]
            shown, noise = (
                bag.scales[scale].features.astype(float) @ direction for bag in (full, empty)
            )
            measured = (shown[:, None] > noise[None, :]).mean()
            assert measured == pytest.approx(auc, abs=0.06 if scale == "5x" else 0.015)

    def test_features_are_unit_noise_but_for_one_direction(self):
        row = {"slide": "a", "coarse_burden": 1.0, "fine_burden": 1.0, "overlap": math.nan}
        bag = draw_bag(row, np.random.default_rng(3), encoder_width=8, side=20)
        for scale, shift in (("5x", 2.326), ("10x", 0.0), ("20x", 2.326)):
            features = bag.scales[scale].features.astype(float)
            assert np.cov(features.T) == pytest.approx(np.eye(8), abs=0.3 if scale == "5x" else 0.1)
            # sqrt(2) * 1.6449, the 95 % quantile of the normal distribution
            assert np.linalg.norm(features.mean(axis=0)) == pytest.approx(shift, abs=0.15)

    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_shares_of_the_table_are_realised_exactly(self, scenario):
        cohort = draw_planted_cohort(8, 4, scenario=scenario, slides_per_patient=2, side=3)
        bags = draw_bags(cohort, 4, side=3, encoder_width=6, auc=CLEAR)
        for row, bag in zip(cohort.itertuples(), bags, strict=True):
            assert bag.provenance.slide == row.slide
            coarse, fine = patterns(bag, "5x"), patterns(bag, "20x")
            assert coarse.mean() == pytest.approx(row.coarse_burden, abs=1e-12)
            assert fine.mean() == pytest.approx(row.fine_burden, abs=1e-12)
            if scenario == "colocation":
                parents = bag.scales["20x"].grid // 4
                cells = {tuple(cell) for cell in bag.scales["5x"].grid[coarse]}
                inside = np.array([tuple(parent) in cells for parent in parents])
                assert inside[fine].mean() == pytest.approx(row.overlap, abs=1e-12)

    def test_slides_of_a_patient_are_drawn_anew(self):
        cohort = draw_planted_cohort(1, 5, scenario="sum", slides_per_patient=2, side=3)
        first, second = draw_bags(cohort, 5, side=3)
        for scale in first.scales:
            a, b = first.scales[scale].features, second.scales[scale].features
            assert not np.isin(a, b).all(axis=1).any()

    def test_same_seed_same_bags_and_a_larger_cohort_begins_with_them(self):
        small, large = (draw_planted_cohort(n, 6, scenario="product", side=2) for n in (3, 6))
        for a, b in zip(draw_bags(small, 6, side=2), draw_bags(large, 6, side=2), strict=False):
            for scale in a.scales:
                assert np.array_equal(a.scales[scale].features, b.scales[scale].features)

    def test_no_encoder_has_the_name(self):
        cohort = draw_planted_cohort(1, 1, scenario="sum", side=1)
        (bag,) = draw_bags(cohort, 1, side=1)
        assert bag.provenance.encoder.name == "simulated"
        with pytest.raises(TiacfError, match="unknown encoder 'simulated'"):
            load_encoder_of(bag.provenance.encoder)
        check_same(SamplingSpec(), bag.provenance.sampling, "sampling", "bag")
        (wide,) = draw_bags(cohort, 1, side=1, encoder_width=8)
        with pytest.raises(TiacfError, match="encoder width = 32, the model needs 8"):
            check_same(wide.provenance.encoder, bag.provenance.encoder, "encoder", "bag")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"encoder_width": 0}, "encoder_width is 0; give"),
            ({"encoder_width": 10**6}, "encoder_width is 1000000; give"),
            ({"side": 0}, "side is 0; give"),
            ({"side": 1000}, "side is 1000; give"),
            ({"auc": 0.4}, "auc is 0.4; give"),
            ({"auc": 1.0}, "auc is 1.0; give"),
            ({"auc": float("nan")}, "auc is nan; give"),
            ({"side": 3}, "SIM-0001: .* give the side that the cohort was drawn with"),
        ],
    )
    def test_bad_arguments(self, options, message):
        row = draw_planted_cohort(1, 1, scenario="product", side=5).iloc[0].to_dict()
        with pytest.raises(TiacfError, match=message) as caught:
            draw_bag(row, slide_rng(1, 0), **options)
        assert "\n" not in str(caught.value)


class TestBagFolder:
    def test_table_and_bags_come_back(self, tmp_path):
        cohort = simulate_bags(tmp_path / "new" / "folder", 4, 1, slides_per_patient=2, **TINY)
        folder = tmp_path / "new" / "folder"
        # The default reader of pandas may miss the last digit.
        table = pd.read_csv(folder / "cohort.csv", float_precision="round_trip")
        pd.testing.assert_frame_equal(table, cohort, check_exact=True)
        assert sorted(p.name for p in (folder / "bags").iterdir()) == sorted(
            f"{slide}.zarr" for slide in cohort["slide"]
        )
        for bag in draw_bags(cohort, 1, encoder_width=4, side=2):
            stored = FeatureBag.load(folder / "bags" / f"{bag.provenance.slide}.zarr")
            assert stored.provenance == bag.provenance
            for scale in bag.scales:
                for field in ("features", "bounds", "grid"):
                    a, b = getattr(stored.scales[scale], field), getattr(bag.scales[scale], field)
                    assert np.array_equal(a, b)
                    assert a.dtype == b.dtype

    def test_bags_that_are_there_are_kept(self, tmp_path):
        simulate_bags(tmp_path, 2, 1, **TINY)
        kept, lost = (tmp_path / "bags" / f"SIM-000{n}.zarr" for n in (1, 2))
        before = (kept / "zarr.json").stat().st_mtime_ns
        lost.rename(tmp_path / "elsewhere")
        simulate_bags(tmp_path, 2, 1, **TINY)
        assert (kept / "zarr.json").stat().st_mtime_ns == before
        assert FeatureBag.load(lost).counts() == FeatureBag.load(kept).counts()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"scenario": "sum"}, r"another cohort \(scenario is product there and sum here\)"),
            ({"auc": 0.8}, r"another cohort \(auc is 0.95 there and 0.8 here\)"),
            ({"strength": 1.0}, "another cohort"),
        ],
    )
    def test_another_cohort_is_refused(self, tmp_path, change, message):
        simulate_bags(tmp_path, 2, 1, **TINY)
        before = (tmp_path / "cohort.csv").read_bytes()
        with pytest.raises(TiacfError, match=message) as caught:
            simulate_bags(tmp_path, 2, 1, **{**TINY, **change})
        assert "\n" not in str(caught.value)
        assert (tmp_path / "cohort.csv").read_bytes() == before

    def test_slides_do_not_go_where_bags_are(self, tmp_path):
        simulate_bags(tmp_path, 2, 1, **TINY)
        with pytest.raises(TiacfError, match=r"kind is bags there and slides here"):
            simulate_slides(tmp_path, 2, 1, **SLIDES)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("simulation.json", b"{", "simulation.json: is damaged"),
            ("simulation.json", b"3", "simulation.json: is damaged"),
            ("simulation.json", b"\xff", "simulation.json: is damaged"),
            ("simulation.json", b"[" * 200_000, "simulation.json: is damaged"),
            ("cohort.csv", b"slide,patient\n", "cohort.csv: is not the table of these options"),
            ("cohort.csv", b"\xff", "cohort.csv: is not the table of these options"),
        ],
    )
    def test_damaged_files_are_refused(self, tmp_path, name, content, message):
        simulate_bags(tmp_path, 1, 1, **TINY)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TiacfError, match=message) as caught:
            simulate_bags(tmp_path, 1, 1, **TINY)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["cohort.csv", "bags", "slides"])
    def test_what_someone_else_wrote_is_left_alone(self, tmp_path, name):
        (tmp_path / name).write_text("mine")
        with pytest.raises(TiacfError, match=f"{name}: exists and is not of a simulated cohort"):
            simulate_bags(tmp_path, 1, 1, **TINY)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "mine"

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(TiacfError, match="cannot be written") as caught:
            simulate_bags(tmp_path / "file" / "cohort", 1, 1, **TINY)
        assert "\n" not in str(caught.value)


class TestSlideFolder:
    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_the_truth_is_what_the_table_says(self, tmp_path, scenario):
        options = {**SLIDES, "scenario": scenario}
        cohort = simulate_slides(tmp_path, 2, 3, slides_per_patient=2, **options)
        table = pd.read_csv(tmp_path / "cohort.csv", float_precision="round_trip")
        pd.testing.assert_frame_equal(table, cohort, check_exact=True)
        drawn = draw_planted_cohort(2, 3, scenario=scenario, slides_per_patient=2)
        pd.testing.assert_frame_equal(cohort.iloc[:, 1:], drawn.iloc[:, 1:])
        pixels = set()
        for row in cohort.itertuples():
            path = tmp_path / "slides" / row.slide
            with openslide.OpenSlide(path) as slide:
                assert slide.dimensions == (600, 600)
                assert slide.properties["openslide.mpp-x"] == "1"
            pixels.add(path.read_bytes())
            truth = SlideTruth.load(tmp_path / "truth" / f"{path.stem}.npz")
            assert truth.log_hazard == row.log_hazard
            assert truth.parameters.glands == 0.5
            area = truth.tumour.sum()
            assert truth.architecture.sum() / area == pytest.approx(row.coarse_burden, abs=0.01)
            assert truth.nuclei.sum() / area == pytest.approx(row.fine_burden, abs=0.01)
            if scenario == "colocation":
                assert truth.overlap == pytest.approx(row.overlap, abs=0.01)
        assert len(pixels) == 4  # slides of one patient are different ones

    def test_finished_slides_are_not_drawn_again(self, tmp_path):
        simulate_slides(tmp_path, 2, 1, **SLIDES)
        slides = sorted((tmp_path / "slides").iterdir())
        first, second = (path.read_bytes() for path in slides)
        times = [path.stat().st_mtime_ns for path in slides]
        (tmp_path / "truth" / "SIM-0002.npz").unlink()  # as if it was stopped before
        simulate_slides(tmp_path, 2, 1, **SLIDES)
        assert slides[0].stat().st_mtime_ns == times[0]
        assert slides[1].stat().st_mtime_ns != times[1]
        assert (first, second) == tuple(path.read_bytes() for path in slides)
        assert (tmp_path / "truth" / "SIM-0002.npz").exists()

    @pytest.mark.process
    def test_processes_change_no_byte(self, tmp_path):
        for name, processes in (("one", 1), ("two", 2)):
            simulate_slides(tmp_path / name, 2, 2, processes=processes, **SLIDES)
        one, two = (
            [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.svs"))]
            for name in ("one", "two")
        )
        assert len(one) == 2
        assert one == two
        assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN

    def test_another_cohort_is_refused(self, tmp_path):
        simulate_slides(tmp_path, 1, 1, **SLIDES)
        with pytest.raises(TiacfError, match=r"mpp is 1.0 there and 0.5 here"):
            simulate_slides(tmp_path, 1, 1, **{**SLIDES, "mpp": 0.5})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"size": (200, 600)}, "size is .*; give"),
            ({"mpp": 3.0}, "mpp is 3.0; give"),
            ({"processes": 0}, "processes is 0; give"),
        ],
    )
    def test_bad_arguments(self, tmp_path, change, message):
        with pytest.raises(TiacfError, match=message):
            simulate_slides(tmp_path, 1, 1, **{**SLIDES, **change})
        assert list(tmp_path.iterdir()) == []


class TestCommand:
    @pytest.mark.process
    def test_help_imports_nothing_heavy(self):
        code = (
            "import sys\nfrom tiacrossfusion.cli import main\n"
            "try:\n    main(['simulate', '--help'])\nexcept SystemExit as end:\n"
            "    assert not end.code\n"
            "heavy = {'torch', 'cv2', 'pandas', 'pydantic', 'zarr', 'lifelines'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    def test_bags(self, tmp_path):
        folder = tmp_path / "a cohort"
        options = "--scenario colocation --patients 6 --censored 0.5 --width 4 --side 2 --seed 3"
        result = run("--output-path", folder, *options.split(), "--slides-per-patient", 2)
        assert result.exit_code == 0, result.output
        lines = result.output.splitlines()
        assert f"12 bags of 6 patients, 3 deaths observed: {folder / 'bags'}" in lines
        expected = draw_planted_cohort(
            6, 3, scenario="colocation", censored_share=0.5, slides_per_patient=2, side=2
        )
        pd.testing.assert_frame_equal(
            pd.read_csv(folder / "cohort.csv", float_precision="round_trip"), expected
        )
        (best,) = (line for line in lines if line.startswith("C-index of the true log-hazard"))
        assert best.endswith(f"{true_concordance(expected):.3f}")
        command = shlex.split(lines[-1].removeprefix("Next: "))
        assert command[:2] == ["tiacf", "train"]
        assert command[command.index("--bags") + 1] == str(folder / "bags")
        assert command[command.index("--table") + 1] == str(folder / "cohort.csv")
        assert command[command.index("--time-unit") + 1] == "months"
        assert len(list((folder / "bags").glob("*.zarr"))) == 12
        assert run("--output-path", folder, *options.split()).exit_code == 1  # one bag a patient

    def test_slides(self, tmp_path):
        options = "--slides --patients 2 --censored 0 --slide-size 600 --mpp 1 --processes 1"
        result = run("--output-path", tmp_path, *options.split())
        assert result.exit_code == 0, result.output
        lines = result.output.splitlines()
        assert lines[-2].startswith("Next: tiacf extract --img-input ")
        assert lines[-1].startswith("Then: tiacf train --bags ")
        assert len(list((tmp_path / "slides").glob("*.svs"))) == 2
        assert len(list((tmp_path / "truth").glob("*.npz"))) == 2

    def test_a_cohort_without_pairs(self, tmp_path):
        result = run("--output-path", tmp_path, "--patients", 1, "--side", 1, "--width", 2)
        assert result.exit_code == 0, result.output
        assert "no two patients can be compared" in result.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--patients 0", "--patients 0: must be 1 or more"),
            ("--seed -1", "--seed -1: must be 0 or more"),
            ("--slides-per-patient 0", "--slides-per-patient 0: must be 1 or more"),
            ("--width 0", "--width 0: must be 1 or more"),
            ("--side 0", "--side 0: must be 1 or more"),
            ("--strength nan", "strength is nan; give a number from 0 to 10"),
            ("--strength -1", "strength is -1.0; give a number from 0 to 10"),
            ("--censored 1.5", "censored_share is 1.5; give a share"),
            ("--auc 1", "auc is 1.0; give 0.5"),
            ("--scenario colocation --side 1", "side is 1; give"),
            ("--slides --slide-size 100", "--slide-size 100: must be 300 or more"),
            ("--slides --mpp 0", "--mpp 0: must be a number above 0"),
            ("--slides --processes 0", "--processes 0: must be 1 or more"),
            ("--slides --auc 0.8", "--auc is for bags; leave out --slides"),
            ("--processes 2", "--processes is for slides; add --slides"),
        ],
    )
    def test_absurd_values_in_one_line(self, tmp_path, arguments, message):
        result = run("--output-path", tmp_path / "new", *arguments.split())
        assert_usage(result, f"Error: {message}")
        assert result.output.count("\n") == 1
        assert not (tmp_path / "new").exists()

    def test_paths(self, tmp_path):
        assert "--output-path is missing" in run().output
        (tmp_path / "file").write_text("")
        assert "is a file; give a folder" in run("--output-path", tmp_path / "file").output
