"""One vector a slide becomes a bag that the models in -20x train on."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cli.main import main
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.interop.embeddings import read_embeddings

NAMES = ("007", "slide-b", "NA")
VECTORS = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


def as_npz(path: Path) -> Path:
    np.savez(path / "all.npz", **dict(zip(NAMES, VECTORS, strict=True)))
    return path / "all.npz"


def as_npz_with_names(path: Path) -> Path:
    np.savez(path / "all.npz", slide_ids=np.array(NAMES), embeddings=VECTORS)
    return path / "all.npz"


def as_h5(path: Path) -> Path:
    with h5py.File(path / "all.h5", "w") as file:
        file["filenames"] = np.array(NAMES, object)
        file["feats"] = VECTORS
    return path / "all.h5"


def as_csv(path: Path) -> Path:
    frame = pd.DataFrame(VECTORS).add_prefix("f")
    frame.insert(0, "slide", NAMES)
    frame.to_csv(path / "all.csv", index=False)
    return path / "all.csv"


def as_folder(path: Path) -> Path:
    folder = path / "each"
    folder.mkdir()
    for name, vector in zip(NAMES, VECTORS, strict=True):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["feats"] = vector[None]
    return folder


@pytest.mark.parametrize("write", [as_npz, as_npz_with_names, as_h5, as_csv, as_folder])
def test_every_kind_of_file_gives_the_same_vectors(tmp_path, write):
    found = {item.name: item.vector for item in read_embeddings(write(tmp_path))}
    assert set(found) == set(NAMES)
    for name, vector in zip(NAMES, VECTORS, strict=True):
        np.testing.assert_allclose(found[name], vector, rtol=1e-6)


def test_bags_of_vectors_hold_one_token_in_full_precision(tmp_path):
    done = CliRunner().invoke(
        main,
        ["convert", "--embeddings", str(as_npz(tmp_path)), "--output-path", str(tmp_path / "bags")],
    )
    assert done.exit_code == 0, done.output
    bag = FeatureBag.load(tmp_path / "bags" / "007.zarr")
    np.testing.assert_array_equal(bag.scales["20x"].features[0], VECTORS[0])
    assert list(bag.scales) == ["20x"]
    assert "all.npz" in bag.provenance.imported


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": np.zeros(3), "b": np.zeros(4)}, "different lengths, 3 .a., 4 .b."),
        ({"a": np.array([1.0, np.nan])}, "not finite, such as a"),
        ({"a": np.zeros((3, 2))}, r"a \(3, 2\) is no vector"),
        ({"slide": np.array(["a", "a"]), "feats": np.zeros((2, 3))}, "two embeddings of 1 slides"),
        ({"slide": np.array(["a"]), "feats": np.zeros((2, 3))}, "1 names for embeddings"),
        ({}, "holds no vectors"),
    ],
)
def test_odd_files_are_refused_in_one_line(tmp_path, content, message):
    np.savez(tmp_path / "all.npz", **content)
    with pytest.raises(TiacfError, match=message) as caught:
        read_embeddings(tmp_path / "all.npz")
    assert "\n" not in str(caught.value)


def test_text_in_a_table_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("slide,f1,f2\na,1,x\n")
    with pytest.raises(TiacfError, match="the column 'f2' holds no numbers"):
        read_embeddings(tmp_path / "a.csv")
    (tmp_path / "a.npz").write_bytes(b"PK garbage")
    with pytest.raises(TiacfError, match="cannot be read"):
        read_embeddings(tmp_path / "a.npz")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(TiacfError, match="not a file of embeddings"):
        read_embeddings(tmp_path / "a.txt")


def cohort(place: Path, patients: int = 120) -> None:
    """Vectors of which the first element decides, and a second cohort of the same kind."""
    random = np.random.default_rng(1)
    for name in ("one", "other"):
        vectors = random.normal(size=(patients, 12)).astype(np.float32)
        times = random.exponential(20 * np.exp(-1.2 * vectors[:, 0]))
        stop = random.uniform(5, 80, patients)
        names = [f"{name}{i}" for i in range(patients)]
        follow_up = {"patient": names, "time": np.minimum(times, stop), "event": times <= stop}
        ages = np.where(random.uniform(size=patients) < 0.1, np.nan, random.normal(60, 9, patients))
        pd.DataFrame(follow_up).assign(event=(times <= stop).astype(int), age=ages).to_csv(
            place / f"{name}.csv", index=False
        )
        np.savez(place / f"{name}.npz", **dict(zip(names, vectors, strict=True)))


def run(*words: object) -> str:
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.output


def test_a_model_of_vectors_is_trained_and_judged_elsewhere(tmp_path):
    cohort(tmp_path)
    for name in ("one", "other"):
        run("convert", "--embeddings", tmp_path / f"{name}.npz", "--output-path", tmp_path / name)
    out = tmp_path / "out"
    common = ("--time-unit", "months", "--model", "coxnet-20x", "--folds", 3)
    run(
        "train", "--bags", tmp_path / "one", "--table", tmp_path / "one.csv", *common,
        "--output-path", out,
    )  # fmt: skip
    figures = pd.read_csv(out / "models.csv").iloc[0]
    assert figures["harrell_c"] > 0.7
    bundle = out / "coxnet-20x" / "ensemble"
    elsewhere = run(
        "evaluate", "--model", bundle, "--bags", tmp_path / "other", "--table", tmp_path / "other.csv",
        "--covariates", "age", "--by", "age", "--output-path", tmp_path / "elsewhere",
    )  # fmt: skip
    assert "None of the 120 patients has a slide that the model was trained on" in elsewhere
    assert "in this cohort" in elsewhere
    assert "missing, imputed inside the folds: age" in elsewhere
    names = {file.name for file in (tmp_path / "elsewhere").iterdir()}
    assert {"forest.png", "decision_curve.png", "added_value.json", "subgroups.json"} <= names
    again = run(
        "evaluate", "--model", bundle, "--bags", tmp_path / "one", "--table", tmp_path / "one.csv",
        "--output-path", tmp_path / "again",
    )  # fmt: skip
    assert "120 of 120 patients have slides that the model was trained on" in again
    # The same by way of `tiacf predict`: a table of predictions and the follow-up.
    pd.read_csv(tmp_path / "other.csv").assign(slide=lambda t: t.patient).to_csv(
        tmp_path / "patients.csv", index=False
    )
    run(
        "predict", "--model", bundle, "--bags", tmp_path / "other", "--patients",
        tmp_path / "patients.csv", "--output-path", tmp_path / "predicted",
    )  # fmt: skip
    by_table = run(
        "evaluate", "--predictions", tmp_path / "predicted" / "patients.csv", "--table",
        tmp_path / "other.csv", "--output-path", tmp_path / "by_table",
    )  # fmt: skip
    figure = next(line for line in elsewhere.splitlines() if "Harrell's C  " in line)
    assert figure in by_table


def test_a_model_of_three_scales_says_what_is_missing(tmp_path):
    cohort(tmp_path)
    run("convert", "--embeddings", tmp_path / "one.npz", "--output-path", tmp_path / "one")
    words = ("--bags", tmp_path / "one", "--table", tmp_path / "one.csv", "--time-unit", "months")
    done = CliRunner().invoke(
        main,
        list(map(str, ("train", *words, "--model", "coxnet", "--output-path", tmp_path / "o"))),
    )
    assert done.exit_code == 1
    assert "coxnet needs x5" in done.output
    assert "-20x" in done.output
