"""The other commands, and what the command line costs to start."""

from __future__ import annotations

import csv
import errno
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from torch import OutOfMemoryError

from tiacrossfusion import __version__
from tiacrossfusion.cli import main


def run(*arguments: str):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments", [["--help"], ["predict", "--help"], ["demo", "--help"], ["--version"]]
)
def test_light_commands_import_neither_torch_nor_engines(arguments):
    code = (
        "import sys\nfrom tiacrossfusion.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'timm', 'cv2', 'pandas', 'pydantic', 'tiatoolbox.models'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.process
def test_the_package_imports_lazily():
    code = (
        "import sys, tiacrossfusion\nassert 'torch' not in sys.modules\n"
        "assert 'SurvivalPredictor' in dir(tiacrossfusion)\n"
        "tiacrossfusion.CrossFusion\nassert 'tiatoolbox' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version_help_and_usage():
    assert run("--version").output == f"tiacf {__version__}\n"
    for command in ("predict", "demo", "models", "encoders", "import-checkpoint"):
        assert command in run("--help").output
        assert run(command, "--help").exit_code == 0
    assert run("predict", "--nonsense").exit_code == 2
    assert run("nonsense").exit_code == 2
    result = run("predict")
    assert result.exit_code == 2
    assert "--img-input is missing" in result.output


def test_models_and_encoders_say_what_works_offline():
    models = run("models").output
    assert "crossfusion-demo" in models
    assert "not for clinical use" in models.lower()
    encoders = run("encoders").output
    shipped = next(line for line in encoders.splitlines() if line.startswith("stain-texture"))
    assert "offline" in shipped
    assert "tiatoolbox:UNI2" in encoders


@pytest.fixture
def checkpoint(shared):
    return shared / "golden" / "official_e32_b48.pt"


def import_stain_checkpoint(tmp_path, *options: str):
    """A checkpoint in the release's format on features of the shipped encoder, imported."""
    import torch

    from tiacrossfusion.encoders.loading import load_encoder
    from tiacrossfusion.networks.crossfusion import CrossFusion
    from tiacrossfusion.networks.official import released_names

    torch.manual_seed(0)
    width = load_encoder("stain-texture").spec.width
    network = CrossFusion(width, 32, 4)
    state, names = network.state_dict(), released_names(network)
    torch.save({theirs: state[ours] for theirs, ours in names.items()}, tmp_path / "ckpt.pt")
    return run(
        "import-checkpoint",
        tmp_path / "ckpt.pt",
        "--encoder",
        "stain-texture",
        "--output-path",
        tmp_path / "bundle",
        *options,
    )


def test_an_imported_checkpoint_predicts(tmp_path, simulated):
    result = import_stain_checkpoint(
        tmp_path, "--bin-edges", "12,24,36,60", "--time-unit", "months", "--num-heads", "4"
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["time_bins"] == {"edges": [0, 12, 24, 36, 60], "unit": "months"}
    assert config["risk_reference"] is None
    result = run(
        "predict",
        "--img-input",
        simulated / "low.svs",
        "--output-path",
        tmp_path / "out",
        "--model",
        tmp_path / "bundle",
    )
    assert result.exit_code == 0, result.output
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert "no training risks, so no percentile and no group" in row["message"]
    assert row["bin_edge_4"] == "60"


def test_importing_without_bins_records_them_as_unknown(tmp_path):
    result = import_stain_checkpoint(tmp_path, "--units", "power")
    assert result.exit_code == 0, result.output
    assert "Time bins unknown" in result.output
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["time_bins"] is None
    assert config["sampling"]["units"] == "power"
    result = import_stain_checkpoint(tmp_path)
    assert result.exit_code == 1
    assert "--overwrite" in result.output
    assert import_stain_checkpoint(tmp_path, "--overwrite").exit_code == 0


def test_local_encoder_weights_with_their_own_normalisation(shared_data, tmp_path, simulated):
    """A pretrained file that needs "SAME" padding and inputs in -1..1 goes in by its options."""
    import torch

    from tiacrossfusion.networks.crossfusion import CrossFusion
    from tiacrossfusion.networks.official import released_names

    weights = shared_data / "weights" / "mobilenet_v2_imagenet.pt"
    network = CrossFusion(1280, 32, 4)
    state, names = network.state_dict(), released_names(network)
    torch.save({theirs: state[ours] for theirs, ours in names.items()}, tmp_path / "my ckpt.pt")
    options = "--encoder timm:mobilenetv2_100 --encoder-mean .5,.5,.5 --encoder-std .5,.5,.5"
    result = run(
        "import-checkpoint",
        tmp_path / "my ckpt.pt",
        *options.split(),
        "--encoder-option",
        "pad_type=same",
        "--encoder-weights",
        weights,
        "--output-path",
        tmp_path / "bundle",
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["name"] == "my-ckpt"
    assert config["encoder"]["options"] == {"pad_type": "same"}
    assert config["encoder"]["mean"] == [0.5, 0.5, 0.5]
    predict = ["predict", "--img-input", simulated / "low.svs", "--model", tmp_path / "bundle"]
    out = ["--output-path", tmp_path / "out"]
    result = run(*predict, *out, "--encoder-weights", weights)
    assert result.exit_code == 0, result.output


def test_official_checkpoints_need_their_own_encoder(checkpoint, tmp_path):
    result = run("import-checkpoint", checkpoint, "--encoder", "stain-texture")
    assert result.exit_code == 1
    assert "width 48" in result.output


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--bin-edges", "12,24,36,60"], "--time-unit"),
        (["--bin-edges", "12,24", "--time-unit", "months"], "2 bins, the checkpoint has 4"),
        (["--bin-edges", "1,x", "--time-unit", "months"], "--bin-edges 1,x"),
        (["--num-heads", "0"], "--num-heads 0"),
        (["--name", "../up"], "--name ../up"),
        (["--encoder-mean", "1,2"], "three numbers"),
        (["--encoder-std", "0,1,1"], "std must be positive"),
        (["--encoder-option", "same"], "KEY=VALUE"),
        (["--encoder-option", "pad_type=same"], "options are for timm"),
        (["--num-heads", "5"], "num_heads"),
    ],
)
def test_wrong_import_options_get_one_line(tmp_path, options, word):
    result = import_stain_checkpoint(tmp_path, *options)
    assert result.exit_code == 2
    assert word in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_interrupting_exits_with_130(monkeypatch):
    from tiacrossfusion.models import files as zoo

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "shipped_bundles", interrupt)
    assert run("models").exit_code == 130


def test_only_what_the_console_answers_is_blamed_on_it(monkeypatch):
    from tiacrossfusion.models import files as zoo

    def fail():
        raise error

    monkeypatch.setattr(zoo, "shipped_bundles", fail)
    error = OSError(errno.ENOSPC, "No space left on device")
    assert "console cannot be written (No space" in run("models").output
    error = TimeoutError("the scheduler does not answer")
    assert run("models").exception is error
    error = OSError(errno.EBADF, "Bad file descriptor")
    monkeypatch.setattr(sys, "stdout", None)  # started without a console
    with pytest.raises(OSError, match="Bad file"):
        main(["models"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("Unable to allocate 5 GiB"), r"memory.* Unable to allocate.* with more"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            ),
            r"memory.* DefaultCPUAllocator.* with more",
        ),
        (
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            r"memory.* CUDA out of memory.* with more",
        ),
        (
            ImportError("libtorch.so: failed to map\nsegment"),
            r"cannot be loaded .*libtorch\.so: failed.*more memory.* install",
        ),
    ],
    ids=["memory", "memory of torch", "memory of the GPU", "library"],
)
def test_too_little_memory_is_one_line(monkeypatch, error, words):
    from tiacrossfusion import __main__, cli
    from tiacrossfusion.runs import signals as interruption

    def fail(**_):
        raise error

    for name in ("listen", "stop_listening"):
        monkeypatch.setattr(interruption, name, lambda: None)
    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit, match=f"^Error: .*{words}[^\n]*$"):
        __main__.main()
