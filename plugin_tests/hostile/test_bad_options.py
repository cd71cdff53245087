"""Options that cannot be: exit code 2, one line that names the option, and nothing written."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from command_line import USAGE, assert_usage

from tiacrossfusion.cli import main
from tiacrossfusion.simulation.bags import simulate_bags

HUGE = "9" * 25


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Bags of six patients, and their table."""
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder,
        6,
        1,
        scenario="fine",
        strength=1.0,
        censored_share=0.3,
        slides_per_patient=1,
        encoder_width=4,
        side=1,
        auc=0.9,
    )
    return folder


@pytest.fixture
def starts(simulated, cohort, tmp_path) -> dict[str, list[str]]:
    """What each command needs before it looks at the rest."""
    out = ["--output-path", str(tmp_path / "out")]
    slides, bags = ["--img-input", str(simulated)], ["--bags", str(cohort / "bags")]
    (tmp_path / "weights.pt").touch()
    training = [*bags, "--table", str(cohort / "cohort.csv"), "--time-unit", "months", *out]
    return {
        "predict": [*slides, *out],
        "extract": [*slides, *out],
        "check": slides,
        "train": training,
        "tune": training,
        "pretrain": [
            *bags,
            "--table",
            str(cohort / "cohort.csv"),
            "--covariates",
            "fine_burden",
            *out,
        ],
        "calibrate": ["--model", str(tmp_path), *bags],
        "distil": ["--teacher", "crossfusion-demo", *bags, *out],
        "audit": ["--model", "crossfusion-demo", *bags, *out],
        "markers": [*bags, "--table", str(cohort / "cohort.csv"), *out],
        "evaluate": ["--predictions", str(cohort), *out],
        "faithfulness": ["--faithfulness", *bags, "--model", "crossfusion-demo", *out],
        "simulate": out,
        "convert": [*bags, *out],
        "import-checkpoint": [str(tmp_path / "weights.pt"), "--encoder", "stain-texture", *out],
        "demo": out,
        "slides": ["--slides", *out],
    }


#: Commands that go by another name above, where an option decides which checks apply.
COMMANDS = {"faithfulness": "evaluate", "slides": "simulate"}


def tiacf(start: str, *arguments: str):
    return CliRunner().invoke(main, [COMMANDS.get(start, start), *arguments])


def numeric_options() -> list[tuple[str, str, click.ParamType]]:
    """Every option of every command that takes a number."""
    starts = {("evaluate", "--slides"): "faithfulness", ("simulate", "--slide-size"): "slides"}
    starts |= {("simulate", "--mpp"): "slides", ("simulate", "--processes"): "slides"}
    return [
        (starts.get((name, parameter.opts[0]), name), parameter.opts[0], parameter.type)
        for name, command in main.commands.items()
        for parameter in command.params
        if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType)
    ]


@pytest.mark.parametrize("value", ["-1", "many", "nan", HUGE])
@pytest.mark.parametrize(("start", "option", "kind"), numeric_options())
def test_numbers_that_cannot_be(starts, tmp_path, start, option, kind, value):
    """Negative, no number, not a number, and absurdly large (for what is counted)."""
    if value == HUGE and isinstance(kind, click.types.FloatParamType):
        value = "inf"
    result = tiacf(start, *starts[start], option, value)
    # click's own refusals show the command's usage first, and end with the line that says why.
    line = result.output.strip().splitlines()[-1]
    assert result.exit_code == USAGE, result.output
    assert line.startswith("Error: ")
    assert option in line or option.strip("-") in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("start", "options", "words"),
    [
        ("predict", ["--model", ""], ["model"]),
        ("predict", ["--model", "crossfusion-dem"], ['did you mean "crossfusion-demo"']),
        ("predict", ["--model", "m" * 300], ["unknown model"]),
        ("predict", ["--encoder-weights", "absent.pt"], ["stain-texture", "takes no weights"]),
        ("predict", ["--precision", "float16"], ["precision float16", "float32"]),
        ("predict", ["--device", "nonsense"], ["device nonsense", "cpu"]),
        ("predict", ["--device", ""], ["device", "cpu"]),
        ("predict", ["--masks", "absent"], ["absent: no such file", "--masks"]),
        ("predict", ["--masks", ""], ["--masks is missing"]),
        ("predict", ["--file-types", " , "], ["--file-types is empty"]),
        ("predict", ["--file-types", "*.xyz"], ["no slide", "*.xyz", "--file-types"]),
        ("predict", ["--img-input", "absent"], ["absent: no such file", "--img-input"]),
        ("predict", ["--img-input", ""], ["--img-input is missing"]),
        ("predict", ["--output-path", ""], ["--output-path is missing"]),
        ("predict", ["--output-path", "o" * 300], ["File name too long", "--output-path"]),
        ("predict", ["--patients", "absent.csv"], ["absent.csv: no such file", "--patients"]),
        ("predict", ["--slide-column", "id"], ["--slide-column is for --patients"]),
        ("predict", ["--cluster", "nowhere"], ["--cluster nowhere", "scheduler file"]),
        ("extract", ["--img-input", ""], ["--img-input is missing"]),
        ("extract", ["--output-path", ""], ["--output-path is missing"]),
        ("extract", ["--encoder-weights", "w.pt"], ["stain-texture", "takes no weights"]),
        ("extract", ["--encoder", ""], ["unknown encoder", "tiacf encoders"]),
        ("extract", ["--encoder", "timm:resnet5"], ["unknown encoder", "timm:resnet50"]),
        ("extract", ["--encoder", "/etc/hostname"], ["unknown encoder", "tiacf encoders"]),
        ("extract", ["--encoder", "timm:resnet18", "--encoder-weights", "absent.pt"], ["no such"]),
        ("extract", ["--masks", "absent"], ["absent: no such file", "--masks"]),
        ("extract", ["--shard", "5/4"], ["--shard 5/4"]),
        ("extract", ["--shard", f"1/{HUGE}"], ["--shard 1/", "two whole numbers"]),
        ("extract", ["--mpp", "0.25", "--power", "5"], ["contradict", "leave one of them out"]),
        ("predict", ["--mpp", "0.25", "--power", "5"], ["contradict", "about 40x"]),
        ("predict", ["--gzip", "--output-type", "zarr"], ["--gzip is for GeoJSON"]),
        ("predict", ["--device", "hpu"], ["device hpu", "cpu"]),
        ("extract", ["--dry-run", "--cluster", "tcp://node:1"], ["leave --cluster out"]),
        ("train", ["--folds", "1"], ["--folds 1"]),
        ("train", ["--learning-rate", "0"], ["--learning-rate 0"]),
        ("train", ["--embed-dim", "1000000000000"], ["--embed-dim 1000000000000"]),
        ("train", ["--time-unit", ""], ["--time-unit"]),
        ("train", ["--time-unit", "=m"], ["--time-unit =m", "begins with no '='"]),
        ("train", ["--time-unit", "m\x07"], ["--time-unit m\\x07", "no control characters"]),
        (
            "import-checkpoint",
            ["--bin-edges", "1,2", "--time-unit", "+m"],
            ["--time-unit +m", "formula"],
        ),
        (
            "import-checkpoint",
            ["--encoder", "timm:resnet18", "--encoder-mean", "nan,0,0"],
            ["mean", "must be finite"],
        ),
        (
            "import-checkpoint",
            ["--encoder", "timm:resnet18", "--encoder-option", "block=x"],
            ["timm:resnet18", "cannot build it with options", "AttributeError"],
        ),
        (
            "import-checkpoint",
            ["--encoder", "timm:vit_tiny_patch16_224", "--encoder-option", "patch_size=0"],
            ["timm:vit_tiny_patch16_224", "ZeroDivisionError"],
        ),
        (
            "import-checkpoint",
            ["--encoder-option", f"a={'[' * 60_000}"],
            ["stain-texture", "takes none"],
        ),
        ("train", ["--accelerator", "gpus"], ["--accelerator gpus", "leave them out"]),
        ("train", ["--devices", "1000"], ["--devices 1000", "CPU cores"]),
        ("train", ["--devices", "0"], ["--devices 0", "leave them out"]),
        ("train", ["--devices", "two"], ["--devices two", "leave them out"]),
        ("train", ["--devices", "²"], ["--devices ²", "leave them out"]),
        ("train", ["--devices", HUGE], [f"--devices {HUGE}", "10000 or less"]),
        ("train", ["--strategy", "fast"], ["--strategy fast", "leave them out"]),
        ("train", ["--strategy", "xla"], ["--strategy xla", "torch_xla", "leave them out"]),
        ("train", ["--accelerator", "tpu"], ["--accelerator tpu", "torch_xla", "leave them out"]),
        ("train", ["--covariates", "height"], ["height", "--covariates"]),
        ("train", ["--event-column", "dead"], ["dead", "--event-column"]),
        ("train", ["--protocol", "official"], ["--splits"]),
        ("train", ["--splits", "absent"], ["absent", "--splits"]),
        ("train", ["--config", "absent.yaml"], ["absent.yaml", "--config"]),
        ("train", ["--table", "absent.csv"], ["absent.csv: no such file"]),
        ("train", ["--bags", "absent"], ["absent: no such file or folder", "--bags"]),
        ("evaluate", ["--predictions", "absent"], ["absent"]),
        ("evaluate", ["--slides", "3"], ["--slides"]),
        ("faithfulness", ["--truth", "absent"], ["absent", "--truth"]),
        ("faithfulness", ["--model", "nowhere"], ["nowhere: unknown model"]),
        ("simulate", ["--censored", "1"], ["censored", "below 1"]),
        ("simulate", ["--auc", "0.2"], ["auc", "0.5"]),
        ("simulate", ["--mpp", "0.5"], ["--mpp", "--slides"]),
        ("slides", ["--side", "3"], ["--side", "--slides"]),
        ("convert", ["--bags", "absent"], ["absent: no such file", "--bags"]),
        ("convert", ["--x5", "absent"], ["give the one or the others"]),
        ("extract", ["--mask-class", "Tumor"], ["--mask-class", "add --masks"]),
        ("demo", ["--device", "nonsense"], ["device nonsense", "cpu"]),
    ],
)
def test_options_that_cannot_be(starts, tmp_path, start, options, words):
    assert_usage(tiacf(start, *starts[start], *options), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", ["predict", "extract"])
def test_one_mask_does_not_serve_many_slides(starts, tmp_path, start):
    (tmp_path / "mask.png").touch()
    result = tiacf(start, *starts[start], "--masks", str(tmp_path / "mask.png"))
    assert_usage(result, "mask.png: one mask for 2 slides", "folder of masks")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("start", "options"),
    [
        ("predict", ["--device", "cuda"]),
        ("extract", ["--device", "cuda:1"]),
        ("faithfulness", ["--device", "cuda"]),
        ("demo", ["--device", "cuda"]),
        ("train", ["--accelerator", "gpu"]),
    ],
)
def test_a_gpu_that_is_not_there(starts, tmp_path, start, options):
    assert_usage(tiacf(start, *starts[start], *options), options[1])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["predict", "--nonsense"],
        ["predict", "--output-type", "pdf"],
        ["predict", "slide.svs"],
        ["train", "--model", "crossfusoin"],
        ["status"],
        ["import-checkpoint"],
    ],
)
def test_what_no_command_knows(arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == USAGE
    assert result.output.strip().splitlines()[-1].startswith("Error: ")


def test_the_python_interface_refuses_with_the_same_errors(simulated):
    from tiacrossfusion import SurvivalPredictor, UsageError, load_bundle, load_encoder

    with pytest.raises(UsageError, match="unknown model"):
        load_bundle("nowhere")
    with pytest.raises(UsageError, match="unknown encoder"):
        load_encoder("nowhere")
    predictor = SurvivalPredictor(model="crossfusion-demo")
    for options, words in (
        ({"images": []}, "at least one slide"),
        ({"patch_mode": True}, "patch_mode=False"),
        ({"output_type": "pdf"}, "output_type=pdf"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"num_workers": -1}, "num_workers -1"),
        ({"batch_size": "32"}, "batch_size: must be a whole number"),
        ({"save_dir": ""}, "save_dir: '' is no path"),
        ({"masks": ["a.png", "b.png"]}, "2 masks for 1 images"),
        ({"nonsense": 1}, "no such option"),
    ):
        with pytest.raises(UsageError, match=words):
            predictor.run(**{"images": [simulated / "low.svs"], "patch_mode": False} | options)
