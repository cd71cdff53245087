"""The examples and the demonstration run as printed."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from tiacrossfusion.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_example(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert not end.value.code


def test_predict_slides(tmp_path, simulated, monkeypatch, capsys):
    run_example(
        "predict_slides.py", monkeypatch, "--output-path", str(tmp_path), str(simulated / "low.svs")
    )
    assert "risk" in capsys.readouterr().out
    assert (tmp_path / "qupath" / "low.geojson").exists()


@pytest.mark.slow
@pytest.mark.process
def test_slides_to_report_at_small_size(tmp_path):
    """The three commands of the script, on slides of one or two patches of 5x."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(EXAMPLES / "slides_to_report.sh"), str(tmp_path), "30", "1100"],
        check=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
    )
    models = pd.read_csv(tmp_path / "trained" / "models.csv")
    assert list(models.model) == ["crossfusion", "mean-pool"]
    assert (models.harrell_c_low < models.harrell_c).all()
    assert (tmp_path / "trained" / "crossfusion" / "kaplan_meier.png").exists()
    assert (tmp_path / "trained" / "crossfusion" / "ensemble" / "config.json").exists()


@pytest.mark.slow
def test_train_demo_bundle_at_small_size(tmp_path, monkeypatch, capsys):
    from tiacrossfusion.models.bundle import load_bundle

    small = ["--network", "nested-fusion", "--patients", "30", "--test-patients", "12"]
    small += ["--slide-size", "1100", "--epochs", "1"]
    folders = ["--work-dir", str(tmp_path / "work"), "--bundle", str(tmp_path / "bundle")]
    run_example("train_demo_bundle.py", monkeypatch, *folders, *small)
    bundle = load_bundle(tmp_path / "bundle")
    assert "12 simulated patients of another seed" in capsys.readouterr().out
    assert "Not for clinical use" in bundle.config.card.notice


@pytest.mark.slow
def test_the_demonstration(tmp_path):
    for drawn in (2, 0):  # the second run finds the slides there
        result = CliRunner().invoke(main, ["demo", "--output-path", str(tmp_path)])
        assert result.exit_code == 0, result.output
        assert result.output.count("Simulating") == drawn
        assert "Not for clinical use" in result.output
        low, high = (
            next(line for line in result.output.splitlines() if line.startswith(name))
            for name in ("simulated-low-risk", "simulated-high-risk")
        )
        assert float(low.split()[2]) < float(high.split()[2])
    page = (tmp_path / "report.html").read_text()
    for planted in ("5x architecture", "10x glands", "20x nuclei"):
        assert page.count(f"Planted {planted}") == 2  # once for each slide
    assert (tmp_path / "simulated-high-risk_attention.png").exists()
