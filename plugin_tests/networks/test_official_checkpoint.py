"""Checkpoints in the authors' format: parity with their network, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.crossfusion import CrossFusion
from tiacrossfusion.networks.layout import fold_copies
from tiacrossfusion.networks.official import load_official_checkpoint, released_names

if "TIACF_TEST_DATA" in os.environ:
    SHARED = Path(os.environ["TIACF_TEST_DATA"]).parent
else:
    SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = SHARED / "golden"
KEYS = SHARED / "facts" / "crossfusion_checkpoint_keys.tsv"

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no parity data in {GOLDEN}")
CASES = [
    ("official_e32_b48", 4, "c0"),
    ("official_e32_b48", 4, "c1"),
    ("official_e32_identity_l2", 2, "c0"),
]


def released_state(model):
    """A model's weights under their released names."""
    ours = model.state_dict()
    return {theirs: ours[name] for theirs, name in released_names(model).items()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CrossFusion(6, 8, 2, depth=2, num_bins=3).eval()


@pytest.fixture
def save(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return save


def refusal(path, num_heads=2):
    with pytest.raises(TiacfError) as caught:
        load_official_checkpoint(path, num_heads)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- parity ------------------------------------------------------------------------------------


@needs_golden
@pytest.mark.parametrize(("name", "num_heads", "case"), CASES)
def test_parity_with_the_authors_network(name, num_heads, case):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        golden = {
            key.removeprefix(f"{case}_"): torch.from_numpy(arrays[key])
            for key in arrays
            if key.startswith(f"{case}_")
        }
    network = load_official_checkpoint(GOLDEN / f"{name}.pt", num_heads)
    with torch.no_grad():
        out = network(golden["x5"], golden["x10"], golden["x20"], attention=True)

    def same(ours, theirs, tolerance):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)

    same(out.logits, golden["logits"], 1e-5)
    same(out.hazards, golden["hazards"], 1e-5)
    same(out.survival, golden["survival"], 1e-5)
    same(out.attention.x5, golden["coarse_cross_attn"].mean(dim=(1, 2)), 1e-6)
    same(out.attention.x20, golden["fine_cross_attn"].mean(dim=(1, 2)), 1e-6)
    row = golden["final_post_attn_cls"].mean(dim=1)[:, 1:]  # (B, side * side)
    same(out.attention.fused, fold_copies(row, golden["x10"].shape[1]), 1e-6)


@pytest.mark.skipif(not KEYS.is_file(), reason=f"no list of released names in {KEYS}")
def test_mapping_covers_exactly_the_released_names_and_shapes():
    lines = KEYS.read_text().splitlines()
    released = dict(line.split("\t") for line in lines if line)
    with torch.device("meta"):
        network = CrossFusion(encoder_width=2048)
    names, ours = released_names(network), network.state_dict()
    assert names.keys() == released.keys()
    assert sorted(names.values()) == sorted(ours)
    assert {theirs: str(tuple(ours[name].shape)) for theirs, name in names.items()} == released


# --- what is accepted --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
        lambda s: {f"model.module.{k}": v for k, v in s.items()},
        lambda s: {k: torch.nn.Parameter(v) for k, v in s.items()},
    ],
)
def test_usual_wrappings_give_the_same_network(model, save, wrap):
    path = save(wrap(released_state(model)))
    seed = torch.get_rng_state()
    loaded = load_official_checkpoint(path, num_heads=2)
    assert torch.equal(torch.get_rng_state(), seed)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert (loaded.encoder_width, loaded.embed_dim, loaded.depth, loaded.num_bins) == (6, 8, 2, 3)
    bags = [torch.randn(1, n, 6) for n in (3, 10, 20)]
    assert torch.equal(loaded(*bags).logits, model(*bags).logits)


def test_identity_projection_and_half_precision_weights(save):
    model = CrossFusion(8, 8, 2)
    path = save({k: v.half() for k, v in released_state(model).items()})
    loaded = load_official_checkpoint(path, num_heads=2)
    assert loaded.encoder_width == 8
    assert loaded.class_token.dtype == torch.float32


# --- what is refused ---------------------------------------------------------------------------


def test_a_pickled_model_is_refused(model, save):
    assert "state_dict()" in refusal(save(model))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content", [b"", b"hello world", b"\x1f\x8b\x08junk", b"PK\x03\x04junk", b"\x80\x02\xff"]
)
def test_bytes_that_are_no_checkpoint_are_refused(tmp_path, content):
    path = tmp_path / "junk.pt"
    path.write_bytes(content)
    assert str(path) in refusal(path)


def test_a_missing_file_is_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.pt")
    assert "no file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: torch.ones(3), "holds no state dict"),
        (lambda s: {}, "holds no state dict"),
        (lambda s: s | {"epoch": 3}, "'epoch' is not a named tensor"),
        (lambda s: s | {"head": torch.ones(2).long()}, "head holds torch.int64"),
        (lambda s: {"fc.weight": torch.ones(2, 2)}, "it has no cls_token"),
        (
            lambda s: {k: v for k, v in s.items() if "ppeg" not in k},
            "lacks 24 of CrossFusion's 347 weights: c_transformer.ppeg.proj.bias, ",
        ),
        (lambda s: s | {"extra.weight": torch.ones(1)}, "adds 1 of"),
        (lambda s: s | {"mlp_head.0.bias": torch.ones(9)}, "mlp_head.0.bias has shape (9,)"),
        (lambda s: s | {"cls_token": torch.tensor(1.0)}, "embed_dim"),
        (
            lambda s: s | {"c_lin_proj.0.weight": torch.ones(9)},
            "c_lin_proj.0.weight has shape (9,)",
        ),
    ],
)
def test_a_state_dict_that_is_not_crossfusions_is_refused(model, save, spoil, words):
    assert words in refusal(save(spoil(released_state(model))))


def test_heads_that_do_not_divide_are_refused(model, save):
    assert "3 heads" in refusal(save(released_state(model)), num_heads=3)
