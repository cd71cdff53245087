"""What the report shows of one slide: plain values and small pictures, kept as one JSON file."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tiacrossfusion.errors import TiacfError, one_line

#: The longer side of a slide in the units of a map: pictures, tiles and marks of slides of any size
#: are placed alike.
MAP_SIDE = 1000.0


def _showable(text: Any) -> Any:
    """Replace what is no text, such as half of a character in a file name that is not UTF-8."""
    if isinstance(text, str):
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


#: Text of a user's: a file name may hold anything.
Text = Annotated[str, BeforeValidator(_showable)]

#: A picture that the page holds within itself, and nothing else.
Picture = Annotated[
    str, Field(pattern=r"^data:image/(png|webp);base64,[A-Za-z0-9+/]+={0,2}$", repr=False)
]


class _Fragment(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Layer(_Fragment):
    """A picture that lies on a slide.

    Attributes:
        kind: "photo", "patches" (where they are), "percentile", or "signed" (above 0 raises the risk).
        family: what is shown, such as "Attention"; layers of one family stand together.
        name: which of the family, such as "5x".
        picture: the picture; of tiles it has one pixel for each.
        x, y, width, height: where it lies on the map, whose longer side is `MAP_SIDE`.
    """

    kind: Literal["photo", "patches", "percentile", "signed"]
    family: str
    name: str
    picture: Picture
    x: float
    y: float
    width: float
    height: float

    @property
    def key(self) -> str:
        """Name of the layer in the page, the same for all slides."""
        return f"{self.family} {self.name}".lower().replace(" ", "-")


class Outline(_Fragment):
    """A hotspot on the map.

    Attributes:
        name: such as "Hotspot 1".
        label: what stands beside it, such as "1".
        path: SVG path of its border.
        x, y: where the label stands.
        note: what is known of it.
    """

    name: str
    label: str
    path: str = Field(pattern=r"^[MLZ0-9 .-]*$")
    x: float
    y: float
    note: str


class Bar(_Fragment):
    """A scale bar.

    Attributes:
        label: such as "50 μm".
        length: in units of the picture that it lies on.
    """

    label: str
    length: float


class MapView(_Fragment):
    """A slide and what lies on it.

    Attributes:
        width, height: of the slide, the longer one is `MAP_SIDE`.
        ground: the slide, or where its patches are.
        layers: the maps to choose from.
        outlines: hotspots.
        bar: scale bar.
    """

    width: float
    height: float
    ground: Layer
    layers: tuple[Layer, ...]
    outlines: tuple[Outline, ...]
    bar: Bar | None


class PatchView(_Fragment):
    """A patch of the gallery.

    Attributes:
        picture: the patch.
        percentile: of its attention among the patches of its scale.
        attribution: what it adds to the risk.
        x, y, width, height: where it lies on the map.
    """

    picture: Picture
    percentile: float | None
    attribution: float | None
    x: float
    y: float
    width: float
    height: float


class PatchRow(_Fragment):
    """The patches of one scale with the highest and the lowest scores.

    Attributes:
        scale: "5x", "10x" or "20x".
        score: what they are chosen by.
        bar: scale bar; a patch is 100 units wide.
        highest: from the highest score downwards.
        lowest: from the lowest score upwards.
    """

    scale: str
    score: Literal["attention", "attribution"]
    bar: Bar
    highest: tuple[PatchView, ...]
    lowest: tuple[PatchView, ...]


class GroupCurve(_Fragment):
    """Survival of a group of training patients.

    Attributes:
        name: such as "low".
        patients: how many.
        survival: (K,) at the end of each bin.
    """

    name: str
    patients: int
    survival: tuple[float, ...]


class Survival(_Fragment):
    """The prediction over time.

    Attributes:
        survival: (K,) S at the end of each bin.
        edges: K + 1 times from 0; None when they are unknown.
        unit: of the times.
        median: in that unit; None when it is unknown or not reached.
        groups: training patients to compare with.
    """

    survival: tuple[float, ...] = Field(min_length=1)
    edges: tuple[float, ...] | None
    unit: str | None
    median: float | None
    groups: tuple[GroupCurve, ...]


class ReportSlide(_Fragment):
    """All that the report shows of one slide.

    Of a slide that failed only `name`, `status`, `message` and `source` are known.

    Attributes:
        name: file name of the slide.
        status: "ok" or "failed".
        message: why it failed, why something is unknown, or what speaks against the numbers.
        source: path of the slide or bag as it was given; empty when there is none.
        model: name and version of the model that gave the risk.
        risk: higher is worse.
        risk_sd: spread of an ensemble.
        percentile: of the risk among the training patients.
        risk_group: name of the group.
        group_rank: 0 for the group of low risk, 1 for that of high risk.
        patches: how many, per scale.
        facts: name and value of what else is to be known, such as the scanner's resolution.
        survival: the prediction over time.
        contribution: what each scale adds to the risk of a slide of typical patches.
        baseline: whose patches those are: "training", the patients', or "own", this slide's.
        map: the slide and its maps; None when they cannot be drawn.
        map_note: why there is no map, or what to know of it.
        gallery: patches, per scale.
        gallery_note: why there are no patches, or fewer.
    """

    format_version: Literal[1] = 1
    name: Text
    status: Literal["ok", "failed"] = "ok"
    message: Text = ""
    source: Text = ""
    model: Text = ""
    risk: float | None = None
    risk_sd: float | None = None
    percentile: float | None = None
    risk_group: Text | None = None
    group_rank: int | None = None
    patches: dict[str, int] = Field(default_factory=dict)
    facts: dict[str, Text] = Field(default_factory=dict)
    survival: Survival | None = None
    contribution: dict[str, float] = Field(default_factory=dict)
    baseline: Literal["training", "own"] = "training"
    map: MapView | None = None
    map_note: str = ""
    gallery: tuple[PatchRow, ...] = ()
    gallery_note: Text = ""

    @model_validator(mode="after")
    def _predicted(self) -> ReportSlide:
        if self.status == "ok" and (self.risk is None or self.survival is None):
            raise ValueError("a slide that did not fail has a risk and a survival curve")
        return self

    def save(self, path: Path) -> None:
        """Write the fragment in one step, in place of an earlier one."""
        path = Path(path)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            part.write_text(self.model_dump_json(), encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> ReportSlide:
        """Read a fragment.

        Raises:
            TiacfError: there is none, or it is damaged or of another version.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            raise TiacfError(
                f"{path}: cannot be read as a slide of the report ({one_line(error)}); "
                "remove it, and the slide is predicted again"
            ) from error
