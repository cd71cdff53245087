"""One slide's part of the report: plain values and small pictures, kept as one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.outputs.curve import Curve, PlainValues

#: Longer side of a slide in the units of a map, so that slides of any size are drawn alike.
MAP_SIDE = 1000.0


def _showable(text: Any) -> Any:
    """Replace characters that UTF-8 cannot encode, such as half of one in a file name."""
    if isinstance(text, str):
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


#: Text from the user, such as a file name, which may hold anything.
Text = Annotated[str, BeforeValidator(_showable)]

#: A picture inside the page: a data URI.
Picture = Annotated[
    str, Field(pattern=r"^data:image/(png|webp);base64,[A-Za-z0-9+/]+={0,2}$", repr=False)
]


class Layer(PlainValues):
    """A picture laid over a slide.

    Attributes:
        kind: "photo", "patches" (where they are), "percentile", or "signed" (above 0 raises the risk).
        family: first word of the score's name, such as "Attention"; groups the layers of the page.
        name: rest of the score's name, such as "5x".
        unit: unit of the score.
        picture: the picture; of tiles it has one pixel for each.
        x, y, width, height: its place on the map, whose longer side is `MAP_SIDE`.
    """

    kind: Literal["photo", "patches", "percentile", "signed"]
    family: str = ""
    name: str = ""
    unit: str = ""
    picture: Picture
    x: float
    y: float
    width: float
    height: float

    @property
    def key(self) -> str:
        """Name of the layer in the page, the same for all slides."""
        return f"{self.family} {self.name}".lower().replace(" ", "-")


class Outline(PlainValues):
    """A hotspot on the map.

    Attributes:
        name: such as "Hotspot 1".
        label: text beside it, such as "1".
        path: SVG path of its border.
        x, y: place of the label.
        note: its size and score in words.
    """

    name: str
    label: str
    path: str = Field(pattern=r"^[MLZ0-9 .-]*$")
    x: float
    y: float
    note: str


class Bar(PlainValues):
    """A scale bar.

    Attributes:
        label: such as "50 μm".
        length: its length in units of the picture that it lies on.
    """

    label: str
    length: float


class MapView(PlainValues):
    """A slide with its maps.

    Attributes:
        width, height: size of the slide; the longer one is `MAP_SIDE`.
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


class PatchView(PlainValues):
    """A patch of the gallery.

    Attributes:
        picture: the patch.
        percentile: percentile of its attention among the patches of its scale.
        attribution: what it adds to the risk.
        x, y, width, height: its place on the map.
    """

    picture: Picture
    percentile: float | None
    attribution: float | None
    x: float
    y: float
    width: float
    height: float


class PatchRow(PlainValues):
    """The patches of one scale with the highest and the lowest scores.

    Attributes:
        scale: "5x", "10x" or "20x".
        score: the score they are chosen by.
        bar: scale bar; a patch is 100 units wide.
        highest: from the highest score downwards.
        lowest: from the lowest score upwards.
    """

    scale: str
    score: Literal["attention", "attribution"]
    bar: Bar
    highest: tuple[PatchView, ...]
    lowest: tuple[PatchView, ...]


class ReportSlide(PlainValues):
    """All that the report shows of one slide.

    A slide that failed has only `name`, `status`, `message` and `source`.

    Attributes:
        name: file name of the slide.
        status: "ok" or "failed".
        message: why it failed, or why a value is unknown or unreliable.
        source: path of the slide or bag as it was given; may be empty.
        model: name and version of the model.
        risk: higher is worse.
        risk_sd: standard deviation of the risk over an ensemble.
        percentile: percentile of the risk among the training patients.
        risk_group: name of the group.
        group_rank: 0 for the group of low risk, 1 for that of high risk.
        patches: number of patches of each scale.
        facts: name and value of further facts, such as the scanner's resolution.
        survival: the prediction over time.
        contribution: what each scale adds to the risk of a slide of typical patches.
        baseline: where typical patches come from: "training" patients or the slide's "own".
        map: the slide and its maps; None when they cannot be drawn.
        map_note: why there is no map, or a remark on it.
        gallery: patches of each scale.
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
            raise ValueError("a slide that did not fail has a risk and a survival curve")
        return self

    def save(self, path: Path) -> None:
        """Write the fragment in one step, replacing an earlier one."""
        with replacing(path) as part:
            part.write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ReportSlide:
        """Read a fragment.

        Raises:
            TiacfError: it does not exist, is damaged or of another version.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            raise TiacfError(
                f"{path}: cannot be read as a slide of the report ({one_line(error)}); "
                "remove it, and the slide is predicted again"
            ) from error
