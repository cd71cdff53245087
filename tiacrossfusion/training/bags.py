"""The bags of a training cohort: checked once, then read again in every epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from tiacrossfusion.bags.bag import FeatureBag, check_same
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.slides.spec import SCALES

#: Bags are kept in memory while they are together smaller than this, in bytes.
_CACHE_LIMIT = 4 * 2**30

Tokens = tuple[Tensor, Tensor, Tensor]
"""(N5, E), (N10, E) and (N20, E) float16 features of one slide."""


@dataclass(frozen=True)
class _Summary:
    """What is kept of a bag: its token counts, the sums its moments are made of, and a hash of all."""

    counts: tuple[int, int, int]
    total: np.ndarray  # (3, E) float64
    squares: np.ndarray  # (3, E) float64
    sha256: str


class CohortBags:
    """The bags of all slides of a cohort, by slide.

    Every bag is read once at the start, so that a damaged or foreign one is found before training.
    Small cohorts then stay in memory, large ones are read from disk again whenever they are needed.

    Args:
        sources: a store on disk, or a bag in memory, for each slide.
        show_progress: draw a bar.

    Raises:
        TiacfError: a bag is damaged or empty, or bags were made with different encoders or sampling.
    """

    def __init__(
        self, sources: Mapping[str, Path | FeatureBag], *, show_progress: bool = True
    ) -> None:
        """Read and check every bag."""
        if not sources:
            raise UsageError("no bags; give the folder that `tiacf extract` wrote with --bags")
        self._sources = dict(sources)
        self._cache: dict[str, Tokens] = {}
        self._summaries: dict[str, _Summary] = {}
        first: FeatureBag | None = None
        cached = 0
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
            tokens = _tokens(bag)
            self._summaries[slide] = _summarise(tokens, slide)
            cached += sum(scale.nbytes for scale in tokens)
            if cached <= _CACHE_LIMIT:
                self._cache[slide] = tokens
        assert first is not None  # noqa: S101 - there is a source
        if cached > _CACHE_LIMIT:  # part of a cohort in memory would only help part of the steps
            self._cache.clear()
        self.encoder = first.provenance.encoder
        self.sampling = first.provenance.sampling

    @property
    def sha256(self) -> str:
        """Hash of everything in the bags that a network is trained on."""
        lines = [self.encoder.model_dump_json(), self.sampling.model_dump_json()]
        lines += sorted(f"{slide}\0{summary.sha256}" for slide, summary in self._summaries.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def counts(self, slide: str) -> tuple[int, int, int]:
        """Return the number of tokens of a slide at 5x, 10x and 20x."""
        return self._summaries[slide].counts

    def moments(self, slides: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Return mean and SD of the features over the tokens of some slides, (3, E) each.

        Args:
            slides: slides of training patients only, since the moments become part of the model.
        """
        chosen = [self._summaries[slide] for slide in slides]
        counts = np.sum([summary.counts for summary in chosen], axis=0)[:, None]  # (3, 1)
        mean = np.sum([summary.total for summary in chosen], axis=0) / counts
        square = np.sum([summary.squares for summary in chosen], axis=0) / counts
        sd = np.sqrt(np.maximum(square - mean**2, 0))
        # A feature that never changes says nothing: it becomes 0, not noise blown up.
        sd[sd < 1e-6] = 1.0
        return torch.from_numpy(mean).float(), torch.from_numpy(sd).float()

    def read(self, groups: Iterable[Sequence[str]]) -> Iterator[list[Tokens]]:
        """Give the tokens of group after group of slides, reading one group ahead in a thread."""
        groups = iter(groups)
        with ThreadPoolExecutor(max_workers=1) as pool:
            waiting = [pool.submit(self._load, group) for group in islice(groups, 2)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(self._load, group) for group in islice(groups, 1)]

    def _load(self, slides: Sequence[str]) -> list[Tokens]:
        return [self._cache.get(slide) or self._read(slide) for slide in slides]

    def _read(self, slide: str) -> Tokens:
        source = self._sources[slide]
        return _tokens(source if isinstance(source, FeatureBag) else FeatureBag.load(source))


def _tokens(bag: FeatureBag) -> Tokens:
    x5, x10, x20 = (torch.from_numpy(bag.scales[scale].features) for scale in SCALES)
    return x5, x10, x20


def _summarise(tokens: Tokens, slide: str) -> _Summary:
    counts = (len(tokens[0]), len(tokens[1]), len(tokens[2]))
    if 0 in counts:
        raise TiacfError(f"bag of {slide}: a scale has no patch; extract it again")
    wide = [scale.numpy().astype(np.float64) for scale in tokens]
    content = hashlib.sha256(str(counts).encode())
    for scale in tokens:
        content.update(np.ascontiguousarray(scale.numpy()).data)
    return _Summary(
        counts,
        np.stack([scale.sum(axis=0) for scale in wide]),
        np.stack([np.square(scale).sum(axis=0) for scale in wide]),
        content.hexdigest(),
    )


def _check_like(first: FeatureBag, bag: FeatureBag, slide: str) -> None:
    """Refuse bags of different encoders or sampling in one cohort."""
    label = f"bag of {slide}, against that of {first.provenance.slide}"
    check_same(first.provenance.encoder, bag.provenance.encoder, "encoder", label)
    check_same(first.provenance.sampling, bag.provenance.sampling, "sampling", label)
