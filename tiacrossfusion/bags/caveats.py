"""Warnings about the features of a bag."""

from __future__ import annotations

from typing import cast

from tiacrossfusion.bags.bag import OWN_FORMAT, FeatureBag
from tiacrossfusion.slides.patches import coarse_base
from tiacrossfusion.slides.slide import Slide

#: Red, green and blue of patches that have no colour lie less than this many grey levels apart on average;
#: in H&E they do by 30 and more (tested on five slides of four scanners).
COLOURLESS = 5.0


def bag_caveats(bag: FeatureBag) -> list[str]:
    """Return warnings about the features of a bag; a warning that does not apply is an empty text."""
    made = bag.provenance
    program = made.imported.partition(":")[0]
    if program not in ("", OWN_FORMAT):
        return [f"features made by another program ({program}), which found the tissue its way"]
    damage = colour = ""
    if made.dropped:
        counts = ", ".join(f"{count} at {scale}" for scale, count in made.dropped.items())
        damage = f"the file is damaged: patches that cannot be read were left out ({counts}), see the log"
    if made.colour is not None and made.colour < COLOURLESS:
        colour = (
            "the slide is grey-scale, while H&E is told by its colours: do not rely on the numbers"
        )
    # The provenance has the attributes of the scale of a slide, and no others are used.
    return [coarse_base(cast("Slide", made), made.sampling), damage, colour, made.mask_classes]
