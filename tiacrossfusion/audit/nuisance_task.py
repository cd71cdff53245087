"""One slide read again under each nuisance, and what that does to its features and its risk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.audit.nuisance import NUISANCES, StainMethod
from tiacrossfusion.audit.nuisance_folder import NuisanceFolder
from tiacrossfusion.audit.pixels import Stain
from tiacrossfusion.audit.rereading import Rereading, stain_sample
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.inference.extraction import tissue_grids
from tiacrossfusion.inference.nuisance import risk_gradient
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.inference.slide import load_readers, open_as
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.models.files import find_bundle, fingerprint
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.record import Record, names_for, source_of, stem_of
from tiacrossfusion.runs.runner import RecordedTask
from tiacrossfusion.runs.slides import RunOptions, file_content, of_slide, slide_key
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.text import written

if TYPE_CHECKING:
    from tiacrossfusion.models.bundle import ModelBundle

#: Random changes beside each nuisance.
DRAWS = 20


@dataclass(frozen=True, eq=False)
class Reread:
    """A slide as it is and under each of K nuisances.

    Attributes:
        slide: name.
        means: (1 + K, 3, E) mean features, first without nuisance; NaN where a nuisance could not be tried.
        risks: (1 + K,) of the slide.
        random: (K, 20) changes of the risk by random changes of the features as large as the nuisance's.
        gradient: (3, E) of the risk by the mean features.
    """

    slide: str
    means: np.ndarray
    risks: np.ndarray
    random: np.ndarray
    gradient: np.ndarray

    def save(self, path: Path) -> None:
        """Write the file."""
        from safetensors.numpy import save

        arrays = {name: value for name, value in vars(self).items() if name != "slide"}
        path.write_bytes(save(arrays, {"slide": self.slide}))

    @classmethod
    def load(cls, path: Path) -> Reread:
        """Read what `save` wrote.

        Raises:
            TiacfError: the file is damaged.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls((file.metadata() or {})["slide"], **arrays)
        except Exception as error:  # safetensors raises many kinds
            raise TiacfError(
                f"{path}: cannot be read ({one_line(error)}); remove it, the same command makes it again"
            ) from error


@dataclass(eq=False)
class NuisanceTask(RecordedTask):
    """One slide to its file of changes.

    Attributes:
        slide: its path.
        others: slides, the first of which that can be read gives it its stain; may be empty.
        folder: where the file goes.
        model: model and encoder.
        options: how the slide is read.
        families: that are read at most.
        seed: of what nuisances draw, and of random changes.
        run_name: names the run.
    """

    slide: Path
    others: tuple[Path, ...]
    folder: NuisanceFolder
    model: LoadedModel | ModelSource
    options: RunOptions
    families: int
    seed: int
    run_name: str

    def __post_init__(self) -> None:
        """Name the slide."""
        self.given, self.source, self.label = self.slide, source_of(self.slide), str(self.slide)

    @cached_property
    def read(self) -> ReadOptions:
        """How the slide is read, with its own mask."""
        return of_slide(self.options.read, self.slide)

    @property
    def bundle(self) -> ModelBundle:
        """The model, which a process loads once."""
        return self.model.load().need_bundle()

    def prepare(self) -> None:
        """Load the model and its encoder."""
        self.bundle, self.model.load().need_encoder()

    def names(self) -> tuple[str, ...]:
        """Return names for the record."""
        stem = stem_of(self.slide)
        return stem, *names_for(stem, self.source)

    def files(self, record: Record) -> tuple[str, ...]:
        """Return the name of the file."""
        return (f"{record.name}.nuisance.safetensors",)

    def content(self) -> str:
        """Return what identifies the slide's file wherever it lies."""
        return file_content(self.slide)

    def key(self, progress: Progress) -> dict[str, str]:  # noqa: ARG002
        """Return the cache key."""
        return {
            **slide_key(self.slide, self.read),
            "model": self.bundle_identity,
            "encoder": self.model.load().need_encoder().spec.model_dump_json(),
            "nuisances": ", ".join(one.name for one in NUISANCES),
            "stain of another slide": ", ".join(map(file_content, self.others)),
            "families": str(self.families),
            "seed": str(self.seed),
        }

    @cached_property
    def bundle_identity(self) -> str:
        """The model without what an earlier audit has added to it."""
        model = self.model
        if isinstance(model, ModelSource) and model.model and not model.model_weights:
            return f"{fingerprint(find_bundle(model.model), ())} orders {model.orders}"
        return self.bundle.fingerprint

    def make(self, record: Record, staging: Path, progress: Progress) -> dict[str, Any]:
        """Read the slide again under each nuisance."""
        load_readers()
        started = time.perf_counter()
        with open_as(self.slide, self.read) as slide:
            rereading = Rereading.of(
                slide,
                self.bundle.config.sampling,
                self.model.load().need_encoder(),
                self.read,
                self.bundle.scales,
                self.families,
                progress,
            )
            found, messages = self._reread(rereading)
        with self.folder.writing():
            found.save(staging / self.files(record)[0])
        changes = found.risks[1:] - found.risks[0]
        reference = self.bundle.config.risk_reference
        changed = []
        if reference is not None:
            groups = [reference.group(risk).name for risk in found.risks if np.isfinite(risk)]
            tried = [
                n.name
                for n, risk in zip(NUISANCES, found.risks[1:], strict=True)
                if np.isfinite(risk)
            ]
            changed = [n for n, group in zip(tried, groups[1:], strict=True) if group != groups[0]]
        return self._row() | {
            "risk": float(found.risks[0]),
            "risk_nuisance_sd": float(np.sqrt(np.nanmean(changes**2))),
            "risk_lowest": float(np.nanmin(found.risks)),
            "risk_highest": float(np.nanmax(found.risks)),
            "risk_group": "" if reference is None else reference.group(float(found.risks[0])).name,
            "changed_by": "; ".join(changed),
            "families": rereading.families,
            "families_read": min(self.families, rereading.families),
            "status": "ok",
            "message": "; ".join(filter(None, [slide.caveat, *messages])),
            "seconds": round(time.perf_counter() - started, 2),
        }

    def failed_row(self, message: str) -> dict[str, Any]:
        """Return the row of a slide that failed."""
        return self._row() | {"status": "failed", "message": message}

    def _row(self) -> dict[str, Any]:
        return {"slide": written(self.slide.name), "path": self.source}

    def _reread(self, rereading: Rereading) -> tuple[Reread, list[str]]:
        plain = rereading.plain()
        width = self.bundle.config.encoder.width
        means = np.full((1 + len(NUISANCES), len(SCALES), width), np.nan, np.float32)
        risks = np.full(1 + len(NUISANCES), np.nan)
        random = np.full((len(NUISANCES), DRAWS), np.nan)
        means[0], risks[0] = _means(plain), predict_bag(plain, self.bundle).risk
        stains = self._stains(rereading, plain)
        messages = []
        for number, nuisance in enumerate(NUISANCES):
            progress, name = rereading.progress, rereading.slide.name
            progress.stage(name, nuisance.name, sum(plain.counts().values()))
            rng = np.random.default_rng([self.seed, number, _number_of(name)])
            try:
                bag = rereading.under(nuisance, plain, rng, stains)
                risks[1 + number] = predict_bag(bag, self.bundle).risk
            except TiacfError as error:  # the others go on
                messages.append(f"not tried: {nuisance.name} ({error})")
                continue
            means[1 + number] = _means(bag)
            random[number] = self._random(plain, means[1 + number] - means[0], risks[0], rng)
        gradient = risk_gradient(plain, self.bundle)
        return Reread(rereading.slide.name, means, risks, random, gradient), messages

    def _stains(
        self, rereading: Rereading, plain: FeatureBag
    ) -> Callable[[StainMethod], tuple[Stain, Stain]]:
        """Return what finds the stains of the slide and of the other one."""
        spec = self.bundle.config.sampling

        def find(method: StainMethod) -> tuple[Stain, Stain]:
            bounds = plain.scales["5x"].bounds
            assert bounds is not None  # noqa: S101 - bags of slides have them
            sample = stain_sample(rereading.slide, bounds, spec)
            own = Stain.of(sample, method, rereading.slide.name)
            why = "there is no other slide in this audit"
            for other in self.others:
                try:
                    read = of_slide(self.options.read, other)
                    return own, _stain_of(other, method, spec, read)
                except TiacfError as error:
                    why = str(error)
            raise TiacfError(why)

        return find

    def _random(
        self, plain: FeatureBag, change: np.ndarray, risk: float, rng: np.random.Generator
    ) -> np.ndarray:
        """Return changes of the risk (20,) by random changes of all tokens of a scale.

        Each is as long as the given change (3, E), in SDs of the slide's tokens of that scale.
        """
        import torch

        from tiacrossfusion.networks.calling import call_network

        tokens = self.bundle.tokens(plain)
        sd = {s: x[0].std(dim=0, correction=0).cpu().numpy() for s, x in tokens.features.items()}
        found = np.empty(DRAWS)
        for draw in range(DRAWS):
            moved = {}
            for scale, x in tokens.features.items():
                drawn = rng.standard_normal(x.shape[2])
                known = sd[scale] > 0
                length = np.linalg.norm(change[SCALES.index(scale)][known] / sd[scale][known])
                step = drawn * sd[scale] * length / (np.linalg.norm(drawn[known]) or 1.0)
                moved[scale] = x + torch.from_numpy(step).to(x)
            with torch.inference_mode():
                after = call_network(self.bundle.network, tokens.with_features(moved)).risk
            found[draw] = float(after[0]) - risk
        return found


def _stain_of(path: Path, method: StainMethod, spec: SamplingSpec, read: ReadOptions) -> Stain:
    """Return the stain of another slide."""
    with open_as(path, read) as slide:
        grids, _ = tissue_grids(slide, spec, read)
        if len(grids["5x"]) == 0:
            raise TiacfError(f"{path}: no tissue whose stain could be taken")
        return Stain.of(stain_sample(slide, grids["5x"].bounds, spec), method, str(path))


def _means(bag: FeatureBag) -> np.ndarray:
    """Return the mean features (3, E) of the scales of a bag, 0 for others."""
    found = np.zeros((len(SCALES), bag.provenance.encoder.width), np.float32)
    for scale, tokens in bag.scales.items():
        found[SCALES.index(scale)] = tokens.features.astype(np.float32).mean(axis=0)
    return found


def _number_of(name: str) -> int:
    """Return a number that is the same for the same name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
