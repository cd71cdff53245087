"""A plain network with three inputs serves as a model together with an `ioconfig` and an encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiatoolbox.models.engine.io_config import ModelIOConfigABC
from tiatoolbox.models.models_abc import ModelABC
from torch import Tensor, nn

from tiacrossfusion import SurvivalPredictor, TiacfError, UsageError

ENCODER = "stain-texture"
IOCONFIG = ModelIOConfigABC(
    input_resolutions=[{"units": "mpp", "resolution": r} for r in (2.0, 1.0, 0.5)],
    patch_input_shape=(256, 256),
    stride_shape=(256, 256),
)


class Plain(nn.Module):
    """Mean of each scale, and a linear head of three hazards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * width, 3)

    def forward(self, x5: Tensor, x10: Tensor, x20: Tensor) -> Tensor:
        return self.head(torch.cat([x.mean(dim=1) for x in (x5, x10, x20)], dim=1))


@pytest.fixture(scope="module")
def network(demo_encoder) -> Plain:
    torch.manual_seed(0)
    return Plain(demo_encoder.spec.width)


def test_it_predicts_slides_and_writes_all_outputs(network, simulated, tmp_path):
    image = simulated / "low.svs"
    predictor = SurvivalPredictor(model=network, encoder=ENCODER)
    assert predictor.model is network
    prediction = predictor.run(images=[image], ioconfig=IOCONFIG)[image]
    assert prediction["hazards"].shape == (3,)
    assert prediction["model"] == "Plain"
    assert "Not for clinical use" in prediction["notice"]
    for output_type in ("qupath", "zarr", "annotationstore"):  # the ioconfig is known by now
        folder = tmp_path / output_type
        (path,) = predictor.run(images=[image], save_dir=folder, output_type=output_type).values()
        assert path.exists()
        assert predictor.outcomes[0].row["risk"] == pytest.approx(prediction["risk"])


def test_the_sampling_may_be_given_in_pieces(network, simulated):
    image = simulated / "low.svs"
    pieces = {
        "input_resolutions": IOCONFIG.input_resolutions,
        "patch_input_shape": np.array([256, 256]),
    }
    whole = SurvivalPredictor(model=network, encoder=ENCODER).run([image], ioconfig=IOCONFIG)
    parts = SurvivalPredictor(model=network, encoder=ENCODER).run([image], **pieces)
    assert parts[image]["risk"] == whole[image]["risk"]


def test_weights_are_loaded_into_it(network, demo_encoder, simulated, tmp_path):
    image = simulated / "low.svs"
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    other = Plain(demo_encoder.spec.width)
    first = SurvivalPredictor(model=network, encoder=ENCODER).run([image], ioconfig=IOCONFIG)
    again = SurvivalPredictor(model=other, encoder=ENCODER, weights=tmp_path / "plain.pth")
    assert again.run([image], ioconfig=IOCONFIG)[image]["risk"] == first[image]["risk"]
    with pytest.raises(TiacfError, match="the weights do not fit Plain"):
        SurvivalPredictor(model=Plain(5), encoder=ENCODER, weights=tmp_path / "plain.pth")


def test_other_weights_are_another_model(network, demo_encoder, simulated, tmp_path):
    image, run = simulated / "low.svs", {"save_dir": tmp_path, "output_type": "zarr"}
    SurvivalPredictor(model=network, encoder=ENCODER).run([image], ioconfig=IOCONFIG, **run)
    other = SurvivalPredictor(model=Plain(demo_encoder.spec.width), encoder=ENCODER)
    assert other.run([image], ioconfig=IOCONFIG, **run) == {}
    assert "another model" in other.outcomes[0].message


class WithPreprocessing(ModelABC):
    """A model of TIAToolbox that changes patches."""

    def forward(self, x5: Tensor, x10: Tensor, x20: Tensor) -> Tensor:
        return x5.mean(dim=(1, 2), keepdim=True) + x10.mean() + x20.mean()

    @staticmethod
    def preproc(image: np.ndarray) -> np.ndarray:
        return image / 255

    @staticmethod
    def infer_batch(model: nn.Module, batch_data: np.ndarray, *, device: str) -> np.ndarray:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("model", "encoder", "options", "message"),
    [
        (Plain(3), None, {"ioconfig": IOCONFIG}, "encoder: is missing"),
        (Plain(3), ENCODER, {}, "ioconfig: is missing"),
        (Plain(3), ENCODER, {"ioconfig": "mpp"}, "ioconfig: must be a ModelIOConfigABC"),
        (Plain(3), ENCODER, {"ioconfig": IOCONFIG}, "fails on features of width"),
        (nn.Linear(3, 1), ENCODER, {"ioconfig": IOCONFIG}, "by the names x5, x10 or x20"),
        (WithPreprocessing(), ENCODER, {"ioconfig": IOCONFIG}, "preproc and postproc"),
        (
            Plain(3),
            ENCODER,
            {"ioconfig": ModelIOConfigABC(IOCONFIG.input_resolutions[:1], (256, 256))},
            "ioconfig: must have the resolutions of 5x, 10x and 20x",
        ),
        (
            Plain(3),
            ENCODER,
            {"ioconfig": IOCONFIG, "stride_shape": (128, 128)},
            "stride_shape: .* own sampling",
        ),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said_in_one_line(
    simulated, model, encoder, options, message
):
    predictor = SurvivalPredictor(model=model, encoder=encoder)
    with pytest.raises(TiacfError, match=message) as caught:
        predictor.run(images=[simulated / "low.svs"], **options)
    assert "\n" not in str(caught.value)


def test_a_bundle_has_its_own_encoder():
    with pytest.raises(UsageError, match="encoder=stain-texture: the model has its own"):
        SurvivalPredictor(encoder=ENCODER)
