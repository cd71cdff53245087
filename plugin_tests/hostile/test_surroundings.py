"""Users without a name or a home, TeX in matplotlibrc, several SLURM tasks, Python without assertions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from tiacrossfusion.io.surroundings import settle_surroundings
from tiacrossfusion.outputs.survival_plot import survival_figure
from tiacrossfusion.training.devices import Devices


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
def test_python_without_assertions_is_refused_in_one_line():
    done = python("-m", "tiacrossfusion", "encoders", PYTHONOPTIMIZE="2", HOME="/tmp")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "unset PYTHONOPTIMIZE" in done.stderr


def test_a_user_without_a_home_gets_one(monkeypatch, tmp_path):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "")
    settle_surroundings()
    assert Path(os.environ["HOME"]).parent == tmp_path
    assert Path(os.environ["HOME"]).stat().st_mode & 0o777 == 0o700
    assert os.environ["LOGNAME"]
    monkeypatch.delenv("LOGNAME")


def test_one_device_is_used_within_several_tasks_of_slurm(monkeypatch):
    for name, value in {"NTASKS": "2", "JOB_ID": "1", "JOB_NAME": "x", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    Devices().check()
    assert Devices().count() == 1


def test_figures_need_no_tex(monkeypatch, tmp_path):
    from tiacrossfusion.outputs.curve import Curve

    monkeypatch.setitem(mpl.rcParams, "text.usetex", True)
    curve = Curve(unit="months", edges=(0.0, 10.0, 20.0), survival=(0.8, 0.4), median=17.5)
    survival_figure(curve, tmp_path / "curve.png", title="a", risk_group=None, note="b")
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert mpl.rcParams["text.usetex"], "the user's settings are as they were"
