"""Progress of a run: one bar over the slides, one for the stage the current slide is in."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from tqdm.auto import tqdm

from tiacrossfusion.text import printable


class Progress(AbstractContextManager["Progress"]):
    """Two tqdm bars on standard error; silent where standard error is no terminal.

    Args:
        total: number of slides.
        show: False draws and prints nothing, and makes none of tqdm's locks between processes.
    """

    def __init__(self, total: int = 1, *, show: bool = True) -> None:
        """Draw the bar over the slides."""
        self._show = show
        # None: tqdm looks for a terminal. A daemon may have closed standard error.
        self._disable = None if sys.stderr is not None else True
        self._slides = self._bar(total=total, desc="Slides", unit="slide")
        self._stage: tqdm | None = None

    def __exit__(self, *error: object) -> None:
        """Remove the bars from the screen."""
        self._close_stage()
        if self._slides is not None:
            self._slides.close()

    def stage(self, slide: str, name: str, total: int | None = None) -> None:
        """Begin a stage of a slide, such as reading patches, of `total` steps."""
        self._close_stage()
        self._stage = self._bar(
            total=total,
            desc=f"  {printable(slide)}: {name}",
            unit="patch",
            bar_format=None if total else "{desc} ...",
            leave=False,
            position=1,
        )

    def step(self, count: int) -> None:
        """Count steps of the current stage."""
        if self._stage is not None:
            self._stage.update(count)

    def slide_done(self, line: str | None = None) -> None:
        """Count a slide and print its line above the bars."""
        self._close_stage()
        if self._slides is not None:
            if line is not None:
                tqdm.write(printable(line))
            self._slides.update(1)

    def _bar(self, **options: Any) -> tqdm | None:
        return tqdm(disable=self._disable, **options) if self._show else None

    def _close_stage(self) -> None:
        if self._stage is not None:
            self._stage.close()
            self._stage = None
