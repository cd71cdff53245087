"""The bags of a training cohort: checked once, then read in every epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from tiacrossfusion.bags.bag import FeatureBag, check_same
from tiacrossfusion.bags.identity import bag_identities
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.networks.calling import networks_without_grids
from tiacrossfusion.networks.families import nesting_fault
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.text import examples
from tiacrossfusion.training.bag_cache import BagCache

#: Bags are kept in memory while they are together smaller than this, in bytes.
_IN_MEMORY = 4 * 2**30

#: What a bag has whose 5x, 10x and 20x grids nest: every patch has a parent, and every coarser one a child.
NESTED = "nested grids"

#: What to do about bags that lack an input of a network, by the beginning of its name.
_REMEDIES = {
    "x": "extract the slides again, or train a network that reads what there is, such as those in -20x",
    "grid": "extract the slides, since features of other programs may lack positions, or train a "
    "network that needs none: {others}",
    NESTED: "extract the slides again, or train a network that needs none: {others}",
}


@dataclass(frozen=True)
class _Summary:
    """What is kept of a bag besides its tokens."""

    counts: tuple[int, ...]  # tokens at 5x, 10x and 20x
    inputs: frozenset[str]  # names of the inputs of networks that the bag has, and NESTED
    total: np.ndarray  # (3, E) float64 sums of the features, 0 at an absent scale
    squares: np.ndarray  # (3, E) float64 sums of their squares
    sha256: str  # of features and positions
    identities: tuple[str, ...]  # see `bag_identities`


class CohortBags:
    """The bags of all slides of a cohort, by slide.

    Every bag is read once at the start, so that a damaged or foreign one is found before training.
    Small cohorts then stay in memory. Of large ones the uncompressed features are written to a cache, which
    is read memory-mapped; without room for it, bags are read again whenever they are needed.

    Args:
        sources: a store on disk, or a bag in memory, for each slide.
        covariates: (C,) numbers for each slide, those of its patient; None without any.
        cache: where uncompressed features of large cohorts go; None reads the bags again.
        say: gets a line if there is no room for the cache.
        show_progress: draw a bar.

    Raises:
        TiacfError: a bag is damaged, or bags were made with different encoders or sampling.
    """

    def __init__(
        self,
        sources: Mapping[str, Path | FeatureBag],
        covariates: Mapping[str, np.ndarray] | None = None,
        *,
        cache: BagCache | None = None,
        say: Callable[[str], None] = lambda _: None,
        show_progress: bool = True,
    ) -> None:
        """Read and check every bag."""
        if not sources:
            raise UsageError("no bags; give the folder that `tiacf extract` wrote with --bags")
        self._sources, self._covariates = dict(sources), covariates
        self._memory: dict[str, SlideTokens] = {}
        self._on_disk: BagCache | None = None
        self._summaries: dict[str, _Summary] = {}
        first: FeatureBag | None = None
        size = 0
        for slide, source in tqdm(
            self._sources.items(),
            desc="Bags",
            unit="bag",
            disable=None if show_progress else True,
        ):
            bag = source if isinstance(source, FeatureBag) else FeatureBag.load(source)
            if first is None:
                first = bag
            _check_like(first, bag, slide)
            tokens = self._tokens(slide, bag)
            self._summaries[slide] = _summarise(tokens, bag)
            size += sum(tensor.nbytes for tensor in tokens.inputs().values())
            if self._on_disk is not None:
                self._on_disk.write(self._summaries[slide].sha256, tokens)
                continue
            self._memory[slide] = tokens
            if size > _IN_MEMORY and cache is not None:
                cache = self._to_disk(cache, size, say)
            if size > _IN_MEMORY:  # part of a cohort in memory would only help part of the steps
                self._memory.clear()
        assert first is not None  # noqa: S101 - there is a source
        self.encoder = first.provenance.encoder
        self.sampling = first.provenance.sampling

    @property
    def scales(self) -> tuple[str, ...]:
        """The scales that all bags have."""
        return tuple(
            scale
            for scale in SCALES
            if all(f"x{scale[:-1]}" in kept.inputs for kept in self._summaries.values())
        )

    @property
    def sha256(self) -> str:
        """Hash of everything in the bags that a network is trained on."""
        lines = [self.encoder.model_dump_json(), self.sampling.model_dump_json()]
        lines += sorted(f"{slide}\0{summary.sha256}" for slide, summary in self._summaries.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def check_inputs(self, model: str, needed: Sequence[str]) -> None:
        """Refuse bags that lack inputs of a network, such as "x20" and "grid20", or `NESTED`.

        Raises:
            TiacfError: names the first input that some bags lack.
        """
        for name in needed:
            lacking = [slide for slide, kept in self._summaries.items() if name not in kept.inputs]
            if lacking:
                kind = name.rstrip("0123456789")
                what = f"{'features' if kind == 'x' else 'positions'} at {name.removeprefix(kind)}x"
                if name == NESTED:
                    what = NESTED
                remedy = _REMEDIES[kind].format(others=", ".join(networks_without_grids()))
                raise TiacfError(
                    f"{model} needs {name}, and {len(lacking)} of {len(self._summaries)} bags have no "
                    f"{what}, such as {examples(lacking)}; {remedy}"
                )

    def check_patients(self, patients: Mapping[str, str]) -> None:
        """Refuse a slide that is under two patients, and would be in training and test at once.

        Args:
            patients: the patient of each slide.

        Raises:
            TiacfError: bags of two patients have the same features, or were extracted from the same file.
        """
        owners: dict[str, str] = {}
        pairs = []
        for slide, kept in self._summaries.items():
            first = {owners.setdefault(identity, slide) for identity in kept.identities}
            other = next((one for one in sorted(first) if patients[one] != patients[slide]), None)
            if other is not None:
                pairs.append(f"{other} of {patients[other]} and {slide} of {patients[slide]}")
        if pairs:
            raise TiacfError(
                f"{len(pairs)} bags are copies, with the same features, of bags of other patients, such as "
                f"{examples(pairs)}; a slide has one patient, correct the table or extract the slides again"
            )

    def identities(self, slides: Iterable[str]) -> tuple[str, ...]:
        """Return the hashes that some slides are known by, sorted."""
        return tuple(sorted({i for slide in slides for i in self._summaries[slide].identities}))

    def means(self, slides: Iterable[str]) -> np.ndarray:
        """Return the mean features of some slides, (slides, 3, E) float64, NaN at an absent scale."""
        chosen = [self._summaries[slide] for slide in slides]
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            return np.stack([kept.total / np.array(kept.counts)[:, None] for kept in chosen])

    def counts(self, slide: str) -> tuple[int, ...]:
        """Return the number of tokens of a slide at 5x, 10x and 20x."""
        return self._summaries[slide].counts

    def moments(self, slides: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Return mean and SD of the features over the tokens of some slides, (3, E) each.

        The slides are of training patients only, since the moments become part of the model.
        """
        chosen = [self._summaries[slide] for slide in slides]
        counts = np.sum([summary.counts for summary in chosen], axis=0)[:, None]  # (3, 1)
        counts = np.maximum(counts, 1)  # an absent scale has mean 0
        mean = np.sum([summary.total for summary in chosen], axis=0) / counts
        square = np.sum([summary.squares for summary in chosen], axis=0) / counts
        sd = np.sqrt(np.maximum(square - mean**2, 0))
        # A constant feature becomes 0; a tiny SD would only amplify rounding errors.
        sd[sd < 1e-6] = 1.0
        return torch.from_numpy(mean).float(), torch.from_numpy(sd).float()

    def covariate_moments(self, slides: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Return mean and SD (C,) of the covariates over some slides, one of each patient.

        Raises:
            TiacfError: there are no covariates.
        """
        if self._covariates is None:
            raise TiacfError("there are no covariates; give them with the bags")
        values = np.stack([self._covariates[slide] for slide in slides])  # (N, C) float64
        mean, sd = values.mean(axis=0), values.std(axis=0)
        return torch.from_numpy(mean).float(), torch.from_numpy(sd).float()

    def read(self, groups: Iterable[Sequence[str]]) -> Iterator[list[SlideTokens]]:
        """Yield the tokens of group after group of slides, reading one group ahead in a thread."""
        groups = iter(groups)
        with ThreadPoolExecutor(max_workers=1) as pool:
            waiting = [pool.submit(self._load, group) for group in islice(groups, 2)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(self._load, group) for group in islice(groups, 1)]

    def _to_disk(self, cache: BagCache, size: int, say: Callable[[str], None]) -> BagCache | None:
        """Go on with a cache on disk if there is room for it; it has what was read so far.

        The bags so far are taken as typical. None without room, so that it is not asked again.
        """
        needed = round(size / len(self._memory) * len(self._sources))
        if reason := cache.lacking(needed):
            say(f"no cache of the features: {reason}; the bags are read in every epoch")
            return None
        for slide, tokens in self._memory.items():
            cache.write(self._summaries[slide].sha256, tokens)
        self._on_disk = cache
        return cache

    def _load(self, slides: Sequence[str]) -> list[SlideTokens]:
        return [
            self._memory[slide] if slide in self._memory else self._read(slide) for slide in slides
        ]

    def _read(self, slide: str) -> SlideTokens:
        if self._on_disk is not None:
            kept = self._summaries[slide]
            scales, grids = (
                tuple(s for s in SCALES if f"{kind}{s[:-1]}" in kept.inputs)
                for kind in ("x", "grid")
            )
            return self._with_covariates(slide, self._on_disk.read(kept.sha256, scales, grids))
        source = self._sources[slide]
        bag = source if isinstance(source, FeatureBag) else FeatureBag.load(source)
        return self._tokens(slide, bag)

    def _tokens(self, slide: str, bag: FeatureBag) -> SlideTokens:
        return self._with_covariates(slide, SlideTokens.from_bag(bag))

    def _with_covariates(self, slide: str, tokens: SlideTokens) -> SlideTokens:
        if self._covariates is None:
            return tokens
        covariates = torch.as_tensor(self._covariates[slide], dtype=torch.float32)[None]  # (1, C)
        return replace(tokens, covariates=covariates)


def _summarise(tokens: SlideTokens, bag: FeatureBag) -> _Summary:
    total, squares = np.zeros((2, len(SCALES), bag.provenance.encoder.width))
    content = hashlib.sha256(str(tokens.counts()).encode())
    for row, scale in enumerate(SCALES):
        if scale in tokens.features:
            features = tokens.features[scale][0].numpy()  # (N, E)
            content.update(np.ascontiguousarray(features).data)
            wide = features.astype(np.float64)
            total[row], squares[row] = wide.sum(axis=0), np.square(wide).sum(axis=0)
        if scale in tokens.grid:
            content.update(f"grid {scale}".encode())
            content.update(np.ascontiguousarray(tokens.grid[scale][0].numpy()).data)
    inputs = set(tokens.inputs())
    if tokens.grid and nesting_fault(tokens, [s for s in SCALES if s in tokens.grid]) is None:
        inputs.add(NESTED)
    return _Summary(
        tokens.counts(),
        frozenset(inputs),
        total,
        squares,
        content.hexdigest(),
        bag_identities(bag),
    )


def _check_like(first: FeatureBag, bag: FeatureBag, slide: str) -> None:
    """Refuse bags of different encoders or sampling in one cohort."""
    label = f"bag of {slide}, against that of {first.provenance.slide}"
    check_same(first.provenance.encoder, bag.provenance.encoder, "encoder", label)
    check_same(first.provenance.sampling, bag.provenance.sampling, "sampling", label)
