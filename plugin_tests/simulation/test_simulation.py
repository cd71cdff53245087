import signal
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import openslide
import pytest
import tifffile

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.simulation.cohort import draw_cohort
from tiacrossfusion.simulation.epithelium import Epithelium
from tiacrossfusion.simulation.nuclei import NucleusKind, place_nuclei
from tiacrossfusion.simulation.painting import Painter
from tiacrossfusion.simulation.parameters import TissueParameters, draw_parameters, log_hazard
from tiacrossfusion.simulation.regions import Regions
from tiacrossfusion.simulation.slide import blank_slide, render_slide
from tiacrossfusion.simulation.staining import Stain
from tiacrossfusion.simulation.tissue import grow_tissue
from tiacrossfusion.simulation.truth import SlideTruth

MIDDLE = TissueParameters(0.5, 0.5, 0.5)
SMALL = {"size": (1300, 1100), "mpp": 0.5}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "middle.svs"
    return path, render_slide(path, MIDDLE, seed=7, **SMALL)


def read_rgb(path):
    with openslide.OpenSlide(path) as slide:
        region = slide.read_region((0, 0), 0, slide.dimensions)
    return np.asarray(region.convert("RGB"))


@pytest.mark.process
def test_import_is_light():
    code = (
        "import sys, tiacrossfusion.simulation;"
        "assert not {'torch', 'tiatoolbox', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestParameters:
    @pytest.mark.parametrize("burden", [-0.01, 1.01, float("nan"), "0.5", None])
    def test_burden_out_of_range(self, burden):
        with pytest.raises(TiacfError) as caught:
            TissueParameters(0.5, burden, 0.5)
        message = str(caught.value)
        assert "\n" not in message
        assert "glands" in message
        assert repr(burden) in message
        assert "from 0 to 1" in message

    def test_frozen(self):
        with pytest.raises(FrozenInstanceError):
            MIDDLE.nuclei = 1.0

    @pytest.mark.parametrize("name", ["architecture", "glands", "nuclei"])
    def test_log_hazard_rises_with_each_burden(self, name):
        others = {"architecture": 0.3, "glands": 0.6, "nuclei": 0.9}
        hazards = [
            log_hazard(TissueParameters(**{**others, name: burden}))
            for burden in np.linspace(0, 1, 6)
        ]
        assert np.all(np.diff(hazards) > 0)
        assert hazards[-1] - hazards[0] == pytest.approx(2.0)

    def test_log_hazard_scale(self):
        rng = np.random.default_rng(0)
        hazards = [log_hazard(draw_parameters(rng)) for _ in range(20_000)]
        assert np.mean(hazards) == pytest.approx(0, abs=0.03)
        assert np.std(hazards) == pytest.approx(1, abs=0.03)
        assert log_hazard(MIDDLE) == 0

    def test_weights_choose_burdens(self):
        parameters = TissueParameters(1.0, 0.0, 0.25)
        assert log_hazard(parameters, (1.0, 0.0, 0.0)) == pytest.approx(1.0)
        assert log_hazard(parameters, (0.0, 2.0, 0.0)) == pytest.approx(-2.0)


class TestCohort:
    def test_columns_and_seed(self):
        cohort = draw_cohort(30, seed=3)
        assert list(cohort.columns) == [
            "slide",
            "patient",
            "architecture",
            "glands",
            "nuclei",
            "log_hazard",
            "time",
            "event",
        ]
        assert cohort["slide"].is_unique
        assert cohort.equals(draw_cohort(30, seed=3))
        assert not cohort.equals(draw_cohort(30, seed=4))

    @pytest.mark.parametrize("share", [0.0, 0.25, 1 / 3, 0.9])
    def test_censored_share(self, share):
        cohort = draw_cohort(600, seed=1, censored_share=share)
        assert 1 - cohort["event"].mean() == pytest.approx(share, abs=0.002)
        assert (cohort["time"] > 0).all()
        assert np.isfinite(cohort["time"]).all()

    @pytest.mark.parametrize(("strength", "expected"), [(0.0, 0.5), (1.5, 0.80)])
    def test_hazard_orders_times(self, strength, expected):
        cohort = draw_cohort(800, seed=2, strength=strength)
        risk = cohort[["architecture", "glands", "nuclei"]].sum(axis=1).to_numpy()
        time, event = cohort["time"].to_numpy(), cohort["event"].to_numpy()
        comparable = (event[:, None] == 1) & (time[:, None] < time[None, :])
        concordance = (risk[:, None] > risk[None, :])[comparable].mean()
        assert concordance == pytest.approx(expected, abs=0.04)

    def test_the_shipped_model_keeps_its_cohort(self):
        """The demonstration bundle was trained on this draw."""
        cohort = draw_cohort(480, seed=2026)
        first = cohort.iloc[0]
        assert first["nuclei"] == pytest.approx(0.4672684011434851, rel=1e-9)
        assert first["time"] == pytest.approx(11.626780466200366, rel=1e-9)

    def test_median_survival(self):
        cohort = draw_cohort(4000, seed=5, strength=0.0, censored_share=0.0, median_months=20)
        assert cohort["time"].median() == pytest.approx(20, rel=0.08)

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ({"n_patients": 0}, "n_patients"),
            ({"censored_share": 1.0}, "censored_share"),
            ({"median_months": 0.0}, "median_months"),
            ({"seed": -1}, "seed"),
        ],
    )
    def test_bad_numbers(self, arguments, name):
        with pytest.raises(TiacfError, match=f"{name} is .*; give"):
            draw_cohort(**{"n_patients": 5, "seed": 0, **arguments})


class TestFile:
    @pytest.mark.parametrize(
        ("mpp", "power", "size"),
        [(0.25, "40", (1100, 900)), (0.5, "20", (1300, 1100)), (0.5, "20", (300, 300))],
    )
    def test_openslide_sees_an_aperio_slide(self, tmp_path, mpp, power, size):
        path = tmp_path / "slide.svs"
        render_slide(path, MIDDLE, size=size, mpp=mpp)
        assert openslide.OpenSlide.detect_format(path) == "aperio"
        with openslide.OpenSlide(path) as slide:
            levels = tuple((size[0] // factor, size[1] // factor) for factor in (1, 4, 16))
            assert slide.level_dimensions == levels
            assert float(slide.properties["openslide.mpp-x"]) == mpp
            assert float(slide.properties["openslide.mpp-y"]) == mpp
            assert slide.properties["openslide.objective-power"] == power
            for level in range(3):
                assert slide.properties[f"openslide.level[{level}].tile-width"] == "256"
            assert "thumbnail" in slide.associated_images

    def test_tifffile_sees_the_pyramid(self, rendered):
        path, _ = rendered
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_svs
            assert [level.shape for level in tiff.series[0].levels] == [
                (1100, 1300, 3),
                (275, 325, 3),
                (68, 81, 3),
            ]
            assert all(level.keyframe.is_tiled for level in tiff.series[0].levels)
            pixels = tiff.series[0].asarray()
        difference = np.abs(pixels.astype(int) - read_rgb(path))
        assert difference.mean() < 1

    def test_levels_show_the_same(self, rendered):
        path, _ = rendered
        with tifffile.TiffFile(path) as tiff:
            full, quarter, _ = (level.asarray() for level in tiff.series[0].levels)
        means = full[:1100, :1300].reshape(275, 4, 325, 4, 3).mean(axis=(1, 3))
        assert np.abs(means - quarter).mean() < 5  # JPEG has its part in it

    def test_blocks_join_without_seams(self):
        for_regions, for_tissue, for_stain = np.random.SeedSequence(1).spawn(3)
        regions = Regions.draw(np.random.default_rng(for_regions), (64, 64), MIDDLE)
        maps, nuclei = grow_tissue(for_tissue, regions)
        stain = Stain.draw(np.random.default_rng(for_stain), 1024)
        paint = Painter(maps, nuclei, stain, 0.5)
        whole = paint(0, 256, 1024, 512).astype(int)
        parts = [paint(0, 256, 256, 512), paint(256, 256, 512, 512), paint(768, 256, 256, 512)]
        # Fibres are drawn at half the resolution and differ by a shade where a block ends.
        assert np.abs(whole - np.hstack(parts)).max() < 12

    def test_same_seed_same_bytes(self, rendered, tmp_path):
        path, _ = rendered
        again, other = tmp_path / "again.svs", tmp_path / "other.svs"
        render_slide(again, MIDDLE, seed=7, **SMALL)
        render_slide(other, MIDDLE, seed=8, **SMALL)
        assert again.read_bytes() == path.read_bytes()
        assert other.read_bytes() != path.read_bytes()

    def test_progress_changes_no_byte(self, rendered, tmp_path, capsys):
        path, _ = rendered
        render_slide(tmp_path / "again.svs", MIDDLE, seed=7, progress=True, **SMALL)
        assert (tmp_path / "again.svs").read_bytes() == path.read_bytes()
        assert "Painting" in capsys.readouterr().err

    def test_interrupted_write_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupt(self, x, y, width, height):
            raise KeyboardInterrupt

        monkeypatch.setattr(Painter, "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            render_slide(tmp_path / "slide.svs", MIDDLE, **SMALL)
        assert list(tmp_path.iterdir()) == []

    def test_interrupted_write_keeps_the_older_slide(self, tmp_path, monkeypatch):
        from tiacrossfusion.simulation import aperio

        path = tmp_path / "slide.svs"
        path.write_bytes(b"older")

        def fail(pixels):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(aperio, "_thumbnail", fail)
        with pytest.raises(OSError, match="No space"):
            blank_slide(path, size=(400, 400), mpp=0.5)
        assert path.read_bytes() == b"older"
        assert list(tmp_path.iterdir()) == [path]

    def test_failed_write_ends_the_painting(self, tmp_path, monkeypatch):
        """Or the collector ends it, in any thread, and one that is the painting's own cannot."""
        from tiacrossfusion.simulation import aperio

        made, paint_tiles = [], aperio._painted_tiles

        def keep(*arguments, **options):
            made.append(paint_tiles(*arguments, **options))
            return made[0]

        def fail(self, data):
            if made:
                assert made[0].gi_frame is not None, "there are tiles left"
                raise OSError(28, "No space left on device")
            return write(self, data)

        write = tifffile.FileHandle.write
        monkeypatch.setattr(aperio, "_painted_tiles", keep)
        monkeypatch.setattr(tifffile.FileHandle, "write", fail)
        with pytest.raises(OSError, match="No space"):
            blank_slide(tmp_path / "slide.svs", size=(400, 400), mpp=0.5)
        assert made[0].gi_frame is None
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            ("slide.tif", {}, "slide.tif: .*give a name that ends in .svs"),
            ("no/slide.svs", {}, "its folder .*no does not exist; create it"),
            ("slide.svs", {"size": (299, 500)}, r"size is \(299, 500\); give .* 300 px"),
            ("slide.svs", {"mpp": 0.0}, "mpp is 0.0; give 0.1 to 1.0"),
            ("slide.svs", {"seed": -1}, "seed is -1; give"),
        ],
    )
    def test_bad_arguments(self, tmp_path, name, arguments, message):
        arguments = {"size": (400, 400), "mpp": 0.5, **arguments}
        for call in (blank_slide, lambda path, **kw: render_slide(path, MIDDLE, **kw)):
            with pytest.raises(TiacfError, match=message) as caught:
                call(tmp_path / name, **arguments)
            assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def test_systems_without_signal_masks_draw_slides_too(monkeypatch):
    from tiacrossfusion.runs import process_pool

    monkeypatch.delattr(signal, "pthread_sigmask")
    with process_pool._signals_blocked():
        pass


class TestTruth:
    @pytest.mark.parametrize("burdens", [(0.0, 0.35, 1.0), (0.8, 0.1, 0.5)])
    def test_burdens_are_area_shares(self, tmp_path, burdens):
        parameters = TissueParameters(*burdens)
        truth = render_slide(tmp_path / "slide.svs", parameters, seed=2, **SMALL)
        assert truth.parameters == parameters
        assert truth.log_hazard == log_hazard(parameters)
        for adverse, burden in zip(
            (truth.architecture, truth.glands, truth.nuclei), burdens, strict=True
        ):
            assert not (adverse & ~truth.tumour).any()
            assert adverse.sum() / truth.tumour.sum() == pytest.approx(burden, abs=0.02)

    def test_maps_lie_on_the_tissue(self, rendered):
        path, truth = rendered
        assert truth.mpp_of_maps == 8.0
        assert truth.tissue.shape == (69, 82)  # of 550 x 650 µm
        assert not (truth.tumour & ~truth.tissue).any()
        assert 0.4 < truth.tissue.mean() < 0.7
        pixels = read_rgb(path)[: 68 * 16, : 81 * 16].astype(float)
        saturation = (pixels.max(axis=2) - pixels.min(axis=2)).reshape(68, 16, 81, 16)
        coloured = saturation.mean(axis=(1, 3)) > 20
        # Lumens and fat are white too; what is coloured is tissue.
        tissue = truth.tissue[:68, :81]
        assert (coloured & tissue).sum() / coloured.sum() > 0.97
        assert (coloured & tissue).sum() / tissue.sum() > 0.75

    def test_seed_alone_sets_outline(self, rendered, tmp_path):
        _, truth = rendered
        other = render_slide(tmp_path / "s.svs", TissueParameters(0.9, 0.1, 0.2), seed=7, **SMALL)
        assert np.array_equal(other.tissue, truth.tissue)
        assert np.array_equal(other.tumour, truth.tumour)
        assert not (truth.architecture & ~other.architecture).any()

    @pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
    def test_overlap_places_nuclei(self, rendered, tmp_path, overlap):
        _, independent = rendered
        path = tmp_path / "slide.svs"
        truth = render_slide(path, MIDDLE, seed=7, overlap=overlap, **SMALL)
        assert truth.overlap == pytest.approx(overlap, abs=0.01)
        assert truth.nuclei.sum() / truth.tumour.sum() == pytest.approx(0.5, abs=0.01)
        # Nothing but the nuclei is moved.
        for name in ("tissue", "tumour", "architecture", "glands"):
            assert np.array_equal(getattr(truth, name), getattr(independent, name))

    def test_overlap_is_nan_without_adverse_nuclei(self, tmp_path):
        truth = render_slide(tmp_path / "slide.svs", TissueParameters(0.5, 0.5, 0.0), **SMALL)
        assert np.isnan(truth.overlap)

    @pytest.mark.parametrize(
        ("parameters", "overlap", "message"),
        [
            (MIDDLE, 1.2, "overlap is 1.2; give a share"),
            (MIDDLE, float("nan"), "overlap is nan; give a share"),
            (TissueParameters(0.2, 0.5, 0.5), 1.0, "no room for it: give burdens"),
            (TissueParameters(0.8, 0.5, 0.5), 0.0, "no room for it: give burdens"),
        ],
    )
    def test_impossible_overlap(self, tmp_path, parameters, overlap, message):
        with pytest.raises(TiacfError, match=message) as caught:
            render_slide(tmp_path / "slide.svs", parameters, overlap=overlap, **SMALL)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_save_and_load(self, rendered, tmp_path):
        _, truth = rendered
        truth.save(tmp_path / "truth.npz")
        loaded = SlideTruth.load(tmp_path / "truth.npz")
        assert loaded.parameters == truth.parameters
        assert loaded.log_hazard == truth.log_hazard
        assert loaded.mpp_of_maps == truth.mpp_of_maps
        for name in ("tissue", "tumour", "architecture", "glands", "nuclei"):
            assert np.array_equal(getattr(loaded, name), getattr(truth, name))
            assert getattr(loaded, name).dtype == bool


class TestTissue:
    @staticmethod
    def grow(*, infiltrating=False, solid=False):
        shape = (400, 400)
        tumour = np.pad(np.ones((380, 380), bool), 10)
        none = np.zeros(shape, bool)
        return Epithelium.grow(
            np.random.default_rng(1),
            tumour,
            tumour if infiltrating else none,
            tumour if solid else none,
        )

    @staticmethod
    def place(epithelium, *, atypical=False):
        none = np.zeros(epithelium.mask.shape, bool)
        return place_nuclei(
            np.random.default_rng(2),
            epithelium,
            stroma=none,
            lymphoid=none,
            atypical=none | atypical,
            fibres=none.astype(np.float32),
        )

    def test_glands_have_lumens_and_sheets_have_none(self):
        glands, sheets = self.grow(), self.grow(solid=True)
        assert (glands.lumen > 0).mean() > 0.1
        assert not (sheets.lumen > 0).any()

    @pytest.mark.parametrize("infiltrating", [False, True])
    def test_glands_keep_the_number_of_nuclei(self, infiltrating):
        glands = self.place(self.grow(infiltrating=infiltrating))
        sheets = self.place(self.grow(infiltrating=infiltrating, solid=True))
        assert len(glands.points) == pytest.approx(len(sheets.points), rel=0.05)

    def test_nuclei_of_glands_lie_at_the_base(self):
        epithelium = self.grow()
        nuclei = self.place(epithelium)
        columns, rows = (nuclei.points / 2).astype(int).clip(0, 399).T
        assert np.mean(epithelium.depth[rows, columns] < 14) > 0.9
        assert np.mean(epithelium.lumen[rows, columns] > 0) < 0.01

    def test_atypia_moves_no_nucleus_to_another_kind_of_tissue(self):
        epithelium = self.grow(solid=True)
        regular, atypical = self.place(epithelium), self.place(epithelium, atypical=True)
        assert len(regular.points) == len(atypical.points)
        assert set(np.unique(regular.kinds)) == {NucleusKind.REGULAR}
        assert set(np.unique(atypical.kinds)) == {NucleusKind.ATYPICAL, NucleusKind.MITOSIS}

    def test_infiltration_makes_small_nests(self):
        lobules, nests = self.grow(solid=True), self.grow(solid=True, infiltrating=True)
        assert lobules.depth.max() > 2 * nests.depth.max()


class TestBlankSlide:
    def test_glass_only(self, tmp_path):
        path = tmp_path / "blank.svs"
        blank_slide(path, size=(1500, 1200), mpp=0.5, seed=3)
        assert openslide.OpenSlide.detect_format(path) == "aperio"
        pixels = read_rgb(path).astype(int)
        assert np.median(pixels) > 230
        dark = pixels.min(axis=2) < 200
        assert 0 < dark.mean() < 0.005
        assert (pixels.max(axis=2) - pixels.min(axis=2)).max() < 30

    def test_seeded(self, tmp_path):
        files = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            files.append(tmp_path / f"{name}.svs")
            blank_slide(files[-1], size=(400, 300), mpp=0.25, seed=seed)
        first, second, third = (file.read_bytes() for file in files)
        assert first == second
        assert first != third
