"""Bundles come back as they were; damaged, edited or foreign ones are refused with the field named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.models.bundle import load_bundle, save_bundle
from tiacrossfusion.models.files import read_config, shipped_bundles


@pytest.fixture
def bundle_copy(tmp_path) -> Path:
    folder = tmp_path / "my-model"
    shutil.copytree(shipped_bundles()["crossfusion-demo"], folder)
    return folder


def edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_demo_bundle_says_what_it_is(demo_bundle):
    config = demo_bundle.config
    assert "not for clinical use" in config.card.notice.lower()
    assert "simulated" in config.card.cohort
    assert "95 % interval" in config.card.performance
    assert config.time_bins is not None
    assert config.risk_reference is not None
    assert all(p.stat().st_size < 4 << 20 for p in shipped_bundles()["crossfusion-demo"].iterdir())


def test_a_bundle_comes_back_as_it_was(demo_bundle, tmp_path):
    save_bundle(tmp_path / "b", demo_bundle.config, demo_bundle.network)
    again = load_bundle(tmp_path / "b")
    assert again.config == demo_bundle.config
    for (name, ours), theirs in zip(
        demo_bundle.network.state_dict().items(), again.network.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_the_fingerprint_follows_config_and_weights(bundle_copy):
    before = load_bundle(bundle_copy).fingerprint
    edit(bundle_copy, version="2")
    assert load_bundle(bundle_copy).fingerprint != before


def test_unknown_names_get_the_nearest():
    with pytest.raises(TiacfError, match='did you mean "crossfusion-demo"'):
        load_bundle("crossfusion-dmeo")
    with pytest.raises(TiacfError, match="import-checkpoint"):
        load_bundle(__file__)


def test_hub_ids_use_the_hub_only_then(monkeypatch, tmp_path, bundle_copy):
    import huggingface_hub

    asked = []

    def fake(hub_id, **options):
        asked.append((hub_id, options["local_files_only"]))
        return str(bundle_copy)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    load_bundle(bundle_copy)
    assert asked == []
    load_bundle("group/model")
    monkeypatch.setenv("TIACF_OFFLINE", "1")
    load_bundle("group/model")
    assert asked == [("group/model", False), ("group/model", True)]

    def refuse(hub_id, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(TiacfError, match="TIACF_OFFLINE is set, so the hub was not contacted"):
        load_bundle("group/model")
    monkeypatch.delenv("TIACF_OFFLINE")
    with pytest.raises(TiacfError, match=r"group/model: .*no route to host.*give its folder"):
        load_bundle("group/model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "update tiacrossfusion"),
        ({"extra": 1}, "extra"),
        ({"architecture": {"encoder_width": 1}}, "architecture"),
        ({"name": "../evil"}, "name"),
        ({"time_bins": {"edges": [0, 5, 3], "unit": "months"}}, r"time_bins\.edges"),
    ],
)
def test_edited_configs_are_refused(bundle_copy, changes, message):
    edit(bundle_copy, **changes)
    with pytest.raises(TiacfError, match=message) as caught:
        load_bundle(bundle_copy)
    assert "\n" not in str(caught.value)
    assert "config.json" in str(caught.value)


def test_configs_of_other_sizes_are_refused(bundle_copy):
    config = json.loads((bundle_copy / "config.json").read_text())
    sizes = config["architecture"]["sizes"]
    edit(bundle_copy, architecture=config["architecture"] | {"sizes": sizes | {"embed_dim": 32}})
    with pytest.raises(TiacfError, match="do not fit"):
        load_bundle(bundle_copy)
    edit(bundle_copy, architecture=config["architecture"] | {"encoder_width": 7})
    with pytest.raises(TiacfError, match=r"differs from encoder\.width"):
        read_config(bundle_copy)


def test_damaged_weights_are_refused(bundle_copy):
    weights = load_file(bundle_copy / "model.safetensors")
    save_file({k: v * float("nan") for k, v in weights.items()}, bundle_copy / "model.safetensors")
    with pytest.raises(TiacfError, match="not finite"):
        load_bundle(bundle_copy)
    (bundle_copy / "model.safetensors").write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(TiacfError, match="cannot be read"):
        load_bundle(bundle_copy)
    (bundle_copy / "model.safetensors").unlink()
    with pytest.raises(TiacfError, match="cannot be read"):
        load_bundle(bundle_copy)
    (bundle_copy / "config.json").write_text("{")
    with pytest.raises(TiacfError, match="not valid JSON"):
        load_bundle(bundle_copy)
    (bundle_copy / "config.json").unlink()
    with pytest.raises(TiacfError, match=r"no readable config\.json"):
        load_bundle(bundle_copy)


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(TiacfError, match="device nonsense"):
        load_bundle("crossfusion-demo", device="nonsense")
