"""Tables, split files, settings, predictions and feature files at fault: one line that names the remedy."""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from command_line import assert_failed, assert_refused, tiacf

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.patients import read_patients
from tiacrossfusion.cohorts.table import read_table
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.prediction_files import read_predictions
from tiacrossfusion.interop.conversion import convert
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.training.config import read_settings

PATIENTS = 45


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder,
        PATIENTS,
        3,
        scenario="fine",
        strength=2.0,
        censored_share=0.3,
        slides_per_patient=1,
        encoder_width=4,
        side=1,
        auc=0.95,
    )
    (folder / "small.yaml").write_text(
        "time_unit: months\nmodels: [mean-pool]\nnetwork: {embed_dim: 8, num_bins: 2}\n"
        "fitting: {epochs: 1, warm_up: 0, patients_per_step: 8}\nprotocol: {folds: 3}\n"
    )
    return folder


def train(cohort: Path, out: Path, *more: object, table: Path | None = None) -> Result:
    options = ("--config", cohort / "small.yaml", "--output-path", out)
    table = table or cohort / "cohort.csv"
    return tiacf("train", "--bags", cohort / "bags", "--table", table, *options, *more)


# Tables -------------------------------------------------------------------------------------------


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new, 1)


def column(name: str, value: object) -> Callable[[bytes], bytes]:
    """Put a value into rows 3 to 5 of a column."""

    def change(content: bytes) -> bytes:
        rows = [row.split(",") for row in content.decode().splitlines()]
        place = rows[0].index(name)
        for row in rows[3:6]:
            row[place] = str(value)
        return "\n".join(",".join(row) for row in rows).encode() + b"\n"

    return change


def unzipped(count: int) -> Callable[[Path, bytes], None]:
    def write(path: Path, content: bytes) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(count):
                archive.writestr(f"{number}.csv", content)

    return write


def flipped(content: bytes) -> bytes:
    packed = bytearray(gzip.compress(content))
    packed[60] ^= 255
    return bytes(packed)


FEW = f"of {PATIENTS} rows cannot be used"
#: What is done to the bytes of a good table, with words of the line on it.
TABLES: dict[str, tuple[Callable[[bytes], bytes], list[str]]] = {
    "blank lines": (lambda c: b"\n \n\n", ["is empty"]),
    "only NUL": (lambda c: b"\0" * 4000, ["NUL bytes", "save it as CSV in UTF-8"]),
    "a NUL in a name": (replaced(b"SIM-0001", b"SIM\0-0001"), ["NUL bytes", "save it as CSV"]),
    "UTF-16": (lambda c: c.decode().encode("utf-16"), ["not UTF-8 text"]),
    "UTF-16 without mark": (lambda c: c.decode().encode("utf-16-le"), ["NUL bytes"]),
    "Latin-1": (replaced(b"SIM-0001", b"M\xfcller"), ["not UTF-8 text", "save it as CSV in UTF-8"]),
    "Excel": (lambda c: b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0\xbb\xd4", ["not UTF-8 text"]),
    "random bytes": (lambda c: np.random.default_rng(0).bytes(4000), ["save it as CSV in UTF-8"]),
    "tabs": (lambda c: c.replace(b",", b"\t"), ["not separated by commas"]),
    "bars": (lambda c: c.replace(b",", b"|"), ["not separated by commas"]),
    "an open quote": (replaced(b"SIM-0001", b'"SIM-0001'), ["EOF inside string", "save it as CSV"]),
    "a field too many": (replaced(b"SIM-0001,", b"SIM-0001,,,"), ["more fields than the header"]),
    "a long name": (
        replaced(b"SIM-0001", b"x" * 300_000),
        ["1 of 45 slides have no bag", "xxx..."],
    ),
    "a name of two lines": (replaced(b"SIM-0001", b'"SIM\n1"'), ["have no bag", "SIM 1"]),
    "a carriage return": (
        replaced(b"SIM-0001", b'"SIM\r1"'),
        ["1 of 45 rows have a carriage return in the name of a slide", "remove it"],
    ),
    "time text": (column("time", "long"), [f"3 {FEW} (time not a finite number: 3)"]),
    "time with a comma": (column("time", '"12;5"'), [f"3 {FEW} (time not a finite number: 3)"]),
    "time beyond floats": (column("time", "1e999"), [f"3 {FEW} (time not a finite number: 3)"]),
    "time a date": (column("time", "2020-01-01"), [f"3 {FEW} (time not a finite number: 3)"]),
    "event yes": (column("event", "yes"), ["3 of 45 values of 'event'", "write 1 and 0"]),
    "event half": (column("event", 0.5), ["3 of 45 values of 'event'", "write 1 and 0"]),
    "event inf": (column("event", "inf"), ["3 of 45 values of 'event'", "write 1 and 0"]),
    "patient missing": (column("patient", ""), ["3 of 45 rows name no patient", "fill them in"]),
    "patients called NA": (column("patient", "NA"), ["disagree on time", "such as NA"]),
    "one patient": (lambda c: b"\n".join(c.split(b"\n")[:2]), ["1 patients", "take fewer folds"]),
    "two patients": (lambda c: b"\n".join(c.split(b"\n")[:3]), ["too few for 3 folds"]),
    "one time": (
        lambda c: pd.read_csv(io.BytesIO(c)).assign(time=5).to_csv().encode(),
        ["3 of 3 folds cannot be used", "too alike in time"],
    ),
}


@pytest.mark.parametrize("fault", TABLES)
def test_a_table_at_fault_is_one_line_and_nothing_is_begun(cohort, tmp_path, fault):
    change, words = TABLES[fault]
    table = tmp_path / "table.csv"
    table.write_bytes(change((cohort / "cohort.csv").read_bytes()))
    assert_failed(train(cohort, tmp_path / "run", table=table), *words)
    assert not (tmp_path / "run").exists()


PACKED: dict[str, tuple[str, Callable[[Path, bytes], object], str]] = {
    "no gzip": ("t.csv.gz", lambda p, c: p.write_bytes(c), "Not a gzipped file"),
    "cut gzip": ("t.csv.gz", lambda p, c: p.write_bytes(gzip.compress(c)[:-40]), "ended before"),
    "changed gzip": ("t.csv.gz", lambda p, c: p.write_bytes(flipped(c)), "cannot be read as CSV"),
    "no zip": ("t.csv.zip", lambda p, c: p.write_bytes(c), "not a zip file"),
    "two in a zip": ("t.csv.zip", unzipped(2), "2 files in the archive"),
    "none in a zip": ("t.csv.zip", unzipped(0), "0 files in the archive"),
    "no parquet": ("t.parquet", lambda p, c: p.write_bytes(c), "save it as Parquet"),
    "a folder": ("t.csv", lambda p, c: p.mkdir(), "Is a directory"),
    "a loop": ("t.csv", lambda p, c: p.symlink_to(p), "symbolic links"),
}


@pytest.mark.parametrize("fault", PACKED)
def test_a_file_that_holds_no_table(cohort, tmp_path, fault):
    name, write, word = PACKED[fault]
    write(tmp_path / name, (cohort / "cohort.csv").read_bytes())
    with pytest.raises(TiacfError, match=f"{name}: .*{word}") as caught:
        read_table(tmp_path / name, Columns(), "months")
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_in_a_table_are_no_values(cohort, tmp_path):
    table = pd.read_csv(cohort / "cohort.csv")
    for name in ("slide", "fine_burden"):
        path = tmp_path / f"{name}.parquet"
        table.assign(**{name: [[1, 2]] * len(table)}).to_parquet(path)
        with pytest.raises(TiacfError, match=f"the column '{name}' holds lists"):
            read_table(path, Columns(covariates=("fine_burden",)), "months")


def test_covariates_that_no_sum_can_hold(cohort, tmp_path):
    table = pd.read_csv(cohort / "cohort.csv")
    table["fine_burden"] = np.where(table.index % 2, 0.5e308, 1e308)
    table.to_csv(tmp_path / "t.csv", index=False)
    more = ("--model", "clinical", "--covariates", "fine_burden")
    done = train(cohort, tmp_path / "run", *more, table=tmp_path / "t.csv")
    assert_failed(done, "fine_burden has values too large to be added up")


def test_an_archive_that_unpacks_without_end_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("tiacrossfusion.io.csv_table._LARGEST", 2**20)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"x" * 2**21))
    with pytest.raises(TiacfError, match="larger than"):
        read_table(tmp_path / "t.csv.gz", Columns(), "months")


IDS = {
    "zeros": lambda number: f"{number:04d}",
    "signs": lambda number: f'case {number}, "Ä" \'ß',
}


@pytest.mark.parametrize("kind", IDS)
def test_names_of_patients_stay_as_they_are(cohort, tmp_path, kind):
    table = pd.read_csv(cohort / "cohort.csv", dtype={"slide": str})
    names = [IDS[kind](number) for number in range(PATIENTS)]
    table.assign(patient=names).to_csv(tmp_path / "t.csv", index=False, encoding="utf-8-sig")
    options = ("--model", "clinical", "--covariates", "fine_burden")
    config = tmp_path / "c.yaml"
    config.write_text("time_unit: months\nnetwork: {num_bins: 2}\nprotocol: {folds: 2}\n")
    out = tmp_path / "run"
    done = tiacf(
        *("train", "--table", tmp_path / "t.csv", "--config", config, "--output-path", out),
        *options,
    )
    assert done.exit_code == 0, done.output
    folds = read_predictions(out / "clinical")
    assert {patient for fold in folds for patient in fold.patients} == set(names)


PATIENT_TABLES: dict[str, tuple[bytes, str]] = {
    "NUL": (b"slide,patient\na,P\0\n", "NUL bytes.*save it as CSV in UTF-8"),
    "UTF-16": ("slide,patient\na,P\n".encode("utf-16"), "save it as CSV in UTF-8"),
    "an open quote": (b'slide,patient\n"a,P\nb,Q\n', "EOF inside string.*save it as CSV"),
    "a column twice": (b"slide,slide,patient\na,b,P\n", "1 columns stand twice, such as slide"),
    "a long field": (b"slide,patient\n" + b"x" * 200_000 + b",P\n", "field larger than"),
}


@pytest.mark.parametrize("fault", PATIENT_TABLES)
def test_tables_of_patients(tmp_path, fault):
    content, words = PATIENT_TABLES[fault]
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(TiacfError, match=rf"p\.csv: .*{words}"):
        read_patients(tmp_path / "p.csv")


# Split files --------------------------------------------------------------------------------------


def names(first: int, last: int) -> list[str]:
    return [f"SIM-{number:04d}" for number in range(first, last)]


def split(train_part: list[str], val: list[str]) -> bytes:
    return pd.DataFrame({"train": pd.Series(train_part), "val": pd.Series(val)}).to_csv().encode()


GOOD_SPLIT = split(names(1, 31), names(31, 46))
SPLITS: dict[str, tuple[dict[str, bytes], list[str]]] = {
    "a leak": ({"splits_0.csv": split(names(1, 33), names(31, 46))}, ["2 patients are in both"]),
    "another cohort": ({"splits_0.csv": split(["a"], ["b"])}, ["none of the 1 ids", "of another"]),
    "an empty part": ({"splits_0.csv": split(names(1, 31), [])}, ["the column val is empty"]),
    "semicolons": (
        {"splits_0.csv": GOOD_SPLIT.replace(b",", b";")},
        ["is not separated by commas", "save it as CSV with commas"],
    ),
    "a column twice": (
        {"splits_0.csv": GOOD_SPLIT.replace(b"train,val", b"train,train", 1)},
        ["1 columns stand twice, such as train"],
    ),
    "a date for a number": ({"splits_20240115.csv": GOOD_SPLIT}, ["999 at most", "splits_0.csv"]),
    "other columns": ({"splits_0.csv": b"fit,judge\na,b\n"}, ["has no column train, val"]),
    "no CSV": ({"splits_0.csv": b"\xff\xfe\0\1"}, ["cannot be read as CSV", "save it as CSV"]),
    "NUL": ({"splits_0.csv": GOOD_SPLIT.replace(b"1,", b"\0,", 1)}, ["NUL bytes"]),
    "empty": ({"splits_0.csv": b""}, ["is empty", "train, val"]),
    "more fields": ({"splits_0.csv": b"train,val\na,b,c\n"}, ["more fields than the header"]),
    "one number twice": (
        {"splits_0.csv": GOOD_SPLIT, "splits_00.csv": GOOD_SPLIT},
        ["splits_0.csv", "splits_00.csv", "the same number", "keep one of each"],
    ),
    "one test patient": (
        {"splits_0.csv": split(names(1, 31), names(31, 32))},
        ["1 of 1 folds cannot be used", "other splits"],
    ),
}


@pytest.mark.parametrize("fault", SPLITS)
def test_split_files_at_fault(cohort, tmp_path, fault):
    files, words = SPLITS[fault]
    (tmp_path / "splits").mkdir()
    for name, content in files.items():
        (tmp_path / "splits" / name).write_bytes(content)
    assert_failed(train(cohort, tmp_path / "run", "--splits", tmp_path / "splits"), *words)
    assert not (tmp_path / "run").exists()


def test_a_split_file_that_is_a_folder(cohort, tmp_path):
    (tmp_path / "splits_0.csv").mkdir()
    done = train(cohort, tmp_path / "run", "--splits", tmp_path)
    assert_failed(done, "splits_0.csv: cannot be read as CSV (Is a directory)")


# Settings -----------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(
    f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 30)
)
SETTINGS: dict[str, tuple[bytes, list[str], int]] = {
    "not YAML": (b"seed: [1, 2", ["not valid YAML", "mend the file"], 1),
    "no text": (b"\xff\xfe\0", ["not valid YAML", "mend the file"], 1),
    "a list": (b"- seed\n- 1\n", ["holds no settings by name", "`seed: 1`"], 1),
    "a word": (b"seed", ["holds no settings by name", "`seed: 1`"], 1),
    "twice": (b"seed: 1\nseed: 2\n", ["a setting stands twice"], 1),
    "laughs": (LAUGHS.encode(), ["aliases (*name) are not read", "write the values out"], 1),
    "merges": (MERGES.encode(), ["aliases (*name) are not read"], 1),
    "itself": (b"network: &a {embed_dim: *a}\n", ["aliases (*name) are not read"], 1),
    "deep": (b"seed: " + b"[" * 5000 + b"]" * 5000, ["not valid YAML"], 1),
    "many digits": (b"seed: " + b"9" * 6000, ["not valid YAML"], 1),
    "unknown": (b"speed: 3\n", ["speed: unknown setting", "remove it"], 2),
    "no name": (b"1: 2\n", ["Keys should be strings"], 2),
    "text for a number": (b"network: {embed_dim: wide}\n", ["network.embed_dim", "integer"], 2),
    "negative": (b"network: {embed_dim: -4}\n", ["network.embed_dim", "greater than"], 2),
    "huge": (b"network: {embed_dim: 999999999999}\n", ["network.embed_dim", "less than"], 2),
    "huge seed": (b"seed: 99999999999\n", ["seed", "less than or equal to 4000000"], 2),
    "huge rate": (b"fitting: {learning_rate: 1.0e+300}\n", ["fitting.learning_rate", "less"], 2),
    "rate nan": (b"fitting: {learning_rate: .nan}\n", ["fitting.learning_rate", "finite"], 2),
    "endless steps": (
        b"fitting: {patients_per_step: 100000000000000000000000000000}\n",
        ["fitting.patients_per_step", "less than or equal to 1000000"],
        2,
    ),
    "nothing for a group": (b"network:\n", ["network: Input should be"], 2),
}


@pytest.mark.parametrize("fault", SETTINGS)
def test_settings_at_fault(cohort, tmp_path, fault):
    content, words, code = SETTINGS[fault]
    (tmp_path / "c.yaml").write_bytes(content)
    options = ("--time-unit", "months", "--config", tmp_path / "c.yaml")
    done = tiacf(
        *("train", "--bags", cohort / "bags", "--table", cohort / "cohort.csv", *options),
        *("--output-path", tmp_path / "run"),
    )
    assert_refused(done, "c.yaml", *words, code=code)
    assert not (tmp_path / "run").exists()


def test_no_settings_are_the_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("# nothing yet\n")
    assert read_settings(tmp_path / "c.yaml") == {}


# Runs and their predictions -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    done = train(cohort, out, "--folds", 2)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def evaluate(run: Path, *more: object) -> Result:
    out = run.parent / "report"
    return tiacf(
        "evaluate", "--predictions", run / "mean-pool", "--draws", 100, "--output-path", out, *more
    )


def rows_less(content: bytes) -> bytes:
    """As a copy that ended with a whole row."""
    return b"".join(content.splitlines(keepends=True)[:-3])


def with_risk(risk: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        rows = content.splitlines(keepends=True)
        cells = rows[1].split(b",")
        cells[4] = risk
        return b"".join([rows[0], b",".join(cells), *rows[2:]])

    return change


TABLE, TRAINING, DIGESTS = "out_of_fold.csv", "training_follow_up.csv", "out_of_fold.sha256"
PREDICTIONS: dict[str, tuple[str, Callable[[bytes], bytes | None], list[str], int]] = {
    "table cut at a row's end": (TABLE, rows_less, ["was cut or changed"], 1),
    "table cut": (TABLE, lambda c: c[:-30], [TABLE], 1),
    "table empty": (TABLE, lambda c: b"", ["is empty"], 1),
    "a risk that is none": (TABLE, with_risk(b"nan"), ["1 cells of risk are not numbers"], 1),
    "another risk": (TABLE, with_risk(b"0.123"), ["was cut or changed"], 1),
    "a NUL": (TABLE, lambda c: c.replace(b"SIM-0001", b"SIM\0", 1), ["NUL bytes"], 1),
    "follow-up cut at a row's end": (TRAINING, rows_less, ["was cut or changed"], 1),
    "no table": (TABLE, lambda c: None, ["no such file"], 2),
    "no follow-up": (TRAINING, lambda c: None, ["no such file"], 2),
    "no digests": (DIGESTS, lambda c: None, ["does not exist"], 2),
    "digests cut": (DIGESTS, lambda c: c[:40], ["was cut or changed"], 1),
    "no figures": ("evaluation.json", lambda c: None, ["does not exist"], 2),
    "figures no text": ("evaluation.json", lambda c: b"\xff" + c, ["damaged"], 1),
    "figures cut": ("evaluation.json", lambda c: c[:40], ["damaged", "tiacf train again"], 1),
}


def put(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("fault", PREDICTIONS)
def test_predictions_that_are_not_as_they_were_written(run, fault):
    name, change, words, code = PREDICTIONS[fault]
    path = run / "mean-pool" / name
    put(path, change(path.read_bytes()))
    assert_refused(evaluate(run), *words, code=code)
    assert not (run.parent / "report").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "run.json: damaged"), (b"[" * 200_000, "run.json: damaged"), (b"\xff", "damaged")],
)
def test_the_file_of_a_run_that_is_damaged(cohort, run, content, words):
    put(run / "run.json", content)
    assert_failed(train(cohort, run, "--folds", 2), words, "give another --output-path")


def test_predictions_are_given_as_a_folder_or_as_its_table(run):
    table = run / "mean-pool" / TABLE
    out = ("--draws", 100, "--output-path", run.parent / "report")
    done = tiacf("evaluate", "--predictions", table, *out)
    assert done.exit_code == 0, done.output
    assert "mean-pool" in done.output
    done = tiacf("evaluate", "--predictions", run, *out)
    assert_refused(done, "no such file", "the folder of a model", code=2)


@pytest.mark.parametrize("fault", ["table cut at a row's end", "no digests"])
def test_training_writes_them_again(cohort, run, trained, fault):
    name, change, _, _ = PREDICTIONS[fault]
    path = run / "mean-pool" / name
    put(path, change(path.read_bytes()))
    done = train(cohort, run, "--folds", 2)
    assert done.exit_code == 0, done.output
    assert path.read_bytes() == (trained / "mean-pool" / name).read_bytes()


def test_predictions_of_other_folds_are_not_compared(run):
    done = evaluate(run, "--against", run / "mean-pool" / "fold-1")
    assert_failed(done, "of different patients")
    assert not (run.parent / "report").exists()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


FINISHED: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "predictions cut": (TABLE, rows_less),
    "no digests": (DIGESTS, lambda c: None),
    "no config": ("bundle/config.json", lambda c: None),
    "config cut": ("bundle/config.json", half),
    "weights cut": ("bundle/model.safetensors", half),
    "no metrics": ("metrics.csv", lambda c: None),
    "metrics empty": ("metrics.csv", lambda c: b""),
}


@pytest.mark.parametrize("fault", FINISHED)
def test_a_finished_fold_that_lost_something_is_named_with_a_way_out(cohort, run, trained, fault):
    name, change = FINISHED[fault]
    place = run / "mean-pool" / "fold-1"
    put(place / name, change((place / name).read_bytes()))
    assert_failed(
        train(cohort, run, "--folds", 2), f"remove {place} to have the fold trained again"
    )
    if fault == "weights cut":
        shutil.rmtree(place)
        done = train(cohort, run, "--folds", 2)
        assert done.exit_code == 0, done.output
        whole = (trained / "mean-pool" / "fold-1" / TABLE).read_bytes()
        assert (place / TABLE).read_bytes() == whole


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_ensemble_is_made_again(cohort, run, trained, name):
    place = run / "mean-pool" / "ensemble" / name
    put(place, half(place.read_bytes()))
    done = train(cohort, run, "--folds", 2)
    assert done.exit_code == 0, done.output
    assert place.read_bytes() == (trained / "mean-pool" / "ensemble" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("run.json", lambda c: None, ["holds no training run", "another --output-path"]),
        ("run.json", half, ["run.json: damaged", "another --output-path"]),
        ("splits.csv", half, ["splits.csv", "make the folds again"]),
    ],
)
def test_a_run_that_lost_its_record(cohort, run, name, change, words):
    put(run / name, change((run / name).read_bytes()))
    assert_failed(train(cohort, run, "--folds", 2), *words)


# Feature files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def feature_files(cohort, tmp_path_factory) -> Path:
    """The h5 files of two slides as `tiacf convert` writes them."""
    folder = tmp_path_factory.mktemp("features")
    stores = sorted((cohort / "bags").iterdir())[:2]
    assert [done.status for done in convert(stores, folder, output_format="h5")] == ["ok", "ok"]
    for path in folder.rglob("*.h5"):
        with h5py.File(path, "a") as file:  # as another program's
            del file.attrs["tiacrossfusion_provenance"]
    return folder


def dataset(name: str, **content: Any) -> Callable[[Path], None]:
    """Put another dataset in the place of one."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "a") as file:
            attributes = dict(file[name].attrs)
            del file[name]
            file.create_dataset(name, **content).attrs.update(attributes)

    return spoil


def packed_twice(path: Path) -> None:
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((16, 4))
    for _ in range(2):
        layout.set_deflate(9)
    with h5py.File(path, "a") as file:
        del file["features"]
        h5py.h5d.create(
            file.id, b"features", h5py.h5t.NATIVE_INT16, h5py.h5s.create_simple((16, 4)), layout
        )
        file["features"][:] = 1


def attribute(**said: object) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "a") as file:
            file["coords"].attrs.update(said)

    return spoil


def group_of(name: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            file.create_group(name)

    return spoil


FILES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    **{
        f"cut at {tenth}0 %": (
            lambda path, n=tenth: path.write_bytes(
                path.read_bytes()[: path.stat().st_size * n // 10]
            ),
            ["cannot be read as HDF5", "make it again"],
        )
        for tenth in range(10)
    },
    "a broken link": (
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
        ["No such file"],
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), ["cannot be read as HDF5"]),
    "10**12 rows, none written": (
        dataset("features", shape=(10**12, 4), dtype="f4", chunks=(1000, 4)),
        ["1000000000 of 1000000000 parts of /features were never written", "make the file again"],
    ),
    "never written": (
        dataset("features", shape=(10**8, 4), dtype="f4"),
        ["parts of /features were never written", "make the file again"],
    ),
    "coords of 10**12 rows": (
        dataset("coords", shape=(10**12, 2), dtype="i8", chunks=(1000, 2)),
        ["parts of /coords were never written"],
    ),
    "a part that would fill the memory": (
        dataset(
            "coords",
            data=np.zeros((16, 2), "i8"),
            maxshape=(None, 2),
            chunks=(2**23, 2),
            scaleoffset=0,
            compression="gzip",
        ),
        ["/coords is said to hold 134,217,728 bytes", "make it again"],
    ),
    "packed twice": (packed_twice, ["/features is said to hold 128 bytes"]),
    "complex": (dataset("features", data=np.ones((16, 4), "c8")), ["features are complex64"]),
    "text": (dataset("features", data=np.full((16, 4), b"x")), ["features are |S1"]),
    "a number": (dataset("features", data=1.0), ["features have the shape ()"]),
    "nothing": (dataset("features", data=h5py.Empty("f4")), ["cannot be read as HDF5"]),
    "a group": (group_of("features"), ["no features or feats"]),
    "coords a group": (group_of("coords"), ["coords are no dataset"]),
    "coords text": (dataset("coords", data=np.full((16, 2), b"x")), ["coords are |S1"]),
    "coords nan": (
        dataset("coords", data=np.full((16, 2), np.nan)),
        ["coords are not all numbers"],
    ),
    "another slide": (attribute(name="x" * 50_000), ["differ in the slide"]),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_feature_file_at_fault_is_named_and_the_other_slide_converted(
    feature_files, tmp_path, fault
):
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(feature_files, source)
    spoil, words = FILES[fault]
    victim = sorted((source / "x20").glob("*.h5"))[1]
    spoil(victim)
    done = tiacf("convert", "--bags", source, "--output-path", out)
    assert done.exit_code == 1, done.output
    assert "1 of 2 slides converted" in done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("FAILED")]
    assert len(line) < 700
    assert "unexpected" not in line
    for word in (victim.stem, *words, "; "):
        assert word in line
    assert sorted(path.name for path in out.iterdir()) == [
        f"{sorted(source.glob('x5/*.h5'))[0].stem}.zarr",
        "tiacf.log",
    ]


@pytest.mark.parametrize("said", [{"patch_size": "big"}, {"level0_width": 1e300}, {"overlap": "x"}])
def test_attributes_that_say_nothing_are_passed_over(feature_files, tmp_path, said):
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(feature_files, source)
    for path in source.rglob("*.h5"):
        attribute(**said)(path)
    done = tiacf("convert", "--bags", source, "--output-path", out)
    assert done.exit_code == 0, done.output
    assert len(FeatureBag.load(next(out.glob("*.zarr"))).scales["20x"]) == 16
