"""Targets of the fuzzing: intact files to mutate, and the readers under test.

A target is written once into a folder; each case mutates a copy in one way, determined by the target's name,
the seed and the number of the case.
"""

from __future__ import annotations

import math
import os
import shutil
import time
import zlib
from abc import ABC, abstractmethod
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutations import (
    TiffFields,
    damage_bytes,
    damage_json,
    damage_safetensors,
    damage_torch,
    damage_yaml,
)

#: What code in a damaged file makes in the folder, where somebody runs it.
MARKER = "harm"

_PATCH = 64  # pixels; patches of the usual size would make small slides into one


class Target(ABC):
    """A reader and the whole files that its cases are made of.

    Args:
        folder: where `write` has put the whole files and where those of the case are put.
    """

    #: Name in the table.
    name: str

    def __init__(self, folder: Path) -> None:
        """Read the whole files."""
        self.folder = folder

    @classmethod
    @abstractmethod
    def write(cls, folder: Path) -> None:
        """Write the whole files."""

    @abstractmethod
    def damage(self, rng: Random) -> Path:
        """Write the damaged file or folder of a case."""

    @abstractmethod
    def whole(self) -> list[Path]:
        """The whole files or folders, which must be read."""

    @abstractmethod
    def read(self, path: Path) -> None:
        """Read a file as the package does, and check what comes of one that is taken for whole."""


def generator(target: type[Target], seed: int, case: int) -> Random:
    """Draws the damage of a case."""
    return Random(f"{seed} {zlib.crc32(target.name.encode())} {case}")  # noqa: S311


class SlidePatches(Target):
    """TIFF slides of several layouts: opened, and all patches read."""

    name = "slide, all patches"

    def __init__(self, folder: Path) -> None:
        """Find the fields of the slides."""
        super().__init__(folder)
        self._tiffs = {path: TiffFields(path.read_bytes()) for path in self.whole()}

    @classmethod
    def write(cls, folder: Path) -> None:
        """Write slides of a scanner and of others, in each coding with a separate decoder."""
        import imagecodecs
        import tifffile

        from tiacrossfusion.simulation.parameters import TissueParameters
        from tiacrossfusion.simulation.slide import render_slide

        render_slide(
            folder / "aperio.svs", TissueParameters(0.5, 0.5, 0.5), size=(600, 500), mpp=0.5
        )
        with tifffile.TiffFile(folder / "aperio.svs") as tiff:
            pixels = np.ascontiguousarray(tiff.pages[0].asarray()[:384, :512])
        stated = "Aperio Image Library\r\n512x384|AppMag = 20|MPP = 0.5"
        plain: dict[str, Any] = {"tile": (128, 128), "metadata": None, "photometric": "rgb"}
        tiles = [
            imagecodecs.jpeg2k_encode(
                np.ascontiguousarray(pixels[y : y + 128, x : x + 128]), level=45, codecformat="j2k"
            )
            for y in range(0, 384, 128)
            for x in range(0, 512, 128)
        ]
        coding = plain | {"compression": 33005, "description": stated, "software": False}
        with tifffile.TiffWriter(folder / "jpeg2000.svs") as tiff:
            tiff.write(iter(tiles), shape=pixels.shape, dtype=np.uint8, **coding)
        for name, coding in (
            ("deflate.svs", {"compression": "zlib", "predictor": True, "description": stated}),
            ("lzw.svs", {"compression": "lzw", "description": stated, "bigtiff": True}),
            ("generic.tif", {"compression": "jpeg"}),
        ):
            big = {"bigtiff": coding.pop("bigtiff", False)}
            micrometre = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
            with tifffile.TiffWriter(folder / name, **big) as tiff:
                tiff.write(pixels, **plain, **micrometre, software=False, **coding)
                reduced = plain | coding | {"subfiletype": 1}
                tiff.write(pixels[::4, ::4], software=False, **reduced)
        with tifffile.TiffWriter(folder / "sub.ome.tif", ome=True) as tiff:
            scale = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "axes": "YXS"}
            options = plain | {"compression": "zlib", "metadata": scale}
            tiff.write(pixels, subifds=1, **options)
            tiff.write(pixels[::2, ::2], subfiletype=1, **options)

    def whole(self) -> list[Path]:
        """The slides."""
        return sorted(path for path in self.folder.iterdir() if not path.name.startswith("case"))

    def damage(self, rng: Random) -> Path:
        """Damage one of the slides."""
        source = rng.choice(self.whole())
        tiff = self._tiffs[source]
        path = self.folder / ("case" + "".join(source.suffixes))
        path.write_bytes(tiff.damage(rng) if rng.random() < 0.7 else damage_bytes(tiff.data, rng))
        return path

    def read(self, path: Path) -> None:
        """Read all patches of all scales."""
        from tiacrossfusion.slides.batches import read_batches
        from tiacrossfusion.slides.grid import nested_grids
        from tiacrossfusion.slides.readers.choice import choose_reader
        from tiacrossfusion.slides.slide import open_slide
        from tiacrossfusion.slides.spec import SamplingSpec

        spec = SamplingSpec(patch_size=_PATCH)
        with open_slide(path, mpp=scale_of(path)) as slide:
            grids = nested_grids(slide, None, spec)
            with choose_reader(slide, spec) as reader:
                for batch in read_batches(slide, grids, spec, reader, batch_size=16, num_workers=2):
                    assert batch.images.shape[1:] == (_PATCH, _PATCH, 3)  # noqa: S101


class SlideBag(SlidePatches):
    """The same slides on the whole way to a bag."""

    name = "slide, tissue to bag"

    def __init__(self, folder: Path) -> None:
        """Load the encoder."""
        from tiacrossfusion.encoders.loading import load_encoder

        super().__init__(folder)
        self._encoder = load_encoder("stain-texture")

    def read(self, path: Path) -> None:
        """Make a bag, and read an overview."""
        from tiacrossfusion.inference.extraction import extract_bag
        from tiacrossfusion.inference.slide import OVERVIEW
        from tiacrossfusion.slides.overview import read_overview
        from tiacrossfusion.slides.slide import open_slide
        from tiacrossfusion.slides.spec import SamplingSpec

        with open_slide(path, mpp=scale_of(path)) as slide:
            extract_bag(slide, SamplingSpec(), self._encoder)
            read_overview(slide, OVERVIEW)


class Bag(Target):
    """Stores of feature bags."""

    name = "feature bag"

    @classmethod
    def write(cls, folder: Path) -> None:
        """Write a bag of a few patches."""
        from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
        from tiacrossfusion.encoders.spec import EncoderSpec
        from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec

        width, scales = 16, {}
        for scale in SCALES:
            side = 4 // CELLS_20X[scale] * 2
            grid = np.stack(np.mgrid[:side, :side][::-1], -1).reshape(-1, 2).astype(np.int32)
            bounds = np.concatenate([grid, grid + 1], axis=1).astype(np.int64) * 256
            features = np.random.default_rng(side).normal(size=(len(grid), width))
            scales[scale] = ScaleFeatures(features.astype(np.float16), bounds, grid)
        made = Provenance(
            slide="slide.svs",
            slide_size=1,
            slide_hash="1",
            dimensions=(2048, 2048),
            mpp=(0.5, 0.5),
            power=20,
            offset=(0, 0),
            mask="otsu",
            sampling=SamplingSpec(),
            encoder=EncoderSpec(name="stain-texture", width=width),
            versions={"tiacrossfusion": "0"},
        )
        FeatureBag(scales, made).save(folder / "whole.zarr")

    def whole(self) -> list[Path]:
        """The store."""
        return [self.folder / "whole.zarr"]

    def damage(self, rng: Random) -> Path:
        """Damage a file of the store, what its JSON says, or which files there are."""
        path = self.folder / "case.zarr"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.whole()[0], path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        documents = [file for file in files if file.name == "zarr.json"]
        chosen = {rng.choice(rng.choice((files, documents))) for _ in range(rng.choice((1, 1, 2)))}
        for file in sorted(chosen):
            kind = rng.random()
            if kind < 0.1:
                file.unlink()
            elif kind < 0.15:
                file.unlink()
                file.mkdir()
            elif kind < 0.2:
                file.write_bytes(
                    (self.whole()[0] / rng.choice(files).relative_to(path)).read_bytes()
                )
            elif file.name == "zarr.json":
                file.write_bytes(damage_json(file.read_bytes(), rng))
            else:
                file.write_bytes(damage_bytes(file.read_bytes(), rng))
        return path

    def read(self, path: Path) -> None:
        """Read the bag; one that is taken has the types that the package writes."""
        from tiacrossfusion.bags.bag import FeatureBag

        for scale in FeatureBag.load(path).scales.values():
            kinds = (scale.features.dtype, scale.bounds.dtype, scale.grid.dtype)  # type: ignore[union-attr]
            assert kinds == (np.float16, np.int64, np.int32), kinds  # noqa: S101


class _BundleFile(Target):
    """A file of the demonstration's bundle."""

    file: str

    @classmethod
    def write(cls, folder: Path) -> None:
        """Copy the bundle, and make an ensemble of it."""
        from tiacrossfusion.models.bundle import load_bundle, make_ensemble, save_bundle
        from tiacrossfusion.models.files import shipped_bundles

        shutil.copytree(shipped_bundles()["crossfusion-demo"], folder / "single")
        bundle = load_bundle("crossfusion-demo")
        members = (bundle.config.time_bins,) * 2
        networks = [bundle.network, deepcopy(bundle.network)]
        config = bundle.config.model_copy(update={"members": members})
        save_bundle(folder / "ensemble", config, make_ensemble(networks, config))

    def whole(self) -> list[Path]:
        """The bundles."""
        return [self.folder / "single", self.folder / "ensemble"]

    def damage(self, rng: Random) -> Path:
        """Damage the file in one of them."""
        path = self.folder / "case-bundle"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(rng.choice(self.whole()), path)
        (path / self.file).write_bytes(self._damaged((path / self.file).read_bytes(), rng))
        return path

    @abstractmethod
    def _damaged(self, data: bytes, rng: Random) -> bytes:
        """Damage what the file holds."""

    def read(self, path: Path) -> None:
        """Load the bundle and predict; what is taken has finite numbers."""
        import torch

        from tiacrossfusion.models.bundle import load_bundle

        bundle = load_bundle(path)
        check_finite(bundle.config.model_dump())
        tokens = [torch.zeros(1, count, bundle.config.encoder.width) for count in (1, 4, 16)]
        with torch.inference_mode():
            bundle.network(*tokens)


class BundleConfig(_BundleFile):
    """`config.json` of bundles."""

    name, file = "config of a bundle", "config.json"

    def _damaged(self, data: bytes, rng: Random) -> bytes:
        return damage_json(data, rng)


class BundleWeights(_BundleFile):
    """`model.safetensors` of bundles."""

    name, file = "weights of a bundle", "model.safetensors"

    def _damaged(self, data: bytes, rng: Random) -> bytes:
        return damage_safetensors(data, rng)


class TrainingConfig(Target):
    """The settings of a training run."""

    name = "settings of a training"

    @classmethod
    def write(cls, folder: Path) -> None:
        """Write all settings."""
        import yaml

        from tiacrossfusion.training.config import TrainingConfig as Config

        settings = Config(time_unit="months", models=("crossfusion", "abmil")).model_dump(
            mode="json"
        )
        (folder / "whole.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

    def whole(self) -> list[Path]:
        """The file."""
        return [self.folder / "whole.yaml"]

    def damage(self, rng: Random) -> Path:
        """Damage the text or what it says."""
        path = self.folder / "case.yaml"
        data = self.whole()[0].read_bytes()
        path.write_bytes(damage_yaml(data, rng, str(self.folder / MARKER)))
        return path

    def read(self, path: Path) -> None:
        """Read the settings; what is taken has finite numbers."""
        from tiacrossfusion.training.config import make_config, read_settings

        config = make_config({"time_unit": "months"} | read_settings(path), str(path))
        check_finite(config.model_dump())


class _Checkpoint(Target):
    """Files of `torch.save`, as archives and in the format from before."""

    suffixes: tuple[str, ...] = (".zip.pt", ".old.pt")

    @classmethod
    @abstractmethod
    def _state(cls) -> dict[str, Any]:
        """What the whole files hold."""

    @classmethod
    def write(cls, folder: Path) -> None:
        """Save the weights in each format."""
        import torch
        from safetensors.torch import save_file

        for suffix in cls.suffixes:
            path = folder / f"whole{suffix}"
            if suffix == ".safetensors":
                save_file(cls._state(), path)
            else:
                archive = suffix == ".zip.pt"
                torch.save(
                    {"state_dict": cls._state()}, path, _use_new_zipfile_serialization=archive
                )

    def whole(self) -> list[Path]:
        """The files."""
        return [self.folder / f"whole{suffix}" for suffix in self.suffixes]

    def damage(self, rng: Random) -> Path:
        """Damage one of the files."""
        source = rng.choice(self.whole())
        data = source.read_bytes()
        path = self.folder / f"case{source.suffix}"
        if source.suffix == ".safetensors":
            path.write_bytes(damage_safetensors(data, rng))
        else:
            path.write_bytes(damage_torch(data, rng, str(self.folder / MARKER)))
        return path


class OfficialCheckpoint(_Checkpoint):
    """Checkpoints in the format of the authors' release."""

    name = "checkpoint of the authors' format"

    @classmethod
    def _state(cls) -> dict[str, Any]:
        from tiacrossfusion.networks.crossfusion import CrossFusion
        from tiacrossfusion.networks.official import released_names

        network = CrossFusion(6, 8, 2, depth=1, num_bins=3)
        state = network.state_dict()
        return {theirs: state[ours] for theirs, ours in released_names(network).items()}

    def read(self, path: Path) -> None:
        """Load the network and run it."""
        import torch

        from tiacrossfusion.networks.official import load_official_checkpoint

        network = load_official_checkpoint(path, num_heads=2)
        with torch.inference_mode():
            network(*(torch.zeros(1, count, network.encoder_width) for count in (1, 4, 16)))


class EncoderWeights(_Checkpoint):
    """Weights files of encoders."""

    name = "weights of an encoder"
    suffixes = (".zip.pt", ".old.pt", ".safetensors")

    @classmethod
    def _network(cls) -> Any:
        from torch import nn

        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))

    @classmethod
    def _state(cls) -> dict[str, Any]:
        return cls._network().state_dict()

    def read(self, path: Path) -> None:
        """Load the weights into a network and run it."""
        import torch

        from tiacrossfusion.encoders.weights import (
            load_strictly,
            read_state_dict,
            state_dict_sha256,
        )

        network = self._network()
        load_strictly(network, read_state_dict(path), source=str(path))
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, 8, 8))
        state_dict_sha256(network)


class PtFeatures(_Checkpoint):
    """Features of other programs that are to be converted."""

    name = "tensor of features"

    @classmethod
    def write(cls, folder: Path) -> None:
        """Save a tensor."""
        import torch

        for suffix in cls.suffixes:
            path, archive = folder / f"whole{suffix}", suffix == ".zip.pt"
            torch.save(torch.ones(20, 16), path, _use_new_zipfile_serialization=archive)

    @classmethod
    def _state(cls) -> dict[str, Any]:
        return {}

    def read(self, path: Path) -> None:
        """Read the features."""
        from tiacrossfusion.interop.pt_files import read_pt

        read_pt(path)


class Harmful(Target):
    """Does what no reader may do, to test the monitoring."""

    name = "harmful"
    deeds = ("read", "refused", "exception", "memory", "crash", "hang")

    @classmethod
    def write(cls, folder: Path) -> None:
        """Write a whole file."""
        (folder / "whole").write_text("read")

    def whole(self) -> list[Path]:
        """The file."""
        return [self.folder / "whole"]

    def damage(self, rng: Random) -> Path:
        """Write what is to be done."""
        path = self.folder / "case"
        path.write_text(rng.choice(self.deeds))
        return path

    def read(self, path: Path) -> None:
        """Do it."""
        from tiacrossfusion.errors import TiacfError

        deed = path.read_text()
        if deed == "refused":
            raise TiacfError(f"{path}: damaged; copy it again")
        if deed == "exception":
            raise ValueError("of a library")
        if deed == "memory":
            np.ones(2**34, np.uint8)
        if deed == "crash":
            os.abort()
        if deed == "hang":
            time.sleep(1000)


def scale_of(path: Path) -> float | None:
    """Microns per pixel that the user gives of a slide that states none in a way that is read."""
    return 0.5 if path.suffixes == [".tif"] else None


def check_finite(document: Any) -> None:
    """Find NaN and infinite numbers in accepted settings."""
    values = document.values() if isinstance(document, dict) else document
    for value in values:
        if isinstance(value, dict | list | tuple):
            check_finite(value)
        elif isinstance(value, float):
            assert math.isfinite(value), f"takes {value}"  # noqa: S101


TARGETS: tuple[type[Target], ...] = (
    SlidePatches,
    SlideBag,
    Bag,
    BundleConfig,
    TrainingConfig,
    BundleWeights,
    OfficialCheckpoint,
    EncoderWeights,
    PtFeatures,
)
