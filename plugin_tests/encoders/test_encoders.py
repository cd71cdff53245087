"""Encoders, through `load_encoder` and `encode`. No test touches the network."""

import ast
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from huggingface_hub import errors as hub_errors
from pydantic import ValidationError
from safetensors.torch import save_file

from tiacrossfusion.encoders import stain_texture
from tiacrossfusion.encoders.available import available_encoders
from tiacrossfusion.encoders.foundation import FOUNDATION_MODELS
from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.encoders.names import TORCHVISION_BACKBONES, resolve_name
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.encoders.stain_texture import FEATURE_NAMES
from tiacrossfusion.encoders.stored import describe_encoder
from tiacrossfusion.errors import TiacfError

DATA = Path(
    os.environ.get("TIACF_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
MOBILENET = DATA / "weights" / "mobilenet_v2_imagenet.pt"
needs_mobilenet = pytest.mark.skipif(
    not MOBILENET.is_file(), reason=f"no {MOBILENET}: set TIACF_TEST_DATA"
)
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def network_attempts(monkeypatch):
    """Every attempt to connect fails at once and is counted."""
    attempts = []

    def refuse(*arguments, **keywords):
        attempts.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for variable in ("TIACF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    return attempts


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def painted(count: int, side: int = 256) -> np.ndarray:
    """Patches with pink ground, purple discs and white holes, each another mixture."""
    rng = np.random.default_rng(3)
    yy, xx = np.mgrid[:side, :side]
    images = np.empty((count, side, side, 3), np.uint8)
    for image in images:
        image[:] = rng.integers(200, 235), rng.integers(130, 190), rng.integers(180, 215)
        for colour in [(110, 60, 140)] * int(rng.integers(5, 60)) + [(245, 243, 246)] * 3:
            x, y, radius = rng.integers(0, side), rng.integers(0, side), rng.integers(3, 12)
            image[(xx - x) ** 2 + (yy - y) ** 2 < radius**2] = colour
        image += rng.integers(0, 8, image.shape).astype(np.uint8)
    return images


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """Weights files of small timm models: a callable from the model's name to the path."""
    import timm

    folder = tmp_path_factory.mktemp("weights")

    def make(model: str) -> Path:
        path = folder / f"{model}.pt"
        if not path.exists():
            torch.manual_seed(0)
            torch.save(timm.create_model(model).state_dict(), path)
        return path

    return make


# Names


@pytest.mark.process
def test_importing_the_room_stays_light():
    code = (
        "import sys, tiacrossfusion.encoders;"
        "print([m for m in ('torch', 'timm', 'tiatoolbox') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.process
def test_the_shipped_encoder_needs_neither_timm_nor_toolbox():
    code = (
        "import sys; from tiacrossfusion.encoders.loading import load_encoder;"
        "load_encoder('stain-texture');"
        "print([m for m in ('timm', 'tiatoolbox') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_those_of_the_installed_toolbox():
    root = Path(importlib.util.find_spec("tiatoolbox").origin).parent
    tree = ast.parse((root / "models" / "architecture" / "vanilla.py").read_text())
    keys = {
        node.targets[0].id: [key.value for key in node.value.keys]
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    }
    assert sorted(keys["torch_cnn_backbone_dict"]) == sorted(TORCHVISION_BACKBONES)
    assert sorted(keys["timm_arch_dict"]) == sorted(FOUNDATION_MODELS)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("stain-texture", "stain-texture"),
        ("mobilenetv3_small_050", "timm:mobilenetv3_small_050"),
        ("timm:resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("timm:hf_hub:org/model", "timm:hf-hub:org/model"),
        ("hf-hub:org/model", "timm:hf-hub:org/model"),
        ("UNI2", "tiatoolbox:UNI2"),
        ("alexnet", "tiatoolbox:alexnet"),
        ("tiatoolbox:resnet50", "tiatoolbox:resnet50"),
    ],
)
def test_canonical_names(name, canonical):
    resolved = resolve_name(name)
    assert str(resolved) == canonical
    assert resolve_name(canonical) == resolved


def test_name_in_both_libraries_is_refused():
    with pytest.raises(TiacfError) as caught:
        load_encoder("resnet50")
    assert "'timm:resnet50'" in one_line(caught)
    assert "'tiatoolbox:resnet50'" in one_line(caught)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("stain_texture", "'stain-texture'"),
        ("uni-2", "'tiatoolbox:UNI2'"),
        ("timm:resnet5O", "'timm:resnet50'"),
        ("tiatoolbox:virchow", "'tiatoolbox:Virchow'"),
        ("timm:resnet18.no_such_tag", "'timm:resnet18"),
    ],
)
def test_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(TiacfError) as caught:
        load_encoder(name)
    assert nearest in one_line(caught)
    assert "`tiacf encoders`" in one_line(caught)


def test_the_list_names_every_toolbox_model_and_marks_what_works_offline():
    listed = {entry.name: entry for entry in available_encoders()}
    assert [name for name, entry in listed.items() if entry.offline] == ["stain-texture"]
    assert listed["stain-texture"].width == len(FEATURE_NAMES)
    assert listed["tiatoolbox:Virchow2"].width == 2560
    assert "tiatoolbox:resnet50" in listed


# Spec


def test_spec_survives_json_and_refuses_unknown_fields():
    spec = EncoderSpec(
        name="timm:x", width=3, mean=HALF, std=HALF, input_size=256,
        options={"pad_type": "same", "flag": True, "n": 2, "r": 0.5},
    )  # fmt: skip
    text = spec.model_dump_json()
    again = EncoderSpec.model_validate_json(text)
    assert again == spec
    assert again.options["flag"] is True
    with pytest.raises(ValidationError):
        EncoderSpec.model_validate({**json.loads(text), "extra": 1})
    with pytest.raises(ValidationError):
        spec.width = 4


def test_a_stored_spec_loads_the_same_encoder(random_weights):
    weights = random_weights("mobilenetv3_small_050")
    first = load_encoder("mobilenetv3_small_050", weights=weights, mean=HALF, std=HALF).spec
    again = load_encoder(
        first.name, weights=weights, mean=first.mean, std=first.std, options=first.options
    ).spec
    assert again == first
    shipped = load_encoder("stain-texture").spec
    assert load_encoder(shipped.name, mean=shipped.mean, std=shipped.std).spec == shipped


# Encoding


@pytest.mark.parametrize(
    ("name", "width", "input_size"),
    [
        ("stain-texture", len(FEATURE_NAMES), 256),
        ("timm:mobilenetv3_small_050", 1024, 256),
        ("timm:resnet18", 512, 256),
        ("timm:test_vit", 64, 160),
    ],
)
def test_result_does_not_depend_on_the_batch_size(name, width, input_size, random_weights):
    weights = None if name == "stain-texture" else random_weights(name.removeprefix("timm:"))
    encoder = load_encoder(name, weights=weights)
    assert encoder.spec.width == width
    assert encoder.spec.input_size == input_size
    images = painted(64, side=256 if name == "stain-texture" else 96)
    whole = encoder.encode(images)
    assert whole.dtype == np.float16
    assert whole.shape == (64, width)
    assert len(np.unique(whole, axis=0)) == 64
    for size in (1, 7, 32):
        count = 16 if size == 1 else 64  # single images are padded, hence slow
        parts = [encoder.encode(images[i : i + size]) for i in range(0, count, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[:count])
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(encoder.encode(images[order]), whole[order])


@pytest.mark.parametrize("name", ["stain-texture", "timm:mobilenetv3_small_050"])
def test_result_does_not_depend_on_the_cores_and_their_setting_is_left_alone(name, random_weights):
    weights = None if name == "stain-texture" else random_weights(name.removeprefix("timm:"))
    encoder = load_encoder(name, weights=weights)
    images = painted(20, side=128)
    alone = encoder.encode(images)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(encoder.encode(images), alone)
        np.testing.assert_array_equal(encoder.encode(images[:3]), alone[:3])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_stream_of_batches_gives_what_each_batch_does():
    encoder = load_encoder("stain-texture")
    images = painted(5)
    parts = list(encoder.encode_stream(images[i : i + 2] for i in range(0, 5, 2)))
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), encoder.encode(images))


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float8"])
def test_precisions_that_the_cpu_is_not_made_for_are_refused(precision):
    assert load_encoder("stain-texture").precision == "float32"
    assert load_encoder("stain-texture", precision="float32").precision == "float32"
    with pytest.raises(TiacfError, match=f"precision {precision}: .* use "):
        load_encoder("stain-texture", precision=precision)


def test_the_model_gets_normalised_rgb(random_weights):
    import timm

    weights = random_weights("resnet18")
    images = painted(2)
    model = timm.create_model("resnet18", checkpoint_path=str(weights)).eval()
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    batch = (batch - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
    encoder = load_encoder("timm:resnet18", weights=weights, mean=mean, std=std)
    np.testing.assert_allclose(encoder.encode(images), expected, rtol=2e-3, atol=2e-3)
    assert load_encoder("timm:resnet18", weights=weights).spec.mean == (0.485, 0.456, 0.406)


def test_other_patch_sizes_pass(random_weights):
    vit = load_encoder("timm:test_vit", weights=random_weights("test_vit"))
    assert vit.encode(painted(2, side=128)).shape == (2, 64)
    assert load_encoder("stain-texture").encode(painted(2, side=224)).shape[0] == 2


def test_empty_batch_and_wrong_input():
    encoder = load_encoder("stain-texture")
    empty = encoder.encode(np.empty((0, 256, 256, 3), np.uint8))
    assert empty.shape == (0, encoder.spec.width)
    with pytest.raises(ValueError, match="uint8"):
        encoder.encode(np.zeros((1, 256, 256, 3), np.float32))
    with pytest.raises(ValueError, match="square"):
        encoder.encode(np.zeros((1, 256, 128, 3), np.uint8))


def test_features_that_are_not_finite_are_refused(random_weights, tmp_path):
    state = torch.load(random_weights("resnet18"), weights_only=True)
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "damaged.pt")
    encoder = load_encoder("timm:resnet18", weights=tmp_path / "damaged.pt")
    with pytest.raises(TiacfError) as caught:
        encoder.encode(painted(3))
    assert "3 of 3 patches" in one_line(caught)


# Stain texture


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, FEATURE_NAMES.index(name)].astype(float)


def discs(radius: int, spacing: int, colour=(90, 50, 130), ground=(225, 160, 195)) -> np.ndarray:
    yy, xx = np.mgrid[:256, :256] % spacing - spacing // 2
    return np.where((xx**2 + yy**2 < radius**2)[..., None], colour, ground).astype(np.uint8)


def test_names_of_features_are_distinct_and_match_the_width():
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert 64 <= len(FEATURE_NAMES) <= 96
    assert load_encoder("stain-texture").spec.width == len(FEATURE_NAMES)


def test_unmixing_inverts_the_stain_vectors():
    stains = np.array([stain_texture.HAEMATOXYLIN, stain_texture.EOSIN])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    residual = np.cross(*stains)
    basis = np.stack([*stains, residual / np.linalg.norm(residual)])
    np.testing.assert_allclose(stain_texture.UNMIXING[:2], np.linalg.inv(basis).T[:2], atol=1e-6)


def test_shipped_hash_is_the_same_on_every_machine():
    """A change of the features must change VERSION, and bundles made before are refused."""
    found = load_encoder("stain-texture").spec.weights_sha256
    assert found == "d52e52de83d07117f72e1e16d4a90a800da12ae37c9d28343ee7eca40f3f7919"


def test_flat_and_extreme_patches_are_finite():
    rng = np.random.default_rng(0)
    images = np.stack(
        [np.full((256, 256, 3), value, np.uint8) for value in (0, 1, 127, 255)]
        + [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)]
        + [
            np.where(np.indices((256, 256)).sum(0)[..., None] % 2, 0, 255)
            .astype(np.uint8)
            .repeat(3, 2)
        ]
    )
    features = load_encoder("stain-texture").encode(images)
    assert np.abs(features).max() < 100
    white, black = features[3], features[0]
    assert white[FEATURE_NAMES.index("glass1")] > black[FEATURE_NAMES.index("glass1")]


def test_flips_and_quarter_turns_hardly_matter():
    images = painted(8)
    encoder = load_encoder("stain-texture")
    plain = encoder.encode(images).astype(float)
    for turned in (images[:, ::-1], images[:, :, ::-1], images.transpose(0, 2, 1, 3)):
        other = encoder.encode(np.ascontiguousarray(turned)).astype(float)
        np.testing.assert_allclose(other, plain, atol=0.02)


def test_each_group_follows_what_it_is_named_after():
    encoder = load_encoder("stain-texture")
    small, large, dense, pale = encoder.encode(
        np.stack(
            [
                discs(4, 32),
                discs(12, 32),
                discs(4, 16),
                discs(4, 32, colour=(170, 120, 180)),
            ]
        )
    )[:, None]
    # Size of nuclei, their number, and their darkness.
    ratio = [
        column(f, "band1_rms_haematoxylin") / column(f, "band3_rms_haematoxylin")
        for f in (small, large)
    ]
    assert ratio[0] > 1.5 * ratio[1]
    assert column(dense, "blob1_peaks") > 2 * column(small, "blob1_peaks")
    assert column(small, "blob1_density") > 1.3 * column(pale, "blob1_density")
    # Holes of glass by scale: the same area in small or large pieces.
    fine, coarse = encoder.encode(
        np.stack([discs(r, s, colour=(245, 245, 245)) for r, s in ((4, 16), (32, 128))])
    )[:, None]
    assert column(coarse, "glass5") > 4 * column(fine, "glass5")
    assert column(coarse, "glass1") < 2 * column(fine, "glass1")
    # Stripes agree in direction, discs do not.
    stripes = np.where((np.arange(256) // 6 % 2)[:, None, None], (225, 160, 195), (200, 90, 160))
    stripes = np.broadcast_to(stripes, (256, 256, 3)).astype(np.uint8)
    assert column(encoder.encode(stripes[None]), "alignment_eosin") > 3
    assert column(small, "alignment_eosin") < 0.5


# Weights files


@needs_mobilenet
def test_torchvision_file_in_timm_recognises_a_cat(caplog, network_attempts):
    skimage_data = pytest.importorskip("skimage.data")
    state = torch.load(MOBILENET, weights_only=True)
    with caplog.at_level(logging.INFO, logger="tiacrossfusion"):
        encoder = load_encoder(
            "timm:mobilenetv2_100",
            weights=MOBILENET,
            mean=HALF,
            std=HALF,
            options={"pad_type": "same"},
        )
    assert [r.levelname for r in caplog.records if "matched by order" in r.message] == ["INFO"]
    assert encoder.spec.width == 1280
    assert encoder.spec.options == {"pad_type": "same"}
    pictures = [skimage_data.chelsea(), skimage_data.coffee()]
    squares = np.stack([picture[20:276, 100:356] for picture in pictures])
    logits = encoder.encode(squares).astype(np.float32) @ state["classifier.1.weight"].numpy().T
    logits += state["classifier.1.bias"].numpy()
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    # 1001 classes: background, then ImageNet's; 281 to 285 are cats, 967 espresso, 968 cup.
    assert shares[0, 1 + 281 : 1 + 286].sum() > 0.8
    assert shares[1, [1 + 967, 1 + 968]].sum() > 0.5
    assert not network_attempts


@needs_mobilenet
def test_toolbox_backbone_gives_the_features_of_the_same_file_in_timm(network_attempts):
    images = painted(3)
    ours, theirs = (
        load_encoder(name, weights=MOBILENET, mean=HALF, std=HALF)
        for name in ("tiatoolbox:mobilenet_v2", "timm:mobilenetv2_100")
    )
    np.testing.assert_allclose(ours.encode(images), theirs.encode(images), rtol=0.01, atol=0.01)
    assert ours.spec.name == "tiatoolbox:mobilenet_v2"
    assert not network_attempts


def test_wrappings_and_formats_give_one_hash(random_weights, tmp_path):
    plain = random_weights("mobilenetv3_small_050")
    state = torch.load(plain, weights_only=True)
    wrapped = {
        "a.pth": {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        "b.bin": {"model": state},
        "c.pt": {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        "d.pt": {k: v for k, v in state.items() if not k.startswith("classifier.")},
    }
    for name, content in wrapped.items():
        torch.save(content, tmp_path / name)
    save_file(state, tmp_path / "e.safetensors")
    files = [plain, *(tmp_path / name for name in (*wrapped, "e.safetensors"))]
    hashes = {
        load_encoder("timm:mobilenetv3_small_050", weights=path).spec.weights_sha256
        for path in files
    }
    assert len(hashes) == 1
    state["conv_stem.weight"] += 1
    torch.save(state, tmp_path / "f.pt")
    other = load_encoder("timm:mobilenetv3_small_050", weights=tmp_path / "f.pt")
    assert other.spec.weights_sha256 not in hashes


def test_files_that_do_not_fit_are_refused(random_weights, tmp_path):
    weights = random_weights("resnet18")
    with pytest.raises(TiacfError, match="another encoder") as caught:
        load_encoder("timm:mobilenetv3_small_050", weights=weights)
    assert "misses" in one_line(caught)
    assert "conv_stem.weight" in one_line(caught)

    state = torch.load(weights, weights_only=True)
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "incomplete.pt")
    with pytest.raises(TiacfError, match=r"misses 1 tensors \(layer1.0.conv1.weight\)"):
        load_encoder("timm:resnet18", weights=tmp_path / "incomplete.pt")

    state = torch.load(weights, weights_only=True)
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:32]
    torch.save(state, tmp_path / "narrow.pt")
    with pytest.raises(TiacfError, match=r"\(32, 64, 3, 3\) and should be \(64, 64, 3, 3\)"):
        load_encoder("timm:resnet18", weights=tmp_path / "narrow.pt")


def test_positions_for_another_size_are_not_resampled_in_silence(random_weights):
    with pytest.raises(TiacfError, match="pos_embed"):
        load_encoder(
            "timm:test_vit",
            weights=random_weights("test_vit"),
            options={"img_size": 256},
        )


def test_files_that_are_no_weights_are_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (print, ("code ran",))

    (tmp_path / "text.pt").write_text("not a weights file")
    (tmp_path / "text.safetensors").write_text("not a weights file")
    torch.save({"x": Payload()}, tmp_path / "code.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    for name, match in {
        "missing.pt": "no such file",
        "features.h5": "expected a .pt",
        "text.pt": "text.pt",
        "text.safetensors": "cannot be read",
        "code.pt": "could run code",
        "empty.pt": "no state dict",
    }.items():
        with pytest.raises(TiacfError, match=match) as caught:
            load_encoder("timm:resnet18", weights=tmp_path / name)
        one_line(caught)


def test_options_and_normalisation_are_checked(random_weights):
    weights = random_weights("resnet18")
    for keywords, match in (
        ({"options": {"nonsense": 1}}, "nonsense"),
        ({"options": {"num_classes": 10}}, "num_classes"),
        ({"mean": (0.5,)}, "three numbers"),
        ({"std": (1, 0, 1)}, "positive"),
    ):
        with pytest.raises(TiacfError, match=match) as caught:
            load_encoder("timm:resnet18", weights=weights, **keywords)
        one_line(caught)
    for keywords in ({"weights": weights}, {"mean": HALF}, {"options": {"a": 1}}):
        with pytest.raises(TiacfError):
            load_encoder("stain-texture", **keywords)
    with pytest.raises(TiacfError, match="global_pool"):
        load_encoder(
            "timm:test_vit",
            weights=random_weights("test_vit"),
            options={"global_pool": ""},
        )


# Fetching


@pytest.mark.parametrize("variable", ["TIACF_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("name", ["timm:resnet18", "timm:hf-hub:org/model", "tiatoolbox:UNI2"])
def test_offline_the_network_is_not_tried(
    variable, name, monkeypatch, network_attempts, empty_caches
):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(TiacfError) as caught:
        load_encoder(name)
    message = one_line(caught)
    assert variable in message
    assert "--encoder-weights FILE" in message
    assert "https://huggingface.co/" in message
    assert not network_attempts


@pytest.mark.parametrize("name", ["timm:resnet18", "tiatoolbox:H-optimus-1"])
def test_unreachable_hub_fails_at_once(name, network_attempts, empty_caches):
    with pytest.raises(TiacfError) as caught:
        load_encoder(name)
    assert "no connection" in one_line(caught)
    assert len(network_attempts) <= 2


def test_gated_models_say_where_to_ask(monkeypatch, empty_caches):
    refusal = hub_errors.GatedRepoError("gated", response=MagicMock(status_code=401))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", MagicMock(side_effect=refusal))
    with pytest.raises(TiacfError) as caught:
        load_encoder("Virchow2")
    message = one_line(caught)
    assert "https://huggingface.co/paige-ai/Virchow2" in message
    assert "ask" in message
    assert "--encoder-weights FILE" in message


def hub_error(kind: type[Exception], status: int) -> Exception:
    return kind("the hub's own words\nand more of them", response=MagicMock(status_code=status))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (hub_error(hub_errors.RepositoryNotFoundError, 401), "does not exist or needs a log-in"),
        (hub_error(hub_errors.HfHubHTTPError, 403), "access is refused; ask for it at"),
        (hub_error(hub_errors.HfHubHTTPError, 500), "the hub answered with an error"),
        (TimeoutError("timed out"), "no connection to huggingface.co (TimeoutError)"),
    ],
)
def test_each_answer_of_the_hub_is_one_line(answer, words, monkeypatch, empty_caches):
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", MagicMock(side_effect=answer))
    with pytest.raises(TiacfError) as caught:
        load_encoder("timm:hf-hub:org/model")
    message = one_line(caught)
    assert message.startswith("cannot fetch the weights of timm:hf-hub:org/model: ")
    assert words in message
    assert "--encoder-weights FILE" in message


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (hub_error(hub_errors.GatedRepoError, 401), "access is refused; ask for it at"),
        (hub_error(hub_errors.RemoteEntryNotFoundError, 404), "the hub's own words; "),
        (OSError(28, "No space left on device"), "No space left on device; "),
    ],
)
@pytest.mark.parametrize("without_config", [False, True])
def test_a_download_that_breaks_off_is_one_line(
    failure, words, without_config, monkeypatch, empty_caches
):
    asked = hub_error(hub_errors.RemoteEntryNotFoundError, 404) if without_config else None
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", MagicMock(side_effect=asked))
    monkeypatch.setattr("timm.create_model", MagicMock(side_effect=failure))
    with pytest.raises(TiacfError) as caught:
        load_encoder("timm:resnet18")
    message = one_line(caught)
    assert "https://huggingface.co/timm/resnet18.a1_in1k" in message
    assert words in message
    assert "--encoder-weights FILE" in message


def test_torchvision_weights_are_fetched_from_their_address(
    monkeypatch, tmp_path, network_attempts, empty_caches
):
    from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

    url = MobileNet_V3_Small_Weights.DEFAULT.url
    for variable in (None, "TIACF_OFFLINE"):
        if variable:
            monkeypatch.setenv(variable, "1")
        before = len(network_attempts)
        with pytest.raises(TiacfError) as caught:
            load_encoder("tiatoolbox:mobilenet_v3_small")
        assert url in one_line(caught)
        assert "--encoder-weights FILE" in one_line(caught)
        assert (len(network_attempts) == before) == bool(variable)
    cached = tmp_path / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2]
    cached.parent.mkdir(parents=True, exist_ok=True)
    torch.save(mobilenet_v3_small().state_dict(), cached)
    attempts = len(network_attempts)
    found = load_encoder("tiatoolbox:mobilenet_v3_small")
    given = load_encoder("tiatoolbox:mobilenet_v3_small", weights=cached)
    assert found.spec.weights_sha256 == given.spec.weights_sha256
    assert len(network_attempts) == attempts


@pytest.mark.parametrize(
    "name", ["timm:mobilenetv3_small_050", "tiatoolbox:mobilenet_v3_small", "tiatoolbox:UNI2"]
)
def test_an_encoder_is_described_without_its_weights(name, network_attempts, empty_caches):
    spec = describe_encoder(name, mean=HALF)
    assert spec.width == {"timm:": 1024, "tiato": 1536 if "UNI" in name else 576}[name[:5]]
    assert (spec.name.partition(".")[0], spec.mean, spec.weights_sha256) == (name, HALF, None)
    assert not network_attempts


def test_networks_that_look_at_numbers_while_they_are_made_take_options():
    assert describe_encoder("timm:regnety_002", options={"global_pool": "avg"}).width == 368


def test_cached_weights_work_offline(monkeypatch, tmp_path, random_weights, network_attempts):
    from huggingface_hub import constants

    snapshot = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    save_file(
        torch.load(random_weights("resnet18"), weights_only=True), snapshot / "model.safetensors"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TIACF_OFFLINE", "1")
    cached = load_encoder("timm:resnet18")
    local = load_encoder("timm:resnet18", weights=random_weights("resnet18"))
    assert cached.spec.name == "timm:resnet18.a1_in1k"
    assert cached.spec.weights_sha256 == local.spec.weights_sha256
    assert not network_attempts


def test_models_without_pretrained_weights_never_run_at_random():
    with pytest.raises(TiacfError, match="no pretrained weights"):
        load_encoder("timm:lcnet_035")


def test_hub_architecture_is_not_fetched_for_a_local_file(
    random_weights, network_attempts, empty_caches
):
    with pytest.raises(TiacfError, match="tiatoolbox:UNI"):
        load_encoder("timm:hf-hub:MahmoodLab/UNI", weights=random_weights("resnet18"))
    assert not network_attempts


# Foundation models


@pytest.mark.parametrize("name", FOUNDATION_MODELS)
def test_foundation_models_have_the_size_on_their_card(name):
    from tiacrossfusion.encoders.toolbox_models import build_foundation

    card = FOUNDATION_MODELS[name]
    model = build_foundation(card).eval()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert abs(millions - card.parameters) < 1.5
    with torch.inference_mode():
        shape = model(torch.empty(1, 3, 224, 224, device="meta")).shape
    if card.pooling == "class":
        assert shape == (1, card.width)
    else:
        assert shape == (1, 1 + 256 + (4 if name == "Virchow2" else 0), card.width // 2)


def test_foundation_model_from_a_local_file(monkeypatch, tmp_path, network_attempts):
    """A shrunken Virchow2: class token, then the mean of patch tokens without registers."""
    from dataclasses import replace

    from tiacrossfusion.encoders.toolbox_models import build_foundation

    small = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    card = FOUNDATION_MODELS["Virchow2"]
    card = replace(card, width=64, arguments={**card.arguments, **small})
    monkeypatch.setitem(FOUNDATION_MODELS, "Virchow2", card)
    torch.manual_seed(0)
    model = build_foundation(card).to_empty(device="cpu").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save({k: v.half() for k, v in model.state_dict().items()}, tmp_path / "virchow2.bin")

    encoder = load_encoder("Virchow2", weights=tmp_path / "virchow2.bin")
    images = painted(2, side=224)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.spec.mean, encoder.spec.std))
    with torch.inference_mode():
        tokens = model((batch - mean) / std)
    assert tokens.shape == (2, 261, 32)
    expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1)
    np.testing.assert_allclose(encoder.encode(images), expected, atol=0.02)
    assert encoder.spec.input_size == 224
    assert not network_attempts
