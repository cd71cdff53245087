"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tiatoolbox.cli.common import cli_batch_size, cli_file_type, cli_masks, cli_num_workers

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.arguments import at_least, one_scale
from tiacrossfusion.io.paths import is_there, missing
from tiacrossfusion.io.plugins import load_plugins
from tiacrossfusion.io.registry import Registry
from tiacrossfusion.slides.files import (
    DEFAULT_FILE_TYPES,
    OwnOptions,
    find_slides,
    own_scales,
)
from tiacrossfusion.slides.options import ReadOptions, Scale
from tiacrossfusion.text import printable

if TYPE_CHECKING:
    from tiacrossfusion.cohorts.columns import Columns


def cli_slides(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --img-input, which may be repeated and followed by several paths, passed on as a tuple."""

    @click.option(
        "--img-input",
        type=str,
        multiple=True,
        help="A slide, a folder of slides (subfolders included), a folder of DICOM files (one slide), or a "
        "list: a text file with a path a line, or a CSV with the column slide and perhaps mpp and mask. May "
        "be repeated, or followed by several paths.",
    )
    @click.argument("more_slides", nargs=-1, type=str)
    @wraps(command)
    def together(
        *arguments: Any, img_input: tuple[str, ...], more_slides: tuple[str, ...], **options: Any
    ) -> Any:
        if more_slides and not img_input:
            raise UsageError(f"{more_slides[0]}: what is it? Give slides with --img-input")
        return command(*arguments, img_input=(*img_input, *more_slides), **options)

    return together


cli_cluster = click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Work on the slides on a Dask cluster: its scheduler's address (tcp://host:8786) or scheduler "
    "file. --device is then the workers'.",
)
cli_precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the encoder's arithmetic; auto is float16 on a GPU and float32 elsewhere.",
)
cli_verbose = click.option(
    "--verbose", is_flag=True, help="Show the libraries' log lines on the console."
)


def _load(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return load_plugins(value)


#: Passes `plugins`, names of modules and absolute paths of files, after they were imported here.
cli_plugin = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    is_eager=True,
    callback=_load,
    help="Python file (own_encoder.py) or module that registers your own encoders, networks, scores, output "
    "formats or bag stores; may be repeated.",
)


#: Parameters that `cli_read` adds.
READ_OPTIONS = (
    *("masks", "mask_class", "file_types", "mpp", "power", "series", "allow_enlarged"),
    *("batch_size", "num_workers"),
)


def cli_read(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how slides are read; they are passed on as `read` and `mpp_table`."""

    @cli_masks(
        usage_help="Tissue masks: an image or a GeoJSON exported from QuPath, or a folder of them named "
        "as the slides. Without it the tissue is found."
    )
    @click.option(
        "--mask-class",
        multiple=True,
        help="Take areas of this class of GeoJSON masks only; may be repeated. Without it all areas but "
        "those of classes such as Ignore*.",
    )
    @cli_file_type(default=DEFAULT_FILE_TYPES)
    @click.option(
        "--mpp",
        type=str,
        help="Microns per pixel of the slides, over what the files say; or a CSV with the columns slide "
        "and mpp.",
    )
    @click.option(
        "--power", type=float, help="Objective power of the slides, over what the files say."
    )
    @click.option(
        "--series",
        type=int,
        help="Number of the picture of a TIFF that is the slide; the largest in colour by default.",
    )
    @click.option(
        "--allow-enlarged",
        is_flag=True,
        help="Take slides that are so coarse that patches are enlarged more than twice, too.",
    )
    @cli_batch_size(default=32)
    @cli_num_workers(usage_help="Threads that read patches.", default=2)
    @wraps(command)
    def checked(
        *arguments: Any,
        masks: str | None,
        mpp: str | None,
        power: float | None,
        series: int | None,
        mask_class: tuple[str, ...],
        allow_enlarged: bool,
        batch_size: int,
        num_workers: int,
        **options: Any,
    ) -> Any:
        at_least("--batch-size", batch_size, 1)
        at_least("--num-workers", num_workers, 0)
        of_all = number_or_file("--mpp", mpp)
        one_scale(of_all, power)
        if of_all is None and mpp is not None and power is not None:
            raise UsageError("--mpp and --power: leave one of them out")
        read = ReadOptions(
            Scale(of_all, power),
            masks,
            mask_class,
            series,
            allow_enlarged=allow_enlarged,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        mpp_table = Path(mpp) if mpp is not None and of_all is None else None
        return command(*arguments, read=read, mpp_table=mpp_table, **options)

    return checked


def number_or_file(option: str, given: str | None) -> float | None:
    """Return what an option says as a number; None where it is not given or names a file.

    Raises:
        UsageError: it is neither.
    """
    if given is None:
        return None
    try:
        return float(given)
    except ValueError:
        if Path(given).is_file():
            return None
        raise UsageError(
            f"{option} {printable(given[:80])}: neither a number such as 0.25 nor a CSV that is there"
        ) from None


def find_listed(
    img_input: Sequence[str],
    file_types: str,
    read: ReadOptions,
    mpp_table: Path | None,
    output_path: str | None = None,
) -> tuple[list[Path], ReadOptions]:
    """Find the slides, say what was passed over, and return them with options that hold their own."""
    if not img_input or "" in img_input:
        raise UsageError("--img-input is missing; see --help")
    for path in map(Path, img_input):
        if not is_there(path):
            raise UsageError(f"{path}: {missing(path)}; check --img-input")
    masks = read.mask if isinstance(read.mask, str) else None
    without = [Path(folder) for folder in (masks, output_path) if folder]
    found = find_slides(img_input, file_types, without=without)
    for note in found.notes():
        click.echo(printable(f"note: {note}"))
    scales = {} if mpp_table is None else own_scales(found.slides, mpp_table)
    own = {**scales, **found.own}
    for key in set(scales) & set(found.own):
        own[key] = OwnOptions(scales[key].mpp, found.own[key].mask)
    masks_of_slides = any(one.mask is not None for one in own.values())
    if read.mask_classes and read.mask is None and not masks_of_slides:
        raise UsageError("--mask-class is for GeoJSON masks; add --masks, or leave it out")
    return found.slides, replace(read, own=own)


class RegisteredName(click.ParamType):
    """A name in a registry, in upper or lower case; plugins loaded before the option count."""

    name = "name"

    def __init__(self, registry: Registry[Any]) -> None:
        """Keep the registry."""
        self.registry = registry

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """List the names in the help."""
        return f"[{'|'.join(self.registry.names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is registered."""
        names = self.registry.names()
        for name in names:
            if name.casefold() == value.casefold():
                return name
        known = ", ".join(map(repr, names))
        raise click.BadParameter(f"{value!r} is not one of {known}.", ctx, param)


_COLUMN_OPTIONS = (
    click.option("--slide-column", help="Column of the slides' file names.  [default: slide]"),
    click.option("--patient-column", help="Column of the patients.  [default: patient]"),
    click.option(
        "--patient-characters",
        type=click.IntRange(1, 1000),
        help="First characters of that column that name the patient, 12 for TCGA barcodes.",
    ),
    click.option("--time-column", help="Column of the follow-up times.  [default: time]"),
    click.option(
        "--event-column", help="Column with 1 for an event, 0 for none.  [default: event]"
    ),
    click.option(
        "--censorship-column", help="Instead: a column with 1 where censored, 0 for an event."
    ),
    click.option(
        "--entry-time",
        "entry_column",
        help="Column of the times at which patients came under observation, where that is later than "
        "diagnosis (left truncation).",
    ),
    click.option(
        "--covariates",
        help="Columns of the clinical record, comma-separated.",
    ),
    click.option(
        "--ordinal",
        multiple=True,
        help="A covariate with ordered levels, from low to high, such as stage=I,II,III,IV; names of one "
        "level separated by |. Repeatable.",
    ),
    click.option(
        "--drop-unusable",
        is_flag=True,
        help="Leave out, and count, rows without follow-up or bag instead of refusing the table.",
    ),
)


def cli_columns(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for the names of a table's columns, and for rows that cannot be used."""
    for option in reversed(_COLUMN_OPTIONS):
        command = option(command)
    return command


def columns_from(options: dict[str, Any]) -> Columns:
    """Return the columns that the options of `cli_columns` name, which are taken out of `options`.

    Raises:
        UsageError: levels are written wrongly.
    """
    from tiacrossfusion.cohorts.columns import Columns
    from tiacrossfusion.cohorts.levels import read_levels

    names = ("slide", "patient", "time", "event", "censorship", "entry")
    given = {name: options.pop(f"{name}_column") for name in names}
    given["patient_characters"] = options.pop("patient_characters")
    given["covariates"] = split_names(options.pop("covariates")) or None
    given["ordinal"] = read_levels(options.pop("ordinal")) or None
    return Columns(**{name: value for name, value in given.items() if value is not None})


def split_names(text: str | None) -> tuple[str, ...]:
    """Return names that are separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
