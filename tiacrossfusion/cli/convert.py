"""`tiacf convert`: features of CLAM, TRIDENT and others to bags, and bags to what those read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from tiatoolbox.cli.common import cli_output_path

from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cli.checks import output_folder, refuse_given
from tiacrossfusion.cli.console import exit_if_failed, print_done
from tiacrossfusion.cli.log_file import log_to
from tiacrossfusion.cli.options import cli_verbose, number_or_file
from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.arguments import positive
from tiacrossfusion.io.paths import is_folder
from tiacrossfusion.slides.files import mpp_by_stem

if TYPE_CHECKING:
    from tiacrossfusion.interop.embeddings import SlideVector
    from tiacrossfusion.interop.sources import SlideFiles

#: What bags know and feature files may not.
_FOR_FILES = ("encoder", "patch_size", "mpp", "power", "coords", "units")

#: What vectors of slides do not have.
_NOT_OF_EMBEDDINGS = ("x5", "x10", "x20", "bags", *_FOR_FILES[1:])


@click.command()
@click.option(
    "--x5",
    type=Path,
    help="Folder of the 5x features: NAME.h5 or NAME.pt, a file a slide. A scale may be left out.",
)
@click.option("--x10", type=Path, help="Folder of the 10x features.")
@click.option("--x20", type=Path, help="Folder of the 20x features.")
@click.option(
    "--bags",
    type=Path,
    help="Instead of these: a folder with x5, x10 and x20 or some of them in it, a folder of feature "
    "bags (*.zarr), or one bag.",
)
@click.option(
    "--embeddings",
    type=Path,
    help="Instead of these: one vector a slide or patient, .npz, .h5, CSV or Parquet, or a folder of .npz, "
    ".npy or .h5; models in -20x read them.",
)
@cli_output_path(usage_help="Folder for the results.")
@click.option(
    "--output-format",
    type=click.Choice(["bag", "h5", "pt"]),
    default="bag",
    show_default=True,
    help="bag: NAME.zarr; h5: x5/NAME.h5 and so on, as TRIDENT writes them; pt: x5/pt_files/NAME.pt.",
)
@click.option(
    "--encoder",
    help="What made the features, a name as in `tiacf encoders`; over what the files say.",
)
@click.option(
    "--patch-size",
    type=click.IntRange(16, 4096),
    help="Side of a patch in pixels of its scale, where the files do not say.  [default: 256]",
)
@click.option(
    "--mpp",
    type=str,
    help="Microns per level-0 pixel of the slides; or a CSV with the columns slide and mpp.",
)
@click.option("--power", type=float, help="Objective power of the slides, where files do not say.")
@click.option(
    "--coords",
    type=click.Choice(["level0", "scale", "micron"]),
    help="What coordinates count where the files do not say: pixels of level 0 or of the scale, or "
    "microns.",
)
@click.option(
    "--units",
    type=click.Choice(["mpp", "power"]),
    default="power",
    show_default=True,
    help="How slides are to be sampled for models that are trained on these bags.",
)
@click.option("--overwrite", is_flag=True, help="Replace results of tiacf convert that differ.")
@cli_verbose
@click.pass_context
def convert(
    context: click.Context,
    x5: Path | None,
    x10: Path | None,
    x20: Path | None,
    bags: Path | None,
    embeddings: Path | None,
    output_path: str,
    output_format: Literal["bag", "h5", "pt"],
    encoder: str | None,
    patch_size: int | None,
    mpp: str | None,
    power: float | None,
    coords: Literal["level0", "scale", "micron"] | None,
    units: Literal["mpp", "power"],
    *,
    overwrite: bool,
    verbose: bool,
) -> None:
    """Convert features between CLAM, TRIDENT, the authors' layout and bags.

    Files of one slide are matched by name over the three scales, and checked to come from one slide and
    one encoder. Results that are there with the same content are skipped; a slide that cannot be
    converted is named and the others go on.
    """
    of_all = number_or_file("--mpp", mpp)
    positive("--mpp", of_all)
    positive("--power", power)
    folder = output_folder(output_path)

    # Imported here: it takes seconds, and a wrong option should not.
    from tiacrossfusion.interop.conversion import convert as convert_slides
    from tiacrossfusion.interop.importing import ImportOptions
    from tiacrossfusion.io.atomic import writing

    sources: list[SlideFiles] | list[SlideVector] | list[Path]
    if embeddings is None:
        sources = _sources({"5x": x5, "10x": x10, "20x": x20}, bags)
    else:
        from tiacrossfusion.interop.embeddings import read_embeddings

        refuse_given(context, _NOT_OF_EMBEDDINGS, "with --embeddings: leave it out")
        sources = read_embeddings(embeddings)
    if isinstance(sources[0], Path):
        if output_format == "bag":
            raise UsageError(f"{bags}: holds bags already; give --output-format h5 or pt")
        refuse_given(context, _FOR_FILES, "is for feature files, bags know; leave it out")
    options = ImportOptions(
        encoder=encoder,
        patch_size=patch_size,
        mpp=of_all,
        own_mpp=mpp_by_stem(Path(mpp)) if mpp is not None and of_all is None else {},
        power=power,
        coords=coords,
        units=units,
    )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with log_to(folder, verbose=verbose):
        outcomes = convert_slides(
            sources,
            folder,
            output_format=output_format,
            options=options,
            overwrite=overwrite,
            show_progress=True,
        )
    print_done(outcomes, "slides converted", folder)
    exit_if_failed(outcomes, folder)


def _sources(scales: dict[str, Path | None], bags: Path | None) -> list[SlideFiles] | list[Path]:
    """Return the feature files or bags that the options name."""
    from tiacrossfusion.interop.sources import SCALE_FOLDERS, find_slide_files

    given_scales = {scale: path for scale, path in scales.items() if path is not None}
    if bags is not None and given_scales:
        raise UsageError("--bags and --x5, --x10, --x20: give the one or the others")
    if bags is None:
        if not given_scales:
            raise UsageError("--x5, --x10 or --x20 missing, or --bags; see --help")
        return find_slide_files(given_scales)
    inside = {scale: bags / name for scale, name in SCALE_FOLDERS.items() if is_folder(bags / name)}
    if inside and bags.suffix != ".zarr":
        return find_slide_files(inside)
    return find_bags(bags, "give bags, or folders x5, x10 and x20 of feature files")
