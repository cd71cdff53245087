"""One slide's part of the report: plain values and small pictures, stored as one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.outputs.curve import Curve, PlainValues
from tiacrossfusion.outputs.scale_bar import ScaleBar

#: Longer side of a slide in units of the map, so that slides of any size are drawn alike.
MAP_SIDE = 1000.0


def _showable(text: Any) -> Any:
    """Replace what UTF-8 cannot encode, such as bytes of another encoding in a file name."""
    if isinstance(text, str):
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


#: Text from the user, such as a file name.
Text = Annotated[str, BeforeValidator(_showable)]

#: A picture inside the page: a data URI.
Picture = Annotated[
    str, Field(pattern=r"^data:image/(png|webp);base64,[A-Za-z0-9+/]+={0,2}$", repr=False)
]


class Box(PlainValues):
    """A rectangle on the map, whose longer side is `MAP_SIDE`."""

    x: float
    y: float
    width: float
    height: float


class Layer(Box):
    """A picture laid over a slide.

    Attributes:
        kind: "photo", "patches" (their positions), "percentile", "signed" (above 0 raises the
            risk), or "area" (a known area in one colour).
        family: first word of the score's name, such as "Attention", which groups layers on the page.
        name: rest of the score's name, such as "5x".
        unit: unit of the score.
        meaning: one sentence on what the score shows.
        limit: value of the strongest colour of a signed score.
        picture: the picture, with one pixel for each tile if it shows tiles.
    """

    kind: Literal["photo", "patches", "percentile", "signed", "area"]
    family: str = ""
    name: str = ""
    unit: str = ""
    meaning: str = ""
    limit: float | None = None
    picture: Picture

    @property
    def key(self) -> str:
        """Name of the layer on the page, the same for all slides."""
        return f"{self.family} {self.name}".lower().replace(" ", "-")


class Outline(PlainValues):
    """A hotspot on the map.

    Attributes:
        kind: what it was found by, see `explain.hotspots.Hotspot`.
        name: such as "Hotspot 1".
        label: text beside it, such as "1".
        path: SVG path of its border.
        x, y: position of the label.
        note: its size and score in words.
    """

    kind: Literal["raises", "lowers", "attention"]
    name: str
    label: str
    path: str = Field(pattern=r"^[MLZ0-9 .-]*$")
    x: float
    y: float
    note: str


class MapView(PlainValues):
    """A slide with its maps.

    Attributes:
        width, height: size of the slide; the longer one is `MAP_SIDE`.
        ground: the slide, or the positions of its patches.
        layers: the maps to choose from.
        outlines: hotspots.
        bar: scale bar.
    """

    width: float
    height: float
    ground: Layer
    layers: tuple[Layer, ...]
    outlines: tuple[Outline, ...]
    bar: ScaleBar | None


class PatchView(Box):
    """A patch of the gallery.

    Attributes:
        picture: the patch.
        percentile: percentile of its attention among the patches of its scale.
        attribution: how much it adds to the risk.
    """

    picture: Picture
    percentile: float | None
    attribution: float | None


class PatchRow(PlainValues):
    """The patches of one scale with the highest and the lowest scores.

    Attributes:
        scale: "5x", "10x" or "20x".
        score: the score that selects them.
        bar: scale bar; a patch is 100 units wide.
        highest: from the highest score downwards.
        lowest: from the lowest score upwards.
    """

    scale: str
    score: Literal["attention", "attribution"]
    bar: ScaleBar
    highest: tuple[PatchView, ...]
    lowest: tuple[PatchView, ...]


class ReportSlide(PlainValues):
    """What the report shows of one slide; if it failed, only name, status, message and source.

    Attributes:
        name: file name of the slide.
        status: "ok" or "failed".
        message: why it failed, or why a value is unknown or unreliable.
        source: path of the slide or bag as given; may be empty.
        model: name and version of the model.
        risk: higher is worse.
        risk_sd: standard deviation of the risk over an ensemble.
        risk_interval: 95 % interval of the risk, of a slide that was read in part.
        percentile: percentile of the risk among the training patients.
        risk_nuisance_sd: how far stain, scanner and sampling move the risk.
        risk_group: name of the group.
        group_uncertain: whether they may change it.
        group_rank: 0 for the group of low risk, 1 for that of high risk.
        patches: number of patches of each scale.
        facts: name and value of further facts, such as the scanner's resolution.
        survival: the prediction over time.
        contribution: how much each scale adds to the risk of a slide of typical patches.
        baseline: source of typical patches: "training" patients or the slide's "own".
        map: the slide and its maps; None when they cannot be drawn.
        map_note: why there is no map; else empty.
        gallery: patches of each scale.
        gallery_note: why patches are missing; else empty.
    """

    format_version: Literal[1] = 1
    name: Text
    status: Literal["ok", "failed"] = "ok"
    message: Text = ""
    source: Text = ""
    model: Text = ""
    risk: float | None = None
    risk_sd: float | None = None
    risk_interval: tuple[float, float] | None = None
    percentile: float | None = None
    risk_nuisance_sd: float | None = None
    risk_group: Text | None = None
    group_uncertain: bool = False
    group_rank: int | None = None
    patches: dict[str, int] = Field(default_factory=dict)
    facts: dict[str, Text] = Field(default_factory=dict)
    survival: Curve | None = None
    contribution: dict[str, float] = Field(default_factory=dict)
    baseline: Literal["training", "own"] = "training"
    map: MapView | None = None
    map_note: str = ""
    gallery: tuple[PatchRow, ...] = ()
    gallery_note: Text = ""

    @model_validator(mode="after")
    def _predicted(self) -> ReportSlide:
        if self.status == "ok" and (self.risk is None or self.survival is None):
            raise ValueError("a predicted slide needs a risk and a survival curve")
        return self

    def save(self, path: Path) -> None:
        """Write the fragment atomically; an earlier one is replaced."""
        with replacing(path) as part:
            part.write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ReportSlide:
        """Read a fragment.

        Raises:
            TiacfError: it is missing, damaged or of another version.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            raise TiacfError(
                f"{path}: not a valid slide of the report ({one_line(error)}); "
                "remove it to have the slide predicted again"
            ) from error
