"""Slides read again under nuisances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiacrossfusion.audit import pixels
from tiacrossfusion.audit.nuisance import NUISANCES
from tiacrossfusion.audit.nuisance_task import Reread
from tiacrossfusion.audit.rereading import Rereading, turned_grid
from tiacrossfusion.audit.slides import interval_of
from tiacrossfusion.inference.nuisance import risk_gradient
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.inference.slide import open_as
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.models.nuisances import Nuisances, expected_changes
from tiacrossfusion.models.source import ModelSource
from tiacrossfusion.simulation.slides import simulate_slides
from tiacrossfusion.slides.families import parents_of
from tiacrossfusion.slides.options import ReadOptions

BY_NAME = {nuisance.name: nuisance for nuisance in NUISANCES}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Two stains in varying amounts, (1, 64, 64, 3) uint8."""
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0.1, 1.0, (64, 64, 2))
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    return (255 * np.exp(-amounts @ vectors)).round().astype(np.uint8)[None]


class TestPixels:
    def test_without_jitter_nothing_changes(self, picture):
        same = pixels.hed_jitter(0.0, np.random.default_rng(0))(picture, 0.5)
        assert np.abs(same.astype(int) - picture).max() <= 1

    @pytest.mark.parametrize("method", ["macenko", "vahadane"])
    def test_another_stain_is_that_of_the_toolbox(self, picture, method):
        from tiatoolbox.tools.stainnorm import get_normalizer

        other = np.clip(picture.astype(float) ** 1.05 * 0.8, 0, 255).astype(np.uint8)
        normaliser = get_normalizer(method)
        normaliser.fit(other[0])
        wanted = normaliser.transform(picture[0].copy())
        own, target = (pixels.Stain.of(image[0], method, "x") for image in (picture, other))
        made = own.to(target)(picture, 0.5)[0]
        assert np.abs(made.astype(int) - wanted).mean() < 1

    def test_a_stain_becomes_itself(self, picture):
        stain = pixels.Stain.of(picture[0], "macenko", "x")
        assert np.abs(stain.to(stain)(picture, 0.5).astype(int) - picture).mean() < 2

    def test_gamma_and_balance(self):
        grey = np.full((1, 2, 2, 3), 128, np.uint8)
        assert pixels.gamma(0.9)(grey, 1.0).min() > 128 > pixels.gamma(1.1)(grey, 1.0).max()
        balanced = pixels.white_balance((1.05, 1.0, 0.95))(grey, 1.0)[0, 0, 0]
        assert balanced.tolist() == [134, 128, 122]

    def test_blur_is_in_microns(self):
        """At half the resolution a blur has half the width."""
        dot = np.zeros((1, 41, 41, 3), np.uint8)
        dot[0, 20, 20] = 255
        wide = [pixels.blur(2.0)(dot, mpp)[0, 20, 20, 0] for mpp in (0.5, 1.0)]
        assert wide[0] < wide[1] < 255

    def test_jpeg_loses_more_at_lower_quality(self, picture):
        rng = np.random.default_rng(1)
        noise = rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
        lost = [np.abs(pixels.jpeg(q)(noise, 0.5).astype(int) - noise).mean() for q in (95, 70, 50)]
        assert lost[0] < lost[1] < lost[2]
        assert np.abs(pixels.jpeg(95)(picture, 0.5).astype(int) - picture).mean() < 12

    def test_four_turns_are_none(self, picture):
        turned = picture
        for _ in range(4):
            turned = pixels.turned(turned, 0.5)
        assert (turned == picture).all()


@pytest.fixture(scope="module")
def slide(made_once):
    """A simulated slide."""

    def make(folder):
        simulate_slides(folder, 1, 3, scenario="sum", size=(5000, 4200))

    (path,) = (made_once("nuisance_slide", make) / "slides").iterdir()
    return path


@pytest.fixture(scope="module")
def model():
    """The demonstration model and its encoder."""
    return ModelSource(model="nested-demo").load()


def reread(slide, model, families: int = 100):
    """Open a slide to be read again."""
    bundle, encoder = model.need_bundle(), model.need_encoder()
    opened = open_as(slide, ReadOptions())
    progress = Progress(1, show=False)
    args = (bundle.config.sampling, encoder, ReadOptions(), bundle.scales, families, progress)
    return opened, Rereading.of(opened, *args)


def no_stain(method):
    """No nuisance of the tests asks for another stain."""
    raise AssertionError(method)


class TestRereading:
    def test_without_limit_it_is_the_bag_of_the_slide(self, slide, model):
        from tiacrossfusion.inference.extraction import extract_bag

        opened, rereading = reread(slide, model)
        with opened:
            plain = rereading.plain()
            whole = extract_bag(opened, model.need_bundle().config.sampling, model.need_encoder())
        for scale, tokens in whole.scales.items():
            assert (tokens.features == plain.scales[scale].features).all()
            assert (tokens.bounds == plain.scales[scale].bounds).all()

    def test_a_part_has_whole_families(self, slide, model):
        opened, rereading = reread(slide, model, families=5)
        with opened:
            plain = rereading.plain()
            moved = rereading.under(
                BY_NAME["grid moved by half a 5x patch"], plain, np.random.default_rng(0), no_stain
            )
        assert plain.counts()["5x"] == 5
        assert rereading.families > 5
        for bag in (plain, moved):
            assert (parents_of(bag.scales["20x"].grid, bag.scales["10x"].grid) >= 0).all()
        column, row = moved.scales["5x"].grid.T
        assert rereading.blocks[row, column].all()
        side = np.diff(plain.scales["5x"].bounds[:, [0, 2]])[0, 0]
        assert (moved.scales["5x"].bounds[:, 0] == column * side - side // 2).all()

    def test_a_turned_grid_changes_nothing_on_the_true_grid(self, slide, model):
        opened, rereading = reread(slide, model, families=6)
        with opened:
            plain = rereading.plain()
        turned = plain
        for _ in range(4):
            turned = turned_grid(turned, rereading.blocks.shape[0])
            risk = predict_bag(turned, model.need_bundle()).risk
            assert risk == pytest.approx(predict_bag(plain, model.need_bundle()).risk, abs=1e-5)
        assert {s: t.features.sum() for s, t in turned.scales.items()} == {
            s: t.features.sum() for s, t in plain.scales.items()
        }

    def test_other_pixels_give_other_features_and_the_slide_stays(self, slide, model):
        opened, rereading = reread(slide, model, families=4)
        with opened:
            plain = rereading.plain()
            for name in ("gamma .9", "JPEG quality 50", "blur 1 micron", "HED jitter, SD .05"):
                other = rereading.under(BY_NAME[name], plain, np.random.default_rng(0), no_stain)
                assert (
                    np.abs(
                        other.scales["20x"].features.mean(axis=0)
                        - plain.scales["20x"].features.mean(axis=0)
                    ).max()
                    > 0
                )
            again = rereading.plain()
        assert (again.scales["20x"].features == plain.scales["20x"].features).all()


class TestInterval:
    def test_the_gradient_is_that_of_a_shared_change(self, slide, model):
        bundle = model.need_bundle()
        opened, rereading = reread(slide, model, families=4)
        with opened:
            bag = rereading.plain()
        gradient = risk_gradient(bag, bundle)
        tokens = bundle.tokens(bag)
        step = torch.zeros(tokens.features["10x"].shape[2])
        step[7] = 1e-3 * float(tokens.features["10x"][..., 7].std())
        from tiacrossfusion.networks.calling import call_network

        with torch.inference_mode():
            moved = tokens.with_features({"10x": tokens.features["10x"] + step})
            there, here = (float(call_network(bundle.network, t).risk) for t in (moved, tokens))
        assert (there - here) / float(step[7]) == pytest.approx(gradient[1, 7], rel=0.1, abs=1e-3)

    def test_expected_changes_stay_within_the_risks(self):
        changes = np.array([[[1000.0]], [[-1000.0]], [[1e-6]]])
        moved = -2.0 + expected_changes(-2.0, np.array([[1.0]]), changes, 4)
        assert moved[0] == pytest.approx(0, abs=1e-6)
        assert moved[1] == pytest.approx(-4, abs=1e-6)
        assert moved[2] + 2 == pytest.approx(1e-6, rel=1e-2)

    def test_a_linear_risk_leaves_nothing_unexplained(self):
        """Where all slides change alike, the expected change is the change, and the SD its size."""
        rng = np.random.default_rng(0)
        gradient = rng.standard_normal((3, 5)) * 1e-3
        shift = rng.standard_normal((2, 3, 5))
        rows = []
        for number in range(6):
            means = rng.standard_normal((1, 3, 5))
            change = expected_changes(-2.0, gradient, shift, 4)
            risks = np.concatenate([[-2.0], -2.0 + change])
            whole = np.concatenate([means, means + shift]).astype(np.float32)
            rows.append(Reread(str(number), whole, risks, np.zeros((2, 20)), gradient))
        found, covered = interval_of(rows, 4)
        assert float(found.residual) < 1e-6
        assert covered >= 0.5  # the larger of two changes is 1.4 times their root mean square
        wanted = np.sqrt((change**2).mean())
        assert found.risk_sd(-2.0, gradient, 4) == pytest.approx(wanted, rel=1e-3)

    def test_two_slides_are_too_few(self):
        row = Reread(
            "a",
            np.zeros((2, 3, 5), np.float32),
            np.array([-2.0, -1.9]),
            np.zeros((1, 20)),
            np.zeros((3, 5)),
        )
        assert interval_of([row, row], 4) == (None, None)

    def test_the_file_of_the_bundle(self, tmp_path):
        made = Nuisances(torch.ones(2, 3, 5), torch.tensor(0.3))
        made.save(tmp_path)
        read = Nuisances.load(tmp_path, 5)
        assert read is not None
        assert read.risk_sd(-2.0, np.zeros((3, 5)), 4) == pytest.approx(0.3)
        with pytest.raises(Exception, match="do not fit"):
            Nuisances.load(tmp_path, 6)
        (tmp_path / "nuisances.safetensors").write_bytes(b"x" * 20)
        with pytest.raises(Exception, match="update-model"):
            Nuisances.load(tmp_path, 5)
