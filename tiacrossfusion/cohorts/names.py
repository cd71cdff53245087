"""Names of slides in tables and folders, and which of them mean the same slide."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from tiacrossfusion.bags.stores import bag_stem
from tiacrossfusion.slides.files import slide_stem

Item = TypeVar("Item")


class SlideNames(Generic[Item]):
    """What belongs to a slide, found by the slide's name, from pairs of a name and what belongs to it.

    Names are compared as they are, the suffix of a bag apart. Where that finds nothing, they are compared
    without the ending of slide files on one of the two sides: `a.svs` is `a`, and `a` is `a.svs`, but
    `a.ndpi` is not `a.svs`.
    """

    def __init__(self, items: Iterable[tuple[str, Item]]) -> None:
        """Sort by name."""
        self._exact: dict[str, list[Item]] = {}
        self._bare: dict[str, list[Item]] = {}
        for name, item in items:
            name = bag_stem(name)
            self._exact.setdefault(name, []).append(item)
            self._bare.setdefault(slide_stem(name), []).append(item)

    def __len__(self) -> int:
        """Return the number of different names."""
        return len(self._exact)

    def find(self, name: str) -> list[Item]:
        """Return everything that may belong to a name: nothing, one item, or several."""
        name = bag_stem(name)
        stem = slide_stem(name)
        return self._exact.get(name) or (self._exact if stem != name else self._bare).get(stem, [])
