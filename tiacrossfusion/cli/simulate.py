"""`tiacf simulate`: a cohort with a planted, known prognosis, as bags or as slides."""

from __future__ import annotations

import shlex
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

import click
from tiatoolbox.cli.common import cli_output_path

from tiacrossfusion.cli.checks import output_folder, refuse_given
from tiacrossfusion.io.arguments import at_least, positive, usable_seed
from tiacrossfusion.simulation.scenarios import SCENARIOS

if TYPE_CHECKING:
    from tiacrossfusion.simulation.planted import Scenario

_ONLY_BAGS = ("encoder_width", "side", "auc", "tissue", "nuisance")
_ONLY_SLIDES = ("slide_size", "mpp", "processes")
_OF_RECORD = ("record_effect", "record_product", "correlation", "missing", "missing_by", "exact")


@click.command()
@cli_output_path(usage_help="Folder for the cohort; if part of it is there, the rest is drawn.")
@click.option("--slides", is_flag=True, help="Render slides, which takes a while, and not bags.")
@click.option(
    "--scenario",
    type=click.Choice(list(SCENARIOS), case_sensitive=False),
    default="product",
    show_default=True,
    help="What the log-hazard depends on. "
    + "; ".join(f"{name}: {what}" for name, what in SCENARIOS.items())
    + ".",
)
@click.option("--patients", "n_patients", default=600, show_default=True)
@click.option("--slides-per-patient", default=1, show_default=True)
@click.option(
    "--strength",
    default=1.5,
    show_default=True,
    help="Standard deviation of the log-hazard; 0 plants nothing.",
)
@click.option(
    "--censored",
    "censored_share",
    default=1 / 3,
    show_default="1/3",
    help="Share of the patients whose death is not observed.",
)
@click.option("--seed", default=1, show_default=True, help="The same seed, the same cohort.")
@click.option(
    "--record",
    "with_record",
    is_flag=True,
    help="Plant a clinical record of eight variables, too: log h = a g_slide + b g_clinic + c g_slide "
    "g_clinic, with a the --strength.",
)
@click.option("--record-effect", default=1.0, show_default=True, help="Record: b.")
@click.option("--record-product", default=0.0, show_default=True, help="Record: c.")
@click.option(
    "--correlation", default=0.5, show_default=True, help="Record: that of g_slide and g_clinic."
)
@click.option(
    "--missing",
    default=0.0,
    show_default=True,
    help="Record: share of its values that are missing.",
)
@click.option(
    "--missing-by",
    type=click.Choice(["chance", "value"]),
    default="chance",
    show_default=True,
    help="Record: value leaves out more the higher g_clinic is.",
)
@click.option("--exact", is_flag=True, help="Record: age reads g_clinic without noise.")
@click.option(
    "--width", "encoder_width", default=32, show_default=True, help="Bags: features of a token."
)
@click.option(
    "--side", default=5, show_default=True, help="Bags: patches of 5x along a side of the grid."
)
@click.option(
    "--auc",
    default=0.95,
    show_default=True,
    help="Bags: how well one token's pattern is told from noise.",
)
@click.option(
    "--tissue",
    default=1.0,
    show_default=True,
    help="Bags: share of the 20x patches that are kept, as irregular pieces with holes.",
)
@click.option(
    "--nuisance",
    is_flag=True,
    help="Bags: add correlated features and a vector of the patient's site, unrelated to survival.",
)
@click.option(
    "--slide-size", default=4096, show_default=True, help="Slides: width and height in pixels."
)
@click.option("--mpp", default=0.5, show_default=True, help="Slides: microns per pixel.")
@click.option("--processes", default=2, show_default=True, help="Slides: drawn at the same time.")
@click.pass_context
def simulate(
    context: click.Context,
    output_path: str | None,
    scenario: Scenario,
    n_patients: int,
    slides_per_patient: int,
    strength: float,
    censored_share: float,
    seed: int,
    record_effect: float,
    record_product: float,
    correlation: float,
    missing: float,
    missing_by: str,
    encoder_width: int,
    side: int,
    auc: float,
    tissue: float,
    slide_size: int,
    mpp: float,
    processes: int,
    *,
    with_record: bool,
    exact: bool,
    nuisance: bool,
    slides: bool,
) -> None:
    """Simulate a cohort whose true hazard is known.

    Writes feature bags (or, with --slides, slides and maps of what was planted in them) and cohort.csv
    with follow-up in months, the true log-hazard and what it was made from. Run it again to go on
    where it stopped.
    """
    at_least("--patients", n_patients, 1)
    at_least("--slides-per-patient", slides_per_patient, 1)
    usable_seed("--seed", seed)
    at_least("--width", encoder_width, 1)
    at_least("--side", side, 1)
    at_least("--slide-size", slide_size, 300)
    positive("--mpp", mpp)
    at_least("--processes", processes, 1)
    if slides:
        refuse_given(context, _ONLY_BAGS, "is for bags; leave out --slides")
    else:
        refuse_given(context, _ONLY_SLIDES, "is for slides; add --slides")
    if not with_record:
        refuse_given(context, _OF_RECORD, "is for a record; add --record")
    folder = output_folder(output_path)

    # Imported here: they take seconds, and a wrong option should not.
    from tiacrossfusion.simulation.bags import simulate_bags
    from tiacrossfusion.simulation.cohort_folder import TABLE
    from tiacrossfusion.simulation.planted import true_concordance
    from tiacrossfusion.simulation.record import VARIABLES, RecordOptions
    from tiacrossfusion.simulation.slides import simulate_slides

    record = None
    if with_record:
        by_value = missing_by == "value"
        record = RecordOptions(record_effect, record_product, correlation, missing, by_value, exact)
    if slides:
        size = (slide_size, slide_size)
        draw = partial(simulate_slides, size=size, mpp=mpp, processes=processes)
    else:
        draw = partial(
            simulate_bags,
            encoder_width=encoder_width,
            side=side,
            auc=auc,
            tissue=tissue,
            nuisance=nuisance,
        )
    cohort = draw(
        folder,
        n_patients,
        seed,
        scenario=scenario,
        strength=strength,
        censored_share=censored_share,
        slides_per_patient=slides_per_patient,
        record=record,
        progress=True,
    )
    kind = "slides" if slides else "bags"
    deaths = int(cohort.drop_duplicates("patient")["event"].sum())
    click.echo(
        f"{len(cohort)} {kind} of {n_patients} patients, {deaths} deaths observed: {folder / kind}"
    )
    click.echo(f"Table: {folder / TABLE}")
    best = true_concordance(cohort)
    click.echo(
        f"C-index of the true log-hazard, which no model can beat on average: {best:.3f}"
        if isfinite(best)
        else "C-index of the true log-hazard: none, no two patients can be compared"
    )
    bags, table = shlex.quote(str(folder / "bags")), shlex.quote(str(folder / TABLE))
    if slides:
        images = shlex.quote(str(folder / "slides"))
        click.echo(f"Next: tiacf extract --img-input {images} --output-path {bags}")
    trained = shlex.quote(str(folder / "trained"))
    click.echo(
        f"{'Then' if slides else 'Next'}: tiacf train --bags {bags} --table {table} "
        f"--time-unit months --output-path {trained}"
        + (f" --model joint-fusion --covariates {','.join(VARIABLES)}" if with_record else "")
    )
