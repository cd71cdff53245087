"""`tiacf check` finds what a run would stumble over, and writes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from tiacrossfusion.cli import main


def check(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["check", *map(str, arguments)])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


@pytest.fixture
def cohort(tmp_path, simulated) -> Path:
    """Three slides of two sites, and their table."""
    folder = tmp_path / "slides"
    folder.mkdir()
    names = ["TCGA-AA-0001-01Z.svs", "TCGA-AA-0002-01Z.svs", "TCGA-BB-0003-01Z.svs"]
    for name in names:
        shutil.copy(simulated / "low.svs", folder / name)
    rows = {"slide": names, "patient": names, "time": [3, 4, 5], "event": [1, 0, 1]}
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path


def test_what_goes_together_is_counted_by_site(cohort):
    before = sorted(cohort.rglob("*"))
    code, said = check(
        *("--img-input", cohort / "slides", "--table", cohort / "table.csv"),
        *("--model", "nested-demo"),
    )
    assert code == 0
    counts = {line.split()[0]: line.split()[1:] for line in said.splitlines()[-3:]}
    assert counts == {
        "all": ["4", "1", "0", "0"],  # the model and three slides; barcodes are reduced
        "TCGA-AA": ["2", "0", "0", "0"],
        "TCGA-BB": ["1", "0", "0", "0"],
    }
    assert sorted(cohort.rglob("*")) == before


def test_what_is_missing_or_contradicts_is_named_and_ends_with_1(cohort):
    slides = cohort / "slides"
    (slides / "TCGA-BB-0003-01Z.svs").rename(slides / "spare.svs")
    (slides / "text.svs").write_text("not a slide")
    code, said = check("--img-input", slides, "--table", cohort / "table.csv")
    assert code == 1
    assert "missing     TCGA-BB-0003-01Z.svs: in" in said
    assert "remark      spare.svs: not in" in said
    assert "contradicts text.svs: " in said
    assert "not a slide that TIAToolbox can open" in said
    (cohort / "masks").mkdir()
    code, said = check("--img-input", slides / "spare.svs", "--masks", cohort / "masks")
    assert code == 1
    assert "no mask for spare.svs" in said


def test_bags_are_compared_with_the_model(cohort):
    bags = cohort / "bags"
    done = CliRunner().invoke(
        main, ["extract", "--img-input", str(cohort / "slides"), "--output-path", str(bags)]
    )
    assert done.exit_code == 0, done.output
    assert check("--bags", bags, "--model", "nested-demo", "--table", cohort / "table.csv")[0] == 0
    simulated = cohort / "simulated"
    made = ["simulate", "--output-path", str(simulated), "--patients", "4", "--width", "8"]
    assert CliRunner().invoke(main, made).exit_code == 0
    code, said = check("--bags", simulated / "bags", "--model", "nested-demo")
    assert code == 1
    assert said.count("contradicts ") == 4
    assert "encoder" in said


def test_nothing_to_check_and_splits_without_a_table_are_refused(tmp_path):
    assert check()[0] == 2
    (tmp_path / "splits").mkdir()
    assert check("--model", "nested-demo", "--splits", tmp_path / "splits")[0] == 2
