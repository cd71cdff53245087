"""Reasons why the numbers of a bag may not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tiacrossfusion.bags.bag import OWN_FORMAT, FeatureBag
from tiacrossfusion.slides.patches import coarse_base
from tiacrossfusion.slides.slide import Slide

if TYPE_CHECKING:
    pass


#: Red, green and blue of patches that have no colour lie less than this many grey levels apart on average;
#: in H&E they do by 30 and more (tested on five slides of four scanners).
COLOURLESS = 5.0


def bag_caveats(bag: FeatureBag) -> list[str]:
    """Say what speaks against the features of a bag; empty texts where nothing does."""
    made = bag.provenance
    program = made.imported.partition(":")[0]
    if program not in ("", OWN_FORMAT):
        return [f"features made by another program ({program}), which found the tissue its way"]
    # Of a slide it asks the scale only, under names that the provenance has too.
    return [coarse_base(cast("Slide", made), made.sampling), damage_note(bag), colour_note(bag)]


def damage_note(bag: FeatureBag) -> str:
    """Say how many patches of a damaged slide were left out; empty when none was."""
    dropped = bag.provenance.dropped
    if not dropped:
        return ""
    counts = ", ".join(f"{count} at {scale}" for scale, count in dropped.items())
    return f"the file is damaged: patches that cannot be read were left out ({counts}), see the log"


def colour_note(bag: FeatureBag) -> str:
    """Say that a slide is grey-scale; empty when it has colours, or it is not known."""
    colour = bag.provenance.colour
    if colour is None or colour >= COLOURLESS:
        return ""
    return "the slide is grey-scale, while H&E is told by its colours: do not rely on the numbers"
