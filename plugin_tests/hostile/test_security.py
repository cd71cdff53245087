"""Nothing that a file says is run, obeyed or fetched: pickles, metadata, names, texts and hub ids."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pickle
import shutil
import socket
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from click.testing import Result
from command_line import assert_failed, tiacf

import tiacrossfusion
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.models.config import BundleConfig
from tiacrossfusion.models.files import shipped_bundles
from tiacrossfusion.outputs.report.fragment import ReportSlide
from tiacrossfusion.outputs.report.writing import ReportRun, write_report
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.simulation.truth import SlideTruth
from tiacrossfusion.training.checkpoints import WholeCheckpoints

PACKAGE = Path(tiacrossfusion.__file__).parent
DEMO = shipped_bundles()["crossfusion-demo"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """45 patients: bags of features of width 4, a table, and settings of a tiny training."""
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder, 45, 3, scenario="fine", strength=2.0, censored_share=0.3, encoder_width=4, side=1
    )
    (folder / "small.yaml").write_text(
        "network: {embed_dim: 8, num_bins: 2}\n"
        "fitting: {epochs: 1, warm_up: 0, patients_per_step: 8}\n"
        "protocol: {protocol: holdout}\n"
    )
    return folder


@pytest.fixture(scope="module")
def demo_bag(cohort, tmp_path_factory) -> Path:
    """A bag that fits the demonstration model."""
    made = tmp_path_factory.mktemp("demo")
    simulate_bags(made / "of", 1, 1, scenario="product", encoder_width=96, side=1)
    bag = FeatureBag.load(next((made / "of" / "bags").glob("*.zarr")))
    config = load_bundle(DEMO).config
    fits = {"encoder": config.encoder, "sampling": config.sampling}
    replace(bag, provenance=bag.provenance.model_copy(update=fits)).save(made / "a.zarr")
    return made / "a.zarr"


def train(cohort: Path, out: Path, *options: object) -> Result:
    given = ["--bags", cohort / "bags", "--table", cohort / "cohort.csv", "--output-path", out]
    settings = ["--config", cohort / "small.yaml", "--time-unit", "weeks", "--model", "mean-pool"]
    return tiacf("train", *given, *settings, *options)


# Pickles


class _Code:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable, argument: object) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> Any:
        return self.call


def payloads(marker: Path) -> dict[str, object]:
    """What would leave a file if it were unpickled."""
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    return {
        "os.system": _Code(os.system, command),
        "eval": _Code(eval, code),
        "in a state dict": {"state_dict": {"a": torch.ones(1), "b": _Code(os.system, command)}},
        "as a key": {_Code(os.system, command): torch.ones(1)},
    }


def _in_tar(content: object, path: Path) -> None:
    """The format of before PyTorch 0.1.10."""
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


WRITERS: dict[str, Callable[[object, Path], object]] = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "tar": _in_tar,
}


def import_checkpoint(file: Path, tmp_path: Path) -> Result:
    out = ["--output-path", tmp_path / "out"]
    return tiacf("import-checkpoint", file, "--encoder", "stain-texture", *out)


def encoder_weights(file: Path, tmp_path: Path) -> Result:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").write_bytes(b"")
    out = ["--img-input", tmp_path / "slides", "--output-path", tmp_path / "out"]
    return tiacf("extract", "--encoder", "timm:test_vit", "--encoder-weights", file, *out)


def weights_of_an_import(file: Path, tmp_path: Path) -> Result:
    out = ["--encoder", "timm:test_vit", "--output-path", tmp_path / "out"]
    (tmp_path / "later.pt").touch()  # is looked at after the encoder
    return tiacf("import-checkpoint", tmp_path / "later.pt", "--encoder-weights", file, *out)


def tensors_of_features(file: Path, tmp_path: Path) -> Result:
    for scale, count in (("x5", 2), ("x10", 8), ("x20", 32)):
        folder = tmp_path / "in" / scale / "pt_files"
        folder.mkdir(parents=True)
        torch.save(torch.ones(count, 4), folder / "s.pt")
    shutil.copy(file, tmp_path / "in" / "x10" / "pt_files" / "s.pt")
    out = ["--output-path", tmp_path / "out", "--encoder", "e"]
    return tiacf("convert", "--bags", tmp_path / "in", *out)


DOORS = (import_checkpoint, encoder_weights, weights_of_an_import, tensors_of_features)


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_no_door_unpickles_code(tmp_path, door, writer):
    marker = tmp_path / "ran"
    for number, content in enumerate(payloads(marker).values()):
        (tmp_path / str(number)).mkdir()
        file = tmp_path / str(number) / "evil.pt"
        WRITERS[writer](content, file)
        result = door(file, file.parent)
        assert_failed(result, "evil.pt" if door is not tensors_of_features else "s.pt")
        assert not marker.exists()
        assert not list((file.parent / "out").glob("*.zarr"))
        assert not (file.parent / "out" / "config.json").exists()


def test_the_payloads_would_run(tmp_path):
    """Else the tests above would show nothing."""
    marker = tmp_path / "ran"
    for content in payloads(marker).values():
        pickle.loads(pickle.dumps(content))
        assert marker.exists()
        marker.unlink()


@pytest.fixture(scope="module")
def interrupted_run(cohort, tmp_path_factory) -> Path:
    """A training run that ended between its last epoch and its bundle."""
    out = tmp_path_factory.mktemp("run") / "run"

    def stop(*_: object) -> None:
        raise TiacfError("the disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiacrossfusion.training.fit.save_fold_bundle", stop)
        assert_failed(train(cohort, out), "the disk is full")
    return out


@pytest.mark.parametrize(("name", "content"), [("last.ckpt", "code"), ("best.ckpt", "damage")])
def test_a_run_is_not_resumed_from_a_poisoned_checkpoint(
    cohort, interrupted_run, tmp_path, name, content
):
    run = Path(shutil.copytree(interrupted_run, tmp_path / "run"))
    checkpoint = run / "mean-pool" / "fold-0" / name
    state = torch.load(checkpoint, weights_only=True)
    if content == "code":
        torch.save(state | {"hparams": payloads(tmp_path / "ran")["os.system"]}, checkpoint)
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-500])
    assert_failed(train(cohort, run), str(checkpoint), "remove", "train this fold again")
    assert not (tmp_path / "ran").exists()
    if name == "last.ckpt":
        shutil.rmtree(checkpoint.parent)
        mended = train(cohort, run)
        assert mended.exit_code == 0, mended.output


def test_lightning_s_own_resuming_reads_no_pickles(tmp_path):
    evil = {"state_dict": {}, "callbacks": {}, "x": payloads(tmp_path / "ran")["eval"]}
    torch.save(evil, tmp_path / "last.ckpt")
    with pytest.raises(TiacfError, match=r"last\.ckpt: not loaded"):
        WholeCheckpoints().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["object", "pickle"])
def test_masks_and_truths_are_not_unpickled(demo_bag, simulated, tmp_path, kind):
    marker = tmp_path / "ran"
    evil = payloads(marker)["os.system"]
    for name in ("low.npy", "truth.npz"):
        if kind == "pickle":
            (tmp_path / name).write_bytes(pickle.dumps(evil))
        elif name.endswith("npy"):
            np.save(tmp_path / name, np.array([[evil]], dtype=object), allow_pickle=True)
        else:
            np.savez(tmp_path / name, parameters=np.array([evil], dtype=object))
    out = ["--output-path", tmp_path / "out", "--masks", tmp_path / "low.npy"]
    result = tiacf("extract", "--img-input", simulated / "low.svs", *out)
    assert_failed(result, "low.npy")
    with pytest.raises(TiacfError, match=r"truth\.npz"):
        SlideTruth.load(tmp_path / "truth.npz")
    assert not marker.exists()


def _version_2(source: Path, target: Path, **metadata: Any) -> Path:
    """The bag as a store of zarr 2, whose features are declared otherwise; returns their folder."""
    bag = zarr.open_group(source, mode="r")
    copy = zarr.create_group(target, zarr_format=2)
    copy.attrs.update(dict(bag.attrs))
    for scale in ("5x", "10x", "20x"):
        for name, array in bag[scale].arrays():
            copy.create_array(f"{scale}/{name}", data=array[:])
    features = target / "20x" / "features"
    declared = json.loads((features / ".zarray").read_text())
    (features / ".zarray").write_text(json.dumps(declared | metadata))
    return features


def _version_3(source: Path, target: Path, codecs: list[dict[str, Any]]) -> Path:
    shutil.copytree(source, target)
    features = target / "20x" / "features"
    declared = json.loads((features / "zarr.json").read_text())
    (features / "zarr.json").write_text(json.dumps(declared | {"codecs": codecs}))
    return features


PICKLE = {"id": "pickle", "protocol": 5}
STORES: dict[str, Callable[[Path, Path], Path]] = {
    "objects in zarr 2": lambda source, target: _version_2(
        source, target, dtype="|O", filters=[PICKLE], compressor=None, fill_value=None
    ),
    "a filter in zarr 2": lambda source, target: _version_2(
        source, target, filters=[PICKLE], compressor=None
    ),
    "a compressor in zarr 2": lambda source, target: _version_2(
        source, target, filters=None, compressor=PICKLE
    ),
    "a codec in zarr 3": lambda source, target: _version_3(
        source, target, [{"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]
    ),
    "another codec in zarr 3": lambda source, target: _version_3(
        source, target, [{"name": "pickle"}]
    ),
}


@pytest.mark.filterwarnings("ignore:.*")
def test_bags_are_not_unpickled(demo_bag, tmp_path):
    marker, stores = tmp_path / "ran", tmp_path / "bags"
    for how, make in STORES.items():
        features = make(demo_bag, stores / f"{how}.zarr")
        for chunk in features.rglob("*"):
            if chunk.is_file() and chunk.name not in (".zarray", ".zattrs", "zarr.json"):
                chunk.write_bytes(pickle.dumps(payloads(marker)["os.system"]))
    shutil.copytree(demo_bag, stores / "good.zarr")
    result = tiacf("predict", "--bags", stores, "--output-path", tmp_path / "out")
    assert not marker.exists()
    assert result.exit_code == 1
    assert f"1 of {len(STORES) + 1} bags done" in result.output
    for how in STORES:
        (line,) = [line for line in result.output.splitlines() if f"{how}.zarr" in line]
        assert line.startswith("FAILED")
        assert "extract it again" in line


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system"])
def test_settings_construct_nothing(cohort, tmp_path, tag):
    (tmp_path / "evil.yaml").write_text(f"seed: {tag} ['touch {tmp_path / 'ran'}']\n")
    result = train(cohort, tmp_path / "out", "--config", tmp_path / "evil.yaml")
    assert_failed(result, "evil.yaml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["references", "link", "external"])
def test_feature_files_lead_nowhere_else(tmp_path, kind):
    """An .h5 file can hold references to objects, and take a dataset from another file."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["features"] = np.full((8, 4), 7.0, np.float32)
    secret.with_suffix(".raw").write_bytes(bytes(8 * 4 * 4))
    for scale in ("x5", "x10", "x20"):
        folder = tmp_path / "in" / scale / "h5_files"
        folder.mkdir(parents=True)
        with h5py.File(folder / "s.h5", "w") as file:
            file["coords"] = np.array([[i * 256, 0] for i in range(8)])
            if kind == "references":
                references = file.create_dataset("features", (8, 4), dtype=h5py.ref_dtype)
                references[0, 0] = file["coords"].ref
            elif kind == "link":
                file["features"] = h5py.ExternalLink(str(secret), "/features")
            else:
                place = [(str(secret.with_suffix(".raw")), 0, h5py.h5f.UNLIMITED)]
                file.create_dataset("features", (8, 4), dtype="f4", external=place)
    options = ["--output-path", tmp_path / "out", "--encoder", "e"]
    result = tiacf("convert", "--bags", tmp_path / "in", *options)
    assert_failed(result, ".h5")
    assert not list((tmp_path / "out").glob("*.zarr"))


# The package's own code


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func)


def _given(call: ast.Call, keyword: str) -> str | None:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == keyword), None)


def _is_safe(call: ast.Call, loaders: set[str]) -> bool:
    """Whether YAML is read as plain values."""
    return _name(call) == "yaml.safe_load" or ast.unparse(call.args[-1]) in loaders


def _forbidden(path: Path) -> Iterator[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    safe = {  # loaders of YAML
        node.name
        for node in nodes
        if isinstance(node, ast.ClassDef) and "yaml.SafeLoader" in map(ast.unparse, node.bases)
    }
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        name = _name(node)
        last = name.rpartition(".")[2]
        bad = (
            (name in ("torch.load", "torch.hub.load") and _given(node, "weights_only") != "True")
            or (last == "load_state_dict_from_hf" and _given(node, "weights_only") != "True")
            or (
                name.startswith(("pickle.", "cloudpickle.", "dill.", "marshal.")) and "load" in last
            )
            or name in ("joblib.load", "pd.read_pickle", "shelve.open", "pickle.Unpickler")
            or (name.startswith("yaml.") and "load" in last and not _is_safe(node, safe))
            or name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen")
            or _given(node, "shell") not in (None, "False")
            or (name in ("np.load", "numpy.load") and _given(node, "allow_pickle") != "False")
            or (last == "extractall" and _given(node, "filter") != "'data'")
        )
        if bad:
            yield f"{path.relative_to(PACKAGE).as_posix()}: {ast.unparse(node)[:80]}"


def test_the_package_calls_nothing_that_runs_what_it_reads():
    found = [line for path in sorted(PACKAGE.rglob("*.py")) for line in _forbidden(path)]
    # What this program's own client sent over the user's cluster, which runs what it is sent.
    assert found == ["runs/cluster.py: pickle.loads(payload)"]


# The report


HOSTILE = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)></style></svg>"
    "&lt;b&gt;{{7*7}}javascript:alert(3)<!--"
)


def report(path: Path, text: str) -> str:
    """A report in which every free text is this one."""
    document = json.loads((DEMO / "config.json").read_text())
    document["version"] = text
    document["card"] = dict.fromkeys(document["card"], text)
    document["time_bins"]["unit"] = document["encoder"]["name"] = text
    for group in document["risk_reference"]["groups"]:
        group["name"] = text
    config = BundleConfig.model_validate(document)
    pixel = "data:image/png;base64,iVBORw0KGgo="
    box = {"x": 0, "y": 0, "width": 9, "height": 9}
    layer = {"kind": "percentile", "family": text, "name": text, "picture": pixel, **box}
    patch = {"picture": pixel, "percentile": 5, "attribution": None, **box}
    row = {"scale": text, "score": "attention", "bar": {"label": text, "length": 9}}
    survival = [0.9, 0.7, 0.5, 0.2]
    slide = ReportSlide(
        name=text,
        message=text,
        source=text,
        model=text,
        risk=0.5,
        risk_group=text,
        group_rank=0,
        facts={text: text},
        patches={"5x": 1, "10x": 4, "20x": 16},
        survival={
            "survival": survival,
            "edges": [0, 1, 2, 3, 4],
            "unit": text,
            "median": 3,
            "groups": [{"name": text, "patients": 5, "survival": survival}],
        },
        contribution={text: 0.1},
        map={
            "width": 1000,
            "height": 900,
            "ground": layer | {"kind": "photo"},
            "layers": [layer],
            "outlines": [
                {
                    "name": text,
                    "label": text,
                    "note": text,
                    "kind": "raises",
                    "path": "M0 0Z",
                    "x": 0,
                    "y": 0,
                }
            ],
            "bar": {"label": text, "length": 9},
        },
        map_note=text,
        gallery=[row | {"highest": [patch], "lowest": [patch]}],
        gallery_note=text,
    )
    failed = ReportSlide(name=text, status="failed", message=text, source=text)
    write_report(path, ReportRun(config, title=text, date=text, warnings=(text,)), [slide, failed])
    return path.read_text(encoding="utf-8")


class _Structure(HTMLParser):
    """Elements of a page with the names of their attributes, and what can run or lead away."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.comments: list[str] = []
        self.scripts: list[str] = []
        self.targets: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.targets += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self.texts += [value or "" for _, value in attrs]

    def handle_endtag(self, tag):
        self.elements.append((f"/{tag}", ()))

    def handle_comment(self, data):
        self.comments.append(data)

    def handle_data(self, data):
        inside = self.elements[-1][0] if self.elements else ""
        (self.scripts if inside in ("script", "style") else self.texts).append(data)


def test_no_text_becomes_an_element_or_an_attribute_of_the_report(tmp_path):
    plain = _Structure(report(tmp_path / "innocent.html", "innocent"))
    page = report(tmp_path / "hostile.html", HOSTILE)
    hostile = _Structure(page)
    assert hostile.elements == plain.elements
    assert hostile.scripts == plain.scripts
    assert hostile.comments == plain.comments == []
    assert all(target.startswith(("data:", "#")) for target in hostile.targets)

    # Everything that was given stands there, as it was given; keys of layers are of small letters.
    def standing(what: str, texts: list[str]) -> int:
        return sum(what.lower().replace(" ", "-") in t.lower().replace(" ", "-") for t in texts)

    assert standing(HOSTILE, hostile.texts) == standing("innocent", plain.texts) > 20
    assert "49" not in {text.strip() for text in hostile.texts}


# Names: tables and terminals


FORMULA = '=HYPERLINK("http://x","y")\x1b[2J\u202efvs.$\\x$'


def test_names_stay_as_they_are_in_tables_and_obey_nothing_on_a_terminal(demo_bag, tmp_path):
    """Programs join tables by the slides' names: a quoted one would be another slide. A spreadsheet
    takes such a name for a formula, which only the owner of the slides can have given."""
    stores, out = tmp_path / "bags", tmp_path / "out"
    bag = FeatureBag.load(demo_bag)
    named = bag.provenance.model_copy(update={"slide": FORMULA})
    replace(bag, provenance=named).save(stores / "good.zarr")
    (stores / "-bad\x1b[31m\n.zarr").mkdir()
    result = tiacf("predict", "--bags", stores, "--output-path", out)
    assert_failed(result, r"-bad\x1b[31m\n.zarr", "not a feature bag")
    assert not {"\x1b", "\u202e"} & set(result.output)
    assert r'ok      =HYPERLINK("http://x","y")\x1b[2J\u202efvs.$\x$: risk' in result.output
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["slide"]: row for row in csv.DictReader(file)}
    assert rows[FORMULA]["status"] == "ok"
    assert rows["-bad\x1b[31m\n.zarr"]["status"] == "failed"


def test_an_error_that_quotes_a_name_is_one_plain_line(tmp_path):
    result = tiacf("predict", "--bags", tmp_path / "a\x1b]0;x\x07\n.zarr", "--output-path", "o")
    (line,) = result.output.splitlines()
    assert r"a\x1b]0;x\x07\n.zarr" in line


# The network


@pytest.fixture
def attempts(monkeypatch) -> list[tuple]:
    """Every attempt to reach another machine fails, and is noted."""
    noted: list[tuple] = []

    def refuse(*arguments: object, **_: object) -> None:
        noted.append(arguments)
        raise OSError("no network in tests")

    for place, name in (
        (socket, "getaddrinfo"),
        (socket, "gethostbyname"),
        (socket.socket, "connect"),
        (socket.socket, "connect_ex"),
        (socket.socket, "sendto"),
    ):
        monkeypatch.setattr(place, name, refuse)
    for variable in ("TIACF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    return noted


@pytest.mark.slow
def test_no_command_asks_the_network(attempts, cohort, demo_bag, simulated, tmp_path):
    slide, demo_bags = simulated / "low.svs", demo_bag.parent
    model = tmp_path / "run" / "mean-pool"
    fold = model / "fold-0" / "bundle"
    shutil.copytree(demo_bag, tmp_path / "demo" / "a.zarr")
    for arguments in (
        ("models",),
        ("encoders",),
        ("extract", "--img-input", slide, "--output-path", tmp_path / "bags"),
        ("status", tmp_path / "bags"),
        ("predict", "--img-input", slide, "--output-path", tmp_path / "of-slide"),
        ("predict", "--bags", tmp_path / "demo", "--output-path", tmp_path / "of-bags"),
        (
            "convert",
            "--bags",
            tmp_path / "demo",
            "--output-format",
            "h5",
            "--output-path",
            tmp_path / "h5",
        ),
    ):
        result = tiacf(*arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert demo_bags.is_dir()
    trained = train(cohort, tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    judge = ["--faithfulness", "--bags", cohort / "bags", "--model", fold, "--slides", "1"]
    for arguments in (
        ("--predictions", model, "--output-path", tmp_path / "figures"),
        (*judge, "--draws", "100", "--output-path", tmp_path / "faithful"),
    ):
        result = tiacf("evaluate", *arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert (tmp_path / "of-slide" / "report.html").is_file()
    assert attempts == []


@pytest.fixture
def _empty_caches(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def _strangers_model(folder: Path) -> Path:
    """A bundle whose encoder lies on the hub."""
    shutil.copytree(DEMO, folder)
    document = json.loads((folder / "config.json").read_text())
    document["encoder"] = {"name": "timm:hf-hub:stranger/model", "width": 96}
    (folder / "config.json").write_text(json.dumps(document))
    return folder


@pytest.mark.usefixtures("_empty_caches")
@pytest.mark.parametrize("variable", ["TIACF_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_means_offline_at_every_door(attempts, monkeypatch, simulated, tmp_path, variable):
    monkeypatch.setenv(variable, "1")
    model = _strangers_model(tmp_path / "model")
    given = ["--img-input", simulated, "--output-path", tmp_path / "out"]
    for arguments, remedy in (
        (["extract", "--encoder", "timm:resnet18"], "--encoder-weights FILE"),
        (["extract", "--encoder", "tiatoolbox:UNI2"], "--encoder-weights FILE"),
        (["extract", "--encoder", "tiatoolbox:resnet18"], "--encoder-weights FILE"),
        (["predict", "--model", "stranger/model"], "give its folder"),
        (["predict", "--model", model], "--encoder-weights FILE"),
    ):
        result = tiacf(*arguments, *given)
        assert_failed(result, variable, remedy)
    assert attempts == []


@pytest.mark.usefixtures("_empty_caches")
def test_a_hub_id_asks_the_hub(attempts, tmp_path):
    """Else the test above would show nothing."""
    result = tiacf("predict", "--bags", tmp_path, "--model", "stranger/model", "--output-path", "o")
    assert result.exit_code != 0
    (tmp_path / "a.zarr").mkdir()
    out = ["--output-path", tmp_path / "out"]
    assert_failed(tiacf("predict", "--bags", tmp_path, "--model", "stranger/model", *out), "hub")
    assert attempts
