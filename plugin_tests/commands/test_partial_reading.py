"""`tiacf predict --budget`, `--until`, `--choose` and `tiacf calibrate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import assert_failed, assert_usage, tiacf
from small_training import SETTINGS

from tiacrossfusion import Budget, SurvivalPredictor, train
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.encoders.encoder import Encoder
from tiacrossfusion.inference.slide_families import SlideFamilies
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.simulation.bags import simulate_bags


@pytest.fixture(scope="module")
def cohort(made_once) -> Path:
    """A trained mean pooling and the bags, of 36 families each, that it was trained on."""

    def make(folder: Path) -> None:
        simulate_bags(folder, 30, 5, scenario="sum", side=6, encoder_width=8)
        train(
            folder / "cohort.csv",
            folder / "bags",
            folder / "run",
            config=SETTINGS,
            models=("mean-pool",),
        )

    return made_once("partial", make)


def model(cohort: Path) -> Path:
    return cohort / "run" / "mean-pool" / "ensemble"


def few(cohort: Path, folder: Path, count: int = 3) -> Path:
    (folder / "few").mkdir()
    for bag in sorted((cohort / "bags").iterdir())[:count]:
        shutil.copytree(bag, folder / "few" / bag.name)
    return folder / "few"


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions.csv")


def test_training_learns_what_5x_tells_and_reports_it(cohort):
    run = cohort / "run" / "mean-pool"
    assert load_bundle(run / "ensemble").from_coarse is not None
    assert load_bundle(run / "fold-0" / "bundle").from_coarse is not None
    parts = pd.read_csv(run / "fold-0" / "partial_reading.csv")
    assert set(parts["method"]) == {"all", "5x alone", "random", "focus"}
    assert (run / "partial_reading.png").stat().st_size > 10_000


def test_a_part_gives_an_interval_and_a_map_of_what_was_read(cohort, tmp_path):
    bags, out = few(cohort, tmp_path), tmp_path / "out"
    whole = tmp_path / "whole"
    assert (
        tiacf("predict", "--bags", bags, "--model", model(cohort), "--output-path", whole).exit_code
        == 0
    )
    done = tiacf(
        *("predict", "--bags", bags, "--model", model(cohort)),
        *("--budget", "0.5", "--output-path", out),
    )
    assert done.exit_code == 0, done.output
    found, true = table(out), table(whole)
    assert (found["share_read"] == 0.5).all()
    assert (found["risk_low"] < found["risk"]).all()
    assert (found["risk"] < found["risk_high"]).all()
    assert found["risk_shrunken"].notna().all()
    assert (found["patches_5x"] == 36).all()
    assert (found["patches_20x"] == 288).all()
    assert (found["risk"] != true["risk"]).all()
    assert found["message"].str.contains("50% of the families read").all()
    places = json.loads((out / "SIM-0001_families.geojson").read_text())["features"]
    read = [f["properties"]["measurements"]["Read"] for f in places]
    assert (len(read), sum(read)) == (36, 18)
    names = {f["properties"]["classification"]["name"] for f in places}
    assert names == {"tiacrossfusion read", "tiacrossfusion imputed from 5x"}
    shown = json.loads((out / "SIM-0001.geojson").read_text())["features"]
    assert sum(f["properties"]["objectType"] == "tile" for f in shown) == 288
    again = tiacf(
        *("predict", "--bags", bags, "--model", model(cohort)),
        *("--budget", "0.5", "--output-path", out),
    )
    assert "finished before, skipped" in again.output


def test_5x_alone_reads_nothing_else(cohort, tmp_path):
    bags, out = few(cohort, tmp_path), tmp_path / "out"
    done = tiacf(
        *("predict", "--bags", bags, "--model", model(cohort), "--budget", "0"),
        *("--output-path", out),
    )
    assert done.exit_code == 0, done.output
    assert (table(out)["share_read"] == 0).all()
    assert sorted(p.name for p in out.glob("SIM-0001*")) == [
        "SIM-0001_families.geojson",
        "SIM-0001_families.png",
        "SIM-0001_survival.png",
    ]
    for bag in bags.iterdir():  # whatever lies inside, as 5x alone was asked
        known = FeatureBag.load(bag)
        known.scales["20x"].features[:] = 7
        known.save(bag)
    other = tmp_path / "other"
    tiacf(
        *("predict", "--bags", bags, "--model", model(cohort), "--budget", "0"),
        *("--output-path", other),
    )
    assert table(out)["risk"].tolist() == table(other)["risk"].tolist()


def test_until_stops_by_width_and_reads_all_if_it_must(cohort, tmp_path):
    bags = few(cohort, tmp_path)
    for until, share in (("100", 16 / 36), ("0.000001", 1.0)):
        out = tmp_path / until
        done = tiacf(
            *("predict", "--bags", bags, "--model", model(cohort), "--until", until),
            *("--output-path", out),
        )
        assert done.exit_code == 0, done.output
        assert table(out)["share_read"].to_numpy() == pytest.approx(share)
    found = table(out)
    assert (found["risk_low"] == found["risk_high"]).all()


def test_python_takes_a_share_or_a_budget(cohort, tmp_path):
    bags = few(cohort, tmp_path, 1)
    predictor = SurvivalPredictor(model=str(model(cohort)))
    (first,) = predictor.run(bags=bags, budget=0.5).values()
    (second,) = predictor.run(bags=bags, budget=Budget(0.5, choose="focus")).values()
    assert first["reading"]["share_read"] == second["reading"]["share_read"] == 0.5
    assert second["reading"]["chosen_by"] == "focus"
    assert first["reading"]["risk_low"] < first["risk"] < first["reading"]["risk_high"]


def test_without_calibration_the_interval_is_of_t_and_says_so(cohort, tmp_path):
    bags, bundle = few(cohort, tmp_path, 1), tmp_path / "bundle"
    shutil.copytree(model(cohort), bundle)
    (bundle / "from_5x.safetensors").unlink()
    out = tmp_path / "out"
    done = tiacf(
        *("predict", "--bags", bags, "--model", bundle, "--budget", "0.5", "--output-path", out)
    )
    assert done.exit_code == 0, done.output
    found = table(out)
    assert "Student's t" in found["message"][0]
    assert found["risk_shrunken"].isna().all()
    names = {
        f["properties"]["classification"]["name"]
        for f in json.loads((out / "SIM-0001_families.geojson").read_text())["features"]
    }
    assert names == {"tiacrossfusion read", "tiacrossfusion not read"}
    refused = ("predict", "--bags", bags, "--model", bundle, "--output-path", tmp_path / "no")
    assert_usage(
        tiacf(*refused, "--budget", "0"), "has not learnt what 5x tells", "tiacf calibrate"
    )
    assert_usage(
        tiacf(*refused, "--budget", "0.5", "--choose", "focus"), "focus needs", "tiacf calibrate"
    )
    done = tiacf("calibrate", "--model", bundle, "--bags", cohort / "bags")
    assert done.exit_code == 0, done.output
    assert "learnt from 20 slides, intervals from 10 others" in done.output
    assert load_bundle(bundle).fingerprint != load_bundle(model(cohort)).fingerprint
    shutil.copytree(bundle, tmp_path / "calibrated")  # models are loaded once in a process
    refused = ("predict", "--bags", bags, "--model", tmp_path / "calibrated", "--output-path", out)
    done = tiacf(*refused, "--budget", "0", "--overwrite")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "1.5"), ("budget is 1.5", "0 (5x alone) to 1")),
        (("--budget", "-0.1"), ("budget is -0.1",)),
        (("--budget", "nan"), ("budget is nan",)),
        (("--until", "soon"), ("--until soon", "group")),
        (("--until", "0"), ("until is 0",)),
        (("--choose", "focus"), ("--choose", "--budget")),
        (("--until", "0.25", "--budget", "0.5", "--choose", "focus"), ("no standard error",)),
        (("--until", "0.25", "--budget", "0"), ("a budget above 0",)),
        (
            ("--budget", "0.5", "--model", "crossfusion-demo"),
            ("does not predict from means", "nested-fusion, mean-pool and abmil"),
        ),
    ],
)
def test_options_that_cannot_be_are_refused(cohort, tmp_path, options, words):
    given = options if "--model" in options else (*options, "--model", model(cohort))
    out = tmp_path / "out"
    assert_usage(tiacf("predict", "--bags", cohort / "bags", "--output-path", out, *given), *words)
    assert not out.exists()


def test_bags_without_nested_grids_are_refused(cohort, tmp_path):
    bags, out = few(cohort, tmp_path, 1), tmp_path / "out"
    (path,) = bags.iterdir()
    bag = FeatureBag.load(path)
    bag.scales["5x"].grid[0] += 50
    bag.save(path)
    done = tiacf(
        *("predict", "--bags", bags, "--model", model(cohort), "--budget", "0.5"),
        *("--output-path", out),
    )
    assert_failed(done, "not nested", "leave --budget out")


def test_calibration_is_refused_to_models_that_do_not_pool_and_to_few_slides(cohort, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(model(cohort), bundle)
    done = tiacf("calibrate", "--model", bundle, "--bags", few(cohort, tmp_path, 3))
    assert_failed(done, "need 5 or more of each")
    simulate_bags(tmp_path / "small", 15, 1, scenario="sum", side=4, encoder_width=8)
    done = tiacf("calibrate", "--model", bundle, "--bags", tmp_path / "small" / "bags")
    assert_failed(done, "more than 16 families")
    assert_usage(tiacf("calibrate", "--bags", cohort / "bags"), "--model is missing")


def test_an_interrupted_slide_goes_on_where_it_was(small_slide, tmp_path, monkeypatch):
    """Families that were read before are not read again, and the result is that of one go."""
    encoded: list[int] = []
    before = Encoder.encode_stream

    def counting(self, images):
        def counted():
            for batch in images:
                encoded.append(len(batch))
                yield batch

        return before(self, counted())

    monkeypatch.setattr(Encoder, "encode_stream", counting)
    options = ("predict", "--img-input", small_slide, "--budget", "0.9")
    done = tiacf(*options, "--output-path", tmp_path / "whole")
    assert done.exit_code == 0, done.output
    once = sum(encoded)

    saved = 0
    save = SlideFamilies._save

    def dying(self):
        nonlocal saved
        save(self)
        saved += 1
        if saved == 1:  # after the 5x patches
            raise KeyboardInterrupt

    monkeypatch.setattr(SlideFamilies, "_save", dying)
    encoded.clear()
    tiacf(*options, "--output-path", tmp_path / "out")
    first = sum(encoded)
    assert 0 < first < once
    assert list((tmp_path / "out" / ".tiacf").glob("*.families.safetensors"))
    encoded.clear()
    done = tiacf(*options, "--output-path", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert first + sum(encoded) == once
    assert not list((tmp_path / "out" / ".tiacf").glob("*.families.safetensors"))
    whole, resumed = table(tmp_path / "whole"), table(tmp_path / "out")
    assert whole["risk"].tolist() == resumed["risk"].tolist()
    assert np.isfinite(whole["risk_low"]).all()
