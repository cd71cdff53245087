"""Bags at fault: each is named in one line with the remedy, and the others of its run are done."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr
import zarr.codecs
from click.testing import Result
from command_line import assert_failed, assert_refused, tiacf

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.models.source import LoadedModel
from tiacrossfusion.runs.prediction import predict
from tiacrossfusion.runs.prediction_task import PredictionOptions
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.truth import SlideTruth
from tiacrossfusion.slides.spec import SCALES

FIELDS = ("features", "bounds", "grid")
METADATA = (
    "zarr.json",
    *(f"{scale}/zarr.json" for scale in SCALES),
    *(f"{scale}/{field}/zarr.json" for scale in SCALES for field in FIELDS),
)
CHUNKS = tuple(f"{scale}/{field}/c/0/0" for scale in SCALES for field in FIELDS)

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(demo_bundle, tmp_path_factory) -> Path:
    """A bag that the demonstration model takes."""
    folder = tmp_path_factory.mktemp("good")
    encoder, sampling = demo_bundle.config.encoder, demo_bundle.config.sampling
    simulate_bags(
        folder / "of",
        1,
        1,
        scenario="fine",
        slides_per_patient=1,
        encoder_width=encoder.width,
        side=2,
    )
    bag = FeatureBag.load(next((folder / "of" / "bags").glob("*.zarr")))
    fits = {"encoder": encoder, "sampling": sampling}
    replace(bag, provenance=bag.provenance.model_copy(update=fits)).save(folder / "good.zarr")
    return folder / "good.zarr"


# What is done to a bag ----------------------------------------------------------------------------


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change one of the files of metadata."""

    def spoil(store: Path) -> None:
        content = json.loads((store / name).read_text())
        change(content)
        (store / name).write_text(json.dumps(content))

    return spoil


def record(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change what the package says of the bag."""
    return edit("zarr.json", lambda content: change(content["attributes"]["tiacrossfusion"]))


def provenance(**fields: object) -> Spoil:
    return record(lambda content: content["provenance"].update(fields))


def declared(shape: list[int], chunk: list[int]) -> Spoil:
    """Declare other features of 20x than there are."""

    def change(content: dict[str, Any]) -> None:
        content["shape"] = shape
        content["chunk_grid"]["configuration"]["chunk_shape"] = chunk

    return edit("20x/features/zarr.json", change)


def chunk_of_zeros(chunk: list[int], size: int) -> Spoil:
    """Declare another chunk, and pack as many zeros in its place as are given."""

    def spoil(store: Path) -> None:
        declared([64, 6], chunk)(store)
        (store / "20x/features/c/0/0").write_bytes(imagecodecs.zstd_encode(bytes(size), level=1))

    return spoil


def packed_twice(store: Path) -> None:
    group = zarr.open_group(store, mode="a")
    values = np.asarray(group["20x/features"][:])
    del group["20x/features"]
    codecs = [zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec()]
    group.create_array("20x/features", data=values, compressors=codecs)


def array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Write another array in the place of one."""

    def spoil(store: Path) -> None:
        group = zarr.open_group(store, mode="a")
        values = change(np.asarray(group[name][:]))
        del group[name]
        group.create_array(name, data=values)

    return spoil


def fifo(name: str) -> Spoil:
    def spoil(store: Path) -> None:
        (store / name).unlink()
        os.mkfifo(store / name)

    return spoil


def instead(make: Spoil) -> Spoil:
    """Put something else in the place of the whole store."""

    def spoil(store: Path) -> None:
        shutil.rmtree(store)
        make(store)

    return spoil


def packed(store: Path) -> None:
    with zipfile.ZipFile(store, "w") as archive:
        archive.writestr("zarr.json", "{}")


def flip(name: str) -> Spoil:
    def spoil(store: Path) -> None:
        content = bytearray((store / name).read_bytes())
        content[len(content) // 2] ^= 1
        (store / name).write_bytes(content)

    return spoil


def emptied(scale: str) -> Spoil:
    def spoil(store: Path) -> None:
        bag = FeatureBag.load(store)
        none = ScaleFeatures(*(values[:0] for values in vars(bag.scales[scale]).values()))
        replace(bag, scales={**bag.scales, scale: none}).save(store)

    return spoil


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[1, 2] = value
        return values

    return change


#: What cannot even be read, with words of the line on it.
UNREADABLE: dict[str, tuple[Spoil, list[str]]] = {
    **{f"no {name}": (lambda s, n=name: (s / n).unlink(), [f"no {name}"]) for name in METADATA},
    **{
        f"no {name}": (
            lambda s, n=name: (s / n).unlink(),
            [f"1 of 1 chunks of {name.removesuffix('/c/0/0')} are missing"],
        )
        for name in CHUNKS
    },
    **{
        f"{name} cut to {part}": (
            lambda s, n=name, p=part: (s / n).write_bytes((s / n).read_bytes()[: p // 2 * 20]),
            ["damaged"],
        )
        for name in (*METADATA, *CHUNKS)
        for part in (0, 2)
    },
    **{f"a bit of {name}": (flip(name), ["damaged"]) for name in CHUNKS},
    **{
        f"no {scale} at all": (
            lambda s, n=scale: shutil.rmtree(s / n),
            [f"has no {scale} features"],
        )
        for scale in SCALES
    },
    "no bounds": (lambda s: shutil.rmtree(s / "10x/bounds"), ["10x bounds has no array"]),
    "nan": (array("10x/features", with_value(np.nan)), ["10x features are not finite, 1 of"]),
    "inf": (array("20x/features", with_value(-np.inf)), ["20x features are not finite, 1 of"]),
    **{
        f"features {kind}": (array("5x/features", lambda v, k=kind: v.astype(k)), words)
        for kind, words in {
            "int64": ["5x features are int64, not float16"],
            "float64": ["5x features are float64, not float16"],
            "complex64": ["5x features are complex64"],
            "bool": ["5x features are bool"],
        }.items()
    },
    "features text": (array("5x/features", lambda v: v.astype("S4")), ["5x/features holds no num"]),
    "features objects": (
        edit("5x/features/zarr.json", lambda c: c.update(data_type="object")),
        ["damaged"],
    ),
    "features flat": (array("5x/features", lambda v: v.ravel()), ["5x features has the shape"]),
    "features stacked": (array("5x/features", lambda v: v[None]), ["5x features has the shape"]),
    "features narrow": (array("5x/features", lambda v: v[:, 1:]), ["5x features has the shape"]),
    "a patch less": (array("5x/features", lambda v: v[1:]), ["5x bounds has the shape (4, 4)"]),
    "bounds float64": (array("10x/bounds", lambda v: v.astype(float)), ["bounds are float64"]),
    "bounds nan": (array("10x/bounds", lambda v: v * np.nan), ["bounds are float64"]),
    "bounds inverted": (array("10x/bounds", lambda v: v[:, [2, 3, 0, 1]]), ["no rectangles"]),
    "bounds huge": (array("10x/bounds", lambda v: v + 2**61), ["bounds of 16 of 16 patches"]),
    "grid float64": (array("10x/grid", lambda v: v.astype(float)), ["grid are float64"]),
    "grid negative": (array("10x/grid", lambda v: v - 9), ["grid has columns or rows below 0"]),
    "grid far": (array("10x/grid", lambda v: v + 2**14), ["grid has columns or rows", "16384"]),
    "no json": (lambda s: (s / "zarr.json").write_text("{ no"), ["not a feature bag"]),
    "null": (lambda s: (s / "zarr.json").write_text("null"), ["not a feature bag"]),
    "deep json": (lambda s: (s / "zarr.json").write_text("[" * 10**5), ["not a feature bag"]),
    "no text": (lambda s: (s / "zarr.json").write_bytes(b"\xff\xfe\0"), ["not a feature bag"]),
    "not ours": (edit("zarr.json", lambda c: c["attributes"].clear()), ["not a feature bag"]),
    "older": (
        record(lambda c: c.update(store_version=0)),
        ["store version 0, this program reads 1"],
    ),
    "newer": (record(lambda c: c.update(store_version=2)), ["store version 2", "update"]),
    "no version": (record(lambda c: c.pop("store_version")), ["not a feature bag"]),
    "long version": (record(lambda c: c.update(store_version="x\n" * 9999)), ["not a feature bag"]),
    "no provenance": (record(lambda c: c.pop("provenance")), ["not a feature bag"]),
    "unknown field": (provenance(colours=3), ["colours: Extra inputs"]),
    "no encoder": (record(lambda c: c["provenance"].pop("encoder")), ["encoder: Field required"]),
    "mpp negative": (provenance(mpp=[-0.5, 0.5]), ["mpp.0", "greater than 0"]),
    "mpp absurd": (provenance(mpp=[1e306, 1e306]), ["mpp.0", "less than 1000000"]),
    "offset absurd": (provenance(offset=[10**30, 0]), ["offset.0"]),
    "mpp nan": (provenance(mpp=["nan", 0.5]), ["mpp.0", "finite"]),
    "dimensions negative": (provenance(dimensions=[-5, 9]), ["dimensions.0", "greater than 0"]),
    "encoder of another width": (
        record(lambda c: c["provenance"]["encoder"].update(width=7)),
        ["5x features has the shape"],
    ),
    "10**12 rows": (
        declared([10**12, 6], [10**12, 6]),
        ["20x/features is said to hold 1e+13 bytes"],
    ),
    "10**12 rows in chunks": (
        declared([10**12, 6], [16, 6]),
        ["62499999999 of 62500000000 chunks"],
    ),
    "a chunk larger than its array": (
        chunk_of_zeros([2**26, 6], 2**26 * 12),
        ["20x/features is said to hold 8e+08 bytes"],
    ),
    "a chunk with more than it may hold": (
        chunk_of_zeros([64, 6], 10**9),
        ["1 of 1 chunks of 20x/features are of another size than 768 bytes"],
    ),
    "a chunk that does not say its size": (
        lambda s: (s / "20x/features/c/0/0").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(99)),
        ["1 of 1 chunks of 20x/features are of another size"],
    ),
    "packed otherwise": (packed_twice, ["20x/features is packed with bytes, gzip, zstd"]),
    "text that cannot be written": (provenance(slide="a\udcff.svs"), ["UnicodeEncodeError"]),
    "2**63 rows": (declared([2**63, 6], [2**63, 6]), ["20x/features is said to hold"]),
    "chunks of nothing": (declared([64, 6], [0, 6]), ["damaged"]),
    "-5 rows": (declared([-5, 6], [16, 6]), ["damaged"]),
    "a chunk that is a pipe": (fifo("20x/features/c/0/0"), ["1 of 1 chunks of 20x/features"]),
    "metadata that are a pipe": (fifo("5x/zarr.json"), ["no 5x/zarr.json"]),
    "a pipe": (instead(os.mkfifo), ["no zarr.json"]),
    "a zip": (instead(packed), ["no zarr.json"]),
    "a text": (instead(lambda s: s.write_text("bag")), ["no zarr.json"]),
    "an empty file": (instead(Path.touch), ["no zarr.json"]),
    "an empty folder": (instead(Path.mkdir), ["no zarr.json"]),
    "a broken link": (instead(lambda s: s.symlink_to("nowhere")), ["a link to a file that is not"]),
    "a loop of links": (instead(lambda s: s.symlink_to(s)), ["a link to a file that is not there"]),
}

#: What is a bag, but none that this model can take.
UNFIT: dict[str, tuple[Spoil, list[str]]] = {
    "another encoder": (
        record(lambda c: c["provenance"]["encoder"].update(name="another")),
        ["made with encoder name = another", "extract the slide again"],
    ),
    "another sampling": (
        record(lambda c: c["provenance"]["sampling"].update(patch_size=512)),
        ["made with sampling patch_size = 512", "extract the slide again"],
    ),
    "grid elsewhere": (
        array("10x/grid", lambda v: v + 99),
        ["in no 5x patch", "extract the slide again"],
    ),
    **{
        f"no patch at {scale}": (emptied(scale), [f"no patches at {scale}", "extract it again"])
        for scale in SCALES
    },
}
FAULTS = UNREADABLE | UNFIT


def name_of(fault: str) -> str:
    return fault.replace("/", "_").replace("*", "x")


def spoilt(good: Path, store: Path, fault: str) -> Path:
    """A copy of a good bag, named in its provenance as its store is, with a fault."""
    shutil.copytree(good, store)
    provenance(slide=store.stem)(store)
    FAULTS[fault][0](store)
    return store


# One run over all of them -------------------------------------------------------------------------


@dataclass
class Run:
    stores: Path
    out: Path
    result: Result
    rows: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def stores(good, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    for fault in FAULTS:
        spoilt(good, folder / f"{name_of(fault)}.zarr", fault)
    for name in ("good.zarr", "zz good.zarr", ".being made.zarr", "half.zarr.1234.part"):
        shutil.copytree(good, folder / name)
    return folder


@pytest.fixture(scope="module")
def predicted(stores, tmp_path_factory) -> Run:
    out = tmp_path_factory.mktemp("predicted") / "out"
    result = tiacf("predict", "--bags", stores, "--output-path", out, "--no-attribution")
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    return Run(stores, out, result, rows)


def test_good_bags_beside_the_bad_are_predicted(predicted):
    assert predicted.result.exit_code == 1
    assert "Traceback" not in predicted.result.output
    assert f"2 of {len(FAULTS) + 2} bags done" in predicted.result.output
    assert set(predicted.rows) == {*map(name_of, FAULTS), "good", "zz good"}
    for name in ("good", "zz good"):
        assert predicted.rows[name]["status"] == "ok"
        assert (predicted.out / f"{name}.geojson").is_file()
    assert predicted.rows["good"]["risk"] == predicted.rows["zz good"]["risk"]
    left = [path.name for path in predicted.out.rglob("*") if path.name.endswith((".part", ".old"))]
    assert not left
    assert not list((predicted.out / ".tiacf").rglob("staging*/*"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_bag_is_named_in_one_line_and_leaves_nothing(predicted, fault):
    name, words = name_of(fault), FAULTS[fault][1]
    row = predicted.rows[name]
    assert row["status"] == "failed"
    assert row["risk"] == ""
    lines = [line for line in predicted.result.output.splitlines() if row["message"] in line]
    assert len(lines) == 1
    assert lines[0].startswith("FAILED")
    for word in (name, *words):
        assert word in row["message"]
    assert "; " in row["message"]  # the remedy
    assert len(row["message"]) < 700
    assert "unexpected" not in row["message"]
    assert not [path.name for path in predicted.out.glob(f"{name}[._]*")]


@pytest.mark.parametrize("fault", UNREADABLE)
def test_reading_it_raises_one_clear_line(stores, fault):
    with pytest.raises(TiacfError) as caught:
        FeatureBag.load(stores / f"{name_of(fault)}.zarr")
    assert f"{name_of(fault)}.zarr: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_converting_the_folder_does_the_others(stores, tmp_path):
    done = tiacf(
        "convert", "--bags", stores, "--output-format", "pt", "--output-path", tmp_path / "o"
    )
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    failed = [line for line in done.output.splitlines() if line.startswith("FAILED")]
    assert len(failed) == len(UNREADABLE)
    for fault in UNREADABLE:
        (line,) = [line for line in failed if f"/{name_of(fault)}.zarr: " in line]
        assert "; " in line
    made = {path.stem for path in (tmp_path / "o" / "x20" / "pt_files").iterdir()}
    assert made == {*map(name_of, UNFIT), "good", "zz good"}


def test_from_python_each_has_its_outcome(stores, demo_bundle):
    names = ["good", "nan", "another encoder", "a broken link"]
    outcomes = predict(
        [stores / f"{name}.zarr" for name in names],
        LoadedModel(bundle=demo_bundle),
        None,
        PredictionOptions(attribution=False),
        are_bags=True,
        show_progress=False,
    ).outcomes
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "failed", "failed"]
    for name, outcome in zip(names[1:], outcomes[1:], strict=True):
        assert name in outcome.message


def test_a_bag_that_was_mended_is_predicted_and_the_others_skipped(good, tmp_path):
    stores, out = tmp_path / "bags", tmp_path / "out"
    shutil.copytree(good, stores / "a.zarr")
    spoilt(good, stores / "b.zarr", "no 20x/features/c/0/0")
    command = ("predict", "--bags", stores, "--output-path", out, "--no-attribution")
    assert tiacf(*command).exit_code == 1
    shutil.rmtree(stores / "b.zarr")
    shutil.copytree(good, stores / "b.zarr")
    done = tiacf(*command)
    assert done.exit_code == 0, done.output
    assert "2 of 2 bags done (1 finished before)" in done.output


@pytest.mark.parametrize("fault", ["a zip", "a text", "an empty folder", "no zarr.json"])
def test_a_bad_bag_given_alone(good, tmp_path, fault):
    store = spoilt(good, tmp_path / "a.zarr", fault)
    done = tiacf("predict", "--bags", store, "--output-path", tmp_path / "out")
    assert done.exit_code == 1
    assert "0 of 1 bags done" in done.output
    assert "a.zarr: not a feature bag" in done.output


@pytest.mark.parametrize("fault", ["a broken link", "a loop of links"])
def test_a_path_that_leads_nowhere_is_a_wrong_option(good, tmp_path, fault):
    store = spoilt(good, tmp_path / "a.zarr", fault)
    done = tiacf("predict", "--bags", store, "--output-path", tmp_path / "out")
    assert_refused(done, "a.zarr", "--bags", code=2 if fault == "a broken link" else done.exit_code)
    assert not (tmp_path / "out").exists()


def test_a_store_may_hold_float32_zeros_and_a_single_patch(good, tmp_path):
    bag = FeatureBag.load(good)
    one = {
        name: ScaleFeatures(
            np.zeros((1, scale.features.shape[1]), np.float32), scale.bounds[:1], 0 * scale.grid[:1]
        )
        for name, scale in bag.scales.items()
    }
    FeatureBag(one, bag.provenance).save(tmp_path / "a.zarr")
    again = FeatureBag.load(tmp_path / "a.zarr")
    assert again.scales["5x"].features.dtype == np.float32
    for scale in again.scales.values():
        assert not scale.features.any()
        assert scale.grid.tolist() == [[0, 0]]


def test_what_may_not_be_read_says_so(good):
    """For root every file may be read: it asks as another user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for place in ("", "20x/features/c"):
            store = folder / f"a{place.replace('/', '')}.zarr"
            shutil.copytree(good, store)
            (store / place).chmod(0)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            for store in sorted(folder.iterdir()):
                with pytest.raises(TiacfError, match=r"cannot be read \(Permission.*its rights"):
                    FeatureBag.load(store)
        finally:
            if root:
                os.seteuid(0)
            for store in folder.iterdir():
                for place in ("", "20x/features/c"):
                    (store / place).chmod(0o755)


# Other commands that take bags --------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder,
        30,
        3,
        scenario="fine",
        censored_share=0.2,
        slides_per_patient=1,
        encoder_width=4,
        side=1,
    )
    (folder / "small.yaml").write_text(
        "time_unit: months\nnetwork: {embed_dim: 8, num_bins: 2}\n"
        "fitting: {epochs: 1, warm_up: 0}\nprotocol: {protocol: holdout}\nmodels: [mean-pool]\n"
    )
    return folder


@pytest.mark.parametrize(
    "fault", ["nan", "no 20x/features/c/0/0", "another encoder", "no patch at 10x", "a zip"]
)
def test_training_names_the_bag_and_goes_on_when_it_is_mended(cohort, tmp_path, fault):
    bags, out = tmp_path / "bags", tmp_path / "run"
    shutil.copytree(cohort / "bags", bags)
    victim = sorted(bags.iterdir())[7]
    FAULTS[fault][0](victim)
    options = ("--config", cohort / "small.yaml", "--output-path", out)
    command = ("train", "--bags", bags, "--table", cohort / "cohort.csv", *options)
    done = tiacf(*command)
    assert_failed(done, victim.stem, "; extract")
    assert not list(out.rglob("*.ckpt")) + list(out.rglob("out_of_fold.csv"))
    if fault == "nan":
        with suppress(FileNotFoundError):
            shutil.rmtree(victim)
        shutil.copytree(cohort / "bags" / victim.name, victim)
        done = tiacf(*command)
        assert done.exit_code == 0, done.output


def test_training_leaves_bags_that_are_being_made_alone(cohort, tmp_path):
    shutil.copytree(cohort / "bags", tmp_path / "bags")
    (tmp_path / "bags" / ".SIM-0001.zarr").mkdir()
    done = tiacf(
        *("train", "--bags", tmp_path / "bags", "--table", cohort / "cohort.csv"),
        *("--config", cohort / "small.yaml", "--output-path", tmp_path / "run"),
    )
    assert done.exit_code == 0, done.output
    assert "belong to no slide" not in done.output


@pytest.mark.parametrize("fault", ["inf", "no 5x/bounds/c/0/0", "another encoder"])
def test_faithfulness_of_a_bad_bag(good, tmp_path, fault):
    store = spoilt(good, tmp_path / "bags" / "a.zarr", fault)
    options = ("--model", "crossfusion-demo", "--output-path", tmp_path / "out")
    done = tiacf("evaluate", "--faithfulness", "--bags", store.parent, *options)
    assert_failed(done, "a", *FAULTS[fault][1])
    assert not (tmp_path / "out").exists()


def truth() -> SlideTruth:
    maps = [np.zeros((9, 9), bool)] * 5
    return SlideTruth(TissueParameters(0.1, 0.1, 0.1), 0.0, 8.0, *maps)


TRUTHS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("truth"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "one array": lambda path: np.savez(path, tissue=np.zeros((9, 9), bool)),
    "maps of two sizes": lambda path: replace(truth(), nuclei=np.zeros((3, 9), bool)).save(path),
    "maps of numbers": lambda path: replace(truth(), nuclei=np.full((9, 9), 0.5)).save(path),
    "pixels of no size": lambda path: replace(truth(), mpp_of_maps=0.0).save(path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("fault", TRUTHS)
def test_a_truth_that_cannot_be(tmp_path, fault):
    path = tmp_path / "a.npz"
    truth().save(path)
    TRUTHS[fault](path)
    with pytest.raises(TiacfError, match=r"a\.npz: not the truth of a simulated slide") as caught:
        SlideTruth.load(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_truth_ends_faithfulness_in_one_line(good, tmp_path):
    shutil.copytree(good, tmp_path / "bags" / "a.zarr")
    (tmp_path / "a.npz").write_text("truth")
    options = (
        "--model",
        "crossfusion-demo",
        "--truth",
        tmp_path,
        "--output-path",
        tmp_path / "out",
    )
    done = tiacf("evaluate", "--faithfulness", "--bags", tmp_path / "bags", *options)
    assert_failed(done, "a.npz", "simulate the slides again")
    assert not (tmp_path / "out").exists()


def test_status_looks_past_what_is_no_bag(stores, tmp_path):
    (stores / "zz good.zarr" / "gone").symlink_to("nowhere")
    done = tiacf("status", stores)
    assert done.exit_code == 0, done.output
    assert f"bags without a record: {len(FAULTS) + 2}" in done.output
