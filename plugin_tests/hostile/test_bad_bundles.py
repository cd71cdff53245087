"""Bad model bundles and checkpoints are refused in one line, before they take memory or write a file."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from command_line import assert_failed, assert_usage, tiacf
from safetensors.torch import load_file, save_file

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.encoders.stored import load_encoder_of
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.models.bundle import load_bundle, make_ensemble, save_bundle
from tiacrossfusion.models.config import Architecture, BundleConfig, ModelCard
from tiacrossfusion.models.files import shipped_bundles
from tiacrossfusion.models.network import network_of
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.crossfusion import CrossFusion
from tiacrossfusion.networks.official import released_names
from tiacrossfusion.simulation.bags import simulate_bags

CONFIG, WEIGHTS = "config.json", "model.safetensors"
DEMO = shipped_bundles()["crossfusion-demo"]


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> Path:
    """A folder with one bag that fits the demonstration model."""
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(folder / "of", 1, 1, scenario="product", encoder_width=96, side=1)
    bag = FeatureBag.load(next((folder / "of" / "bags").glob("*.zarr")))
    config = load_bundle(DEMO).config
    fits = {"encoder": config.encoder, "sampling": config.sampling}
    (folder / "bags").mkdir()
    made = bag.provenance.model_copy(update=fits)
    replace(bag, provenance=made).save(folder / "bags" / "a.zarr")
    return folder / "bags"


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A copy of the demonstration model."""
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def predict(bags: Path, model: object, out: Path) -> Result:
    return tiacf("predict", "--bags", bags, "--model", model, "--output-path", out)


Spoil = Callable[[Path], object]


def text(content: str | bytes) -> Spoil:
    """Put something else into config.json."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / CONFIG).write_bytes(data)


def field(name: str, value: object) -> Spoil:
    """Set a field of config.json, such as "architecture.depth"."""

    def spoil(folder: Path) -> None:
        document = json.loads((folder / CONFIG).read_text())
        part, (*path, last) = document, name.split(".")
        for step in path:
            part = part[int(step) if step.isdigit() else step]
        part[last] = value
        (folder / CONFIG).write_text(json.dumps(document))

    return spoil


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    """Change the tensors."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return spoil


def each(change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    """Change every tensor."""
    return weights(lambda tensors: tensors.update({k: change(v) for k, v in tensors.items()}))


def cut(name: str, size: int) -> Spoil:
    """Cut a file off, from its end if the size is negative."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def header(tensors: dict[str, Any] | bytes, data: bytes = b"", size: int | None = None) -> Spoil:
    """Write a safetensors file by hand."""
    written = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    length = struct.pack("<Q", len(written) if size is None else size)
    return lambda folder: (folder / WEIGHTS).write_bytes(length + written + data)


def f32(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def folder_instead(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def pipe_instead(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def huge_config(folder: Path) -> None:
    with (folder / CONFIG).open("ab") as file:
        file.truncate(10**10)  # takes no room on the disk


BIG = 10**9
SIZES = "architecture.sizes"
CONFIG_AT_FAULT: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "missing": (lambda folder: (folder / CONFIG).unlink(), ("no readable config.json",)),
    "a folder": (folder_instead(CONFIG), ("is not a file",)),
    "a pipe": (pipe_instead(CONFIG), ("is not a file",)),
    "empty": (text(""), ("not valid JSON",)),
    "cut off": (cut(CONFIG, -100), ("not valid JSON",)),
    "weights": (lambda folder: shutil.copy(folder / WEIGHTS, folder / CONFIG), ("not valid JSON",)),
    "of 10 GB": (huge_config, ("far too large",)),
    "in UTF-16": (text("{}".encode("utf-16")), ("not valid JSON",)),
    "a list": (text("[]"), ("the whole",)),
    "nested deeply": (text('{"a":' * 50_000 + "1" + "}" * 50_000), ("not valid JSON",)),
    "a number of 5000 digits": (text(f'{{"version": {"9" * 5000}}}'), ("not valid JSON",)),
    "a field twice": (text('{"name": "a", "name": "b"}'), ("'name' occurs twice",)),
    "a field unknown": (field("pickle", "x"), ("pickle",)),
    "a field unknown within": (field("architecture.path", "../x"), ("architecture.path",)),
    "a field named as a path": (text('{"../../etc/passwd": 1}'), (CONFIG,)),
    "of the future": (field("format_version", 2), ("bundle format 2", "update tiacrossfusion")),
    "name leads out": (field("name", "../../other"), ("name",)),
    "name absolute": (field("name", "/etc"), ("name",)),
    "name a number": (field("name", 5), ("name",)),
    "network unknown": (
        field("architecture.name", "resnet"),
        ("architecture: name resnet", "mean-pool"),
    ),
    "depth of 10**9": (field(f"{SIZES}.depth", BIG), ("architecture: depth is 1000000000", "64")),
    "depth negative": (field(f"{SIZES}.depth", -1), ("architecture: depth is -1",)),
    "depth missing": (field(f"{SIZES}.depth", None), ("needs depth",)),
    "depth a text": (field(f"{SIZES}.depth", "deep"), ("architecture: sizes.depth",)),
    "width of 10**9": (field(f"{SIZES}.embed_dim", BIG), ("architecture: embed_dim is", "8192")),
    "width a half": (field(f"{SIZES}.embed_dim", 1.5), ("architecture: sizes.embed_dim",)),
    "width endless": (
        lambda folder: (folder / CONFIG).write_text(
            (folder / CONFIG).read_text().replace('"embed_dim": 64', '"embed_dim": 1e999')
        ),
        ("architecture: sizes.embed_dim",),
    ),
    "heads of 10**9": (field(f"{SIZES}.num_heads", BIG), ("architecture: num_heads is",)),
    "heads that do not divide": (
        field(f"{SIZES}.num_heads", 7),
        ("does not split into 7 heads",),
    ),
    "bins of 10**9": (field("architecture.num_bins", BIG), ("architecture.num_bins", "1000")),
    "bins of another number": (field("architecture.num_bins", 3), ("4 time bins for 3",)),
    "encoder of 10**9": (field("encoder.width", BIG), ("encoder.width",)),
    "encoder width negative": (field("encoder.width", -1), ("encoder.width",)),
    "encoder without a name": (field("encoder.name", ""), ("encoder.name",)),
    "encoder mean NaN": (field("encoder.mean", [float("nan")] * 3), ("NaN is not a number",)),
    "encoder std 0": (field("encoder.std", [0, 1, 1]), ("encoder.std",)),
    "encoder option a list": (field("encoder.options", {"a": [1]}), ("encoder.options.a",)),
    "patches of 10**9": (field("sampling.patch_size", BIG), ("sampling.patch_size",)),
    "mask of 1e-12 mpp": (field("sampling.mask_mpp", 1e-12), ("sampling.mask_mpp",)),
    "mask method unknown": (field("sampling.mask_method", "x"), ("sampling.mask_method",)),
    "bins not rising": (field("time_bins.edges", [0, 1, 1, 2, 3]), ("time_bins.edges", "rise")),
    "bins not from 0": (field("time_bins.edges", [1, 2, 3, 4, 5]), ("time_bins.edges",)),
    "bins endless": (field("time_bins.edges", [0, 1, 2, 3, float("inf")]), ("Infinity",)),
    "bins too many": (field("time_bins.edges", [0, 1, 2, 3, 4, 5]), ("5 time bins for 4",)),
    "bins none": (field("time_bins.edges", []), ("time_bins.edges",)),
    "unit a list": (field("time_bins.unit", []), ("time_bins.unit",)),
    "quantiles falling": (field("risk_reference.quantiles", [1, 0]), ("do not rise",)),
    "quantile only one": (field("risk_reference.quantiles", [1]), ("quantiles",)),
    "cut-off NaN": (field("risk_reference.cutoff", float("nan")), ("NaN is not a number",)),
    "cut-off a text": (field("risk_reference.cutoff", "x"), ("risk_reference.cutoff",)),
    "group of another length": (
        field("risk_reference.groups.0.survival", [1.0]),
        ("does not have 4 values",),
    ),
    "group above 1": (
        field("risk_reference.groups.1.survival", [2, 1, 1, 1]),
        ("groups.1.survival.0",),
    ),
    "group of -5": (field("risk_reference.groups.0.patients", -5), ("groups.0.patients",)),
    "group one only": (field("risk_reference.groups", []), ("risk_reference.groups",)),
    "card missing": (field("card", None), ("card",)),
    "notice a number": (field("card.notice", 5), ("card.notice",)),
    "notice with escapes": (field("card.notice", "\x1b[2J"), ("card.notice", "control")),
    "notice a formula": (field("card.notice", '=HYPERLINK("//x")'), ("card.notice", "formula")),
    "group a formula": (
        field("risk_reference.groups.0.name", "@x"),
        ("groups.0.name", "formula"),
    ),
    "members not of the weights": (
        field("members", [{"edges": [0, 1, 2, 3, 4], "unit": "months"}] * 2),
        ("do not fit config.json", "2 members"),
    ),
}

WEIGHTS_AT_FAULT: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "missing": (lambda folder: (folder / WEIGHTS).unlink(), ("cannot be read",)),
    "a folder": (folder_instead(WEIGHTS), ("is not a file",)),
    "a pipe": (pipe_instead(WEIGHTS), ("is not a file",)),
    "empty": (cut(WEIGHTS, 0), ("cannot be read",)),
    "cut off in the header": (cut(WEIGHTS, 100), ("cannot be read",)),
    "cut off": (cut(WEIGHTS, -1), ("cannot be read",)),
    "config": (lambda folder: shutil.copy(folder / CONFIG, folder / WEIGHTS), ("cannot be read",)),
    "a pickle": (
        lambda folder: torch.save({"network.class_token": torch.ones(1)}, folder / WEIGHTS),
        ("cannot be read",),
    ),
    "header of 2**62": (header({}, size=2**62), ("cannot be read",)),
    "header nested deeply": (header(b'{"a":' * 50_000), ("cannot be read",)),
    "header without tensors": (header({}), ("do not fit",)),
    "tensor of 4 TB": (header({"a": f32([10**12], 0, 4 * 10**12)}), ("cannot be read",)),
    "tensor of 2**64": (header({"a": f32([2**62, 4], 0, 0)}), ("cannot be read",)),
    "tensors on each other": (
        header({"a": f32([2], 0, 8), "b": f32([2], 4, 12)}, bytes(12)),
        ("cannot be read",),
    ),
    "tensor beyond the file": (header({"a": f32([2], 8, 16)}, bytes(8)), ("cannot be read",)),
    "tensor missing": (
        weights(lambda tensors: tensors.pop("network.class_token")),
        ("network.class_token",),
    ),
    "tensor too many": (weights(lambda tensors: tensors.update(x=torch.ones(1))), ("x",)),
    "shape": (
        weights(lambda t: t.update({"network.class_token": torch.ones(3)})),
        ("network.class_token",),
    ),
    "int64": (each(lambda tensor: tensor.long()), ("torch.int64, not floats",)),
    "complex": (each(lambda tensor: tensor.cfloat()), ("torch.complex64, not floats",)),
    "NaN": (each(lambda tensor: tensor * float("nan")), ("not finite",)),
    "one infinite": (
        weights(lambda t: t["network.class_token"].view(-1)[:1].fill_(float("inf"))),
        ("not finite",),
    ),
    "beyond float32": (each(lambda tensor: tensor.double() + 1e300), ("not finite",)),
    "all 0": (each(torch.zeros_like), ("all weights are 0",)),
}


@pytest.mark.parametrize("fault", CONFIG_AT_FAULT)
def test_a_config_at_fault_is_refused_before_anything_is_written(bags, bundle, tmp_path, fault):
    spoil, words = CONFIG_AT_FAULT[fault]
    spoil(bundle)
    result = predict(bags, bundle, tmp_path / "out")
    assert_failed(result, str(bundle), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", WEIGHTS_AT_FAULT)
def test_weights_at_fault_are_refused_before_anything_is_written(bags, bundle, tmp_path, fault):
    spoil, words = WEIGHTS_AT_FAULT[fault]
    spoil(bundle)
    result = predict(bags, bundle, tmp_path / "out")
    assert_failed(result, str(bundle), *words)
    assert not (tmp_path / "out").exists()


def test_a_mended_bundle_goes_on(bags, bundle, tmp_path):
    cut(WEIGHTS, -1)(bundle)
    assert_failed(predict(bags, bundle, tmp_path / "out"), "cannot be read")
    shutil.copy(DEMO / WEIGHTS, bundle)
    result = predict(bags, bundle, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_precision_serve(bundle, bags, dtype):
    each(lambda tensor: tensor.to(dtype))(bundle)
    network = load_bundle(bundle).network
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    tokens = load_bundle(DEMO).tokens(FeatureBag.load(bags / "a.zarr"))
    theirs = call_network(load_bundle(DEMO).network, tokens).risk
    torch.testing.assert_close(call_network(network, tokens).risk, theirs, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("no-such-model", ("unknown model", "tiacf models")),
        ("./absent/folder/of/mine", ("unknown model",)),
        ("../..//absent", ("unknown model",)),
        ("", ("unknown model",)),
        ("owner/na\nme", ("unknown model",)),
    ],
)
def test_a_model_that_does_not_exist_is_a_wrong_option(bags, tmp_path, model, words):
    assert_usage(predict(bags, model, tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_a_wrong_option(bags, tmp_path):
    arguments = ["--bags", bags, "--output-path", tmp_path / "out", "--device", "cuda:99"]
    assert_usage(tiacf("predict", *arguments), "device cuda:99", "use the device cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "spoil",
    [field(f"{SIZES}.depth", BIG), each(lambda tensor: tensor * float("nan"))],
    ids=["config", "weights"],
)
def test_every_door_refuses_a_bad_bundle(bags, bundle, simulated, tmp_path, spoil):
    from tiacrossfusion import SurvivalPredictor
    from tiacrossfusion.toolbox.model import CrossFusionModel

    spoil(bundle)
    out = tmp_path / "out"
    slides = ["--img-input", simulated, "--model", bundle, "--output-path", out]
    judged = ["--faithfulness", "--bags", bags, "--model", bundle, "--output-path", out]
    assert_failed(tiacf("predict", *slides), str(bundle))
    assert_failed(tiacf("evaluate", *judged), str(bundle))
    assert not out.exists()
    for load in (load_bundle, SurvivalPredictor, CrossFusionModel):
        with pytest.raises(TiacfError, match=f"^{bundle}") as caught:
            load(str(bundle))
        assert not isinstance(caught.value, UsageError)


def test_weights_given_to_the_predictor_must_fit(bundle):
    loaded, cut_off = load_bundle(bundle), bundle / "cut.safetensors"
    cut_off.write_bytes((bundle / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(TiacfError, match=r"cut\.safetensors: the weights cannot be read"):
        loaded.with_weights(cut_off)


# Ensembles


@pytest.fixture
def ensemble(tmp_path) -> Path:
    """A bundle of three small networks."""
    edges = {"edges": (0, 1, 2), "unit": "months"}
    config = BundleConfig(
        name="three",
        version="1",
        architecture=Architecture(
            name="mean-pool", package=None, encoder_width=96, num_bins=2, sizes={"embed_dim": 4}
        ),
        sampling={},
        encoder=EncoderSpec(name="stain-texture", width=96),
        time_bins=edges,
        members=(edges,) * 3,
        risk_reference=None,
        card=ModelCard(description="", cohort="", licence="", notice="n"),
    )
    members = [network_of(config.architecture) for _ in config.members]
    save_bundle(tmp_path / "three", config, make_ensemble(members, config))
    return tmp_path / "three"


def _without_a_member(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("members.1.")]:
        del tensors[name]


def _with_a_foreign_member(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if name.startswith("members.1.") and tensors[name].ndim)
    tensors[name] = torch.ones(7, 7)


EDGES = {"edges": [0, 1, 2], "unit": "months"}
ENSEMBLES_AT_FAULT: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "a member missing": (weights(_without_a_member), ("do not fit", "3 members")),
    "a foreign member": (weights(_with_a_foreign_member), ("do not fit", "members.1.")),
    "a member of other bins": (
        field("members", [EDGES, EDGES, {"edges": [0, 1], "unit": "months"}]),
        ("member", "2 time bins"),
    ),
    "a member a path": (field("members", [EDGES, EDGES, "../other"]), ("members.2",)),
    "members without time bins": (field("time_bins", None), ("an ensemble needs time_bins",)),
    "20000 members": (field("members", [EDGES] * 20_000), ("do not fit", "20000 members")),
}


@pytest.mark.parametrize("fault", ENSEMBLES_AT_FAULT)
def test_an_ensemble_at_fault_is_refused(ensemble, fault):
    load_bundle(ensemble)
    spoil, words = ENSEMBLES_AT_FAULT[fault]
    spoil(ensemble)
    with pytest.raises(TiacfError) as caught:
        load_bundle(ensemble)
    for word in words:
        assert word in str(caught.value)


def test_what_a_config_declares_takes_no_memory(bundle, ensemble):
    """The largest sizes that a config may name fail on the weights, having taken next to nothing."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    field(f"{SIZES}.embed_dim", 8192)(bundle)
    with pytest.raises(TiacfError, match="do not fit"):
        load_bundle(bundle)
    field("members", [EDGES] * 20_000)(ensemble)
    with pytest.raises(TiacfError, match="do not fit"):
        load_bundle(ensemble)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


# What a config can name outside of its bundle


def test_links_out_of_a_bundle_give_nothing_away(bags, bundle, tmp_path):
    """A bundle in the hub's cache is made of links, so they are followed; what they reach must be what
    its place asks for, and nothing of it is repeated."""
    (tmp_path / "secret").write_text("password=hunter2")
    for name in (CONFIG, WEIGHTS):
        linked = Path(shutil.copytree(bundle, tmp_path / f"linked-{name}"))
        (linked / name).unlink()
        (linked / name).symlink_to(tmp_path / "secret")
        result = predict(bags, linked, tmp_path / "out")
        assert_failed(result, str(linked))
        assert "hunter2" not in result.output
        (linked / name).unlink()
        (linked / name).symlink_to(bundle / name)
        assert load_bundle(linked).fingerprint == load_bundle(bundle).fingerprint


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"name": "/etc/passwd"}, ("unknown encoder", "/etc/passwd")),
        ({"name": "../../weights.pt"}, ("unknown encoder",)),
        ({"name": "timm:/etc/passwd"}, ("unknown encoder",)),
        ({"name": "timm:local-dir:/etc"}, ("unknown encoder",)),
        ({"name": "file:///etc/passwd"}, ("unknown encoder",)),
        ({"name": "timm:hf-hub:../../etc"}, ("unknown encoder",)),
        ({"name": "timm:test_vit", "options": {"checkpoint_path": "/x.pt"}}, ("checkpoint_path",)),
        ({"name": "timm:test_vit", "options": {"cache_dir": "/etc"}}, ("cache_dir",)),
        ({"name": "timm:test_vit", "options": {"pretrained_cfg": "x"}}, ("pretrained_cfg",)),
        ({"name": "timm:test_vit", "options": {"depth": BIG}}, ("depth=1000000000",)),
        ({"name": "timm:test_vit", "options": {"embed_dim": float("inf")}}, ("embed_dim=inf",)),
        (
            {
                "name": "timm:vit_giant_patch14_dinov2",
                "options": {"img_size": 4096, "patch_size": 1},
            },
            ("parameters",),
        ),
        ({"name": "timm:regnety_002", "options": {"depth": 4000}}, ("depth=4000", "leave")),
        ({"name": "stain-texture", "options": {"a": 1}}, ("takes none",)),
    ],
    ids=str,
)
def test_a_model_s_encoder_reads_no_file_and_takes_no_memory(encoder, words, monkeypatch):
    monkeypatch.setenv("TIACF_OFFLINE", "1")
    spec = EncoderSpec(width=96, **encoder)
    with pytest.raises(TiacfError, match=r"^the model's encoder: ") as caught:
        load_encoder_of(spec)
    assert not isinstance(caught.value, UsageError)  # nothing that the user gave
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_foreign_encoder_in_a_bundle_stops_the_run_of_slides(bundle, simulated, tmp_path):
    field("encoder.name", "/etc/passwd")(bundle)
    slides = ["--img-input", simulated, "--model", bundle, "--output-path", tmp_path / "out"]
    assert_failed(tiacf("predict", *slides), "the model's encoder", "/etc/passwd")
    assert not list((tmp_path / "out").glob("*.geojson"))


# Checkpoints of the authors' release


@pytest.fixture(scope="module")
def released() -> dict[str, torch.Tensor]:
    model = CrossFusion(96, 8, 2, 1, 2)
    state = model.state_dict()
    return {theirs: state[ours] for theirs, ours in released_names(model).items()}


def import_checkpoint(checkpoint: Path, out: Path, *options: str) -> Result:
    given = ["--encoder", "stain-texture", "--num-heads", "2", "--output-path", out, *options]
    return tiacf("import-checkpoint", checkpoint, *given)


def resized(state: dict[str, torch.Tensor], name: str, size: tuple[int, ...]) -> dict:
    """With a tensor of a huge shape, of a single number that is repeated."""
    return state | {name: torch.ones(1, dtype=torch.float16).expand(size)}


def bomb(state: dict[str, torch.Tensor], path: Path) -> None:
    """An archive whose tensors are packed."""
    torch.save(state | {"mlp_head.0.bias": torch.zeros(10**7)}, path)
    with zipfile.ZipFile(path) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)


CHECKPOINTS_AT_FAULT: dict[str, tuple[Callable[[dict, Path], object], tuple[str, ...]]] = {
    "empty": (lambda state, path: path.write_bytes(b""), ("not a PyTorch checkpoint", "again")),
    "text": (lambda state, path: path.write_text("{}"), ("plain file of tensors",)),
    "packed": (bomb, ("not a PyTorch checkpoint", "packed")),
    "sparse": (
        lambda state, path: torch.save({"cls_token": torch.sparse_coo_tensor(size=(BIG,))}, path),
        ("without their values",),
    ),
    "without values": (
        lambda state, path: torch.save({"cls_token": torch.ones(9, device="meta")}, path),
        ("without their values",),
    ),
    "one number repeated": (
        lambda state, path: torch.save(resized(state, "c_lin_proj.0.weight", (8, BIG)), path),
        ("repeats fewer values",),
    ),
    "too wide": (
        lambda state, path: torch.save(
            state | {"mlp_head.0.weight": torch.ones(1001, 8), "mlp_head.0.bias": torch.ones(1001)},
            path,
        ),
        ("num_bins is 1001", "give 1 to 1000"),
    ),
    "NaN": (
        lambda state, path: torch.save({k: v * float("nan") for k, v in state.items()}, path),
        ("not finite",),
    ),
    "a name with escapes": (
        lambda state, path: torch.save(state | {"\x1b[2J\nevil": torch.ones(1)}, path),
        (r"adds 1 of", r"\x1b[2J\nevil"),
    ),
}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("fault", CHECKPOINTS_AT_FAULT)
def test_a_checkpoint_at_fault_makes_no_bundle(released, tmp_path, fault):
    make, words = CHECKPOINTS_AT_FAULT[fault]
    make(released, tmp_path / "c.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = import_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    assert_failed(result, str(tmp_path / "c.pt"), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--encoder-option", "checkpoint_path=x.pt"], ("takes none",)),
        (["--encoder", "timm:resnet18", "--encoder-option", "checkpoint_path=x.pt"], ("set by",)),
        (["--encoder", "timm:resnet18", "--encoder-option", "pretrained_cfg=x"], ("set by",)),
        (["--encoder-weights", "absent.pt"], ("is fixed",)),
        (["--encoder", "timm:resnet18", "--encoder-weights", "absent.pt"], ("no such file",)),
    ],
    ids=str,
)
def test_wrong_options_of_an_import_are_told(released, tmp_path, options, words):
    torch.save(released, tmp_path / "c.pt")
    assert_usage(import_checkpoint(tmp_path / "c.pt", tmp_path / "out", *options), *words)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_sound_becomes_a_bundle(released, tmp_path):
    named = tmp_path / "=cmd\x1b[31m.pt"
    torch.save(released, named)
    result = import_checkpoint(named, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert load_bundle(tmp_path / "out").config.name == "cmd-31m"
    assert "\x1b" not in result.output
