"""Which columns of a cohort table are read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: The command line's option for each field of `Columns`.
COLUMN_OPTIONS = {
    "slide": "--slide-column",
    "patient": "--patient-column",
    "time": "--time-column",
    "event": "--event-column",
    "entry": "--entry-time",
    "censorship": "--censorship-column",
    "covariates": "--covariates",
    "ordinal": "--ordinal",
    "patient_characters": "--patient-characters",
    "fold_by": "--fold-by",
    "site": "--site",
    "further": "--by, --cause",
}

#: `Columns.fold_by` and `Columns.site` that reads the site from TCGA's barcodes.
TCGA_SITE = "tcga-site"


class Columns(BaseModel):
    """Names of the columns of a cohort table.

    Attributes:
        slide: file names of the slides, with or without their ending. A table without this column
            stands for one slide a patient, named like the patient.
        patient: who the slide is of. The TCGA tables have "case_id".
        time: follow-up from diagnosis to the event or to the last contact.
        event: 1 where the event was observed, 0 where the patient was censored.
        censorship: used instead of `event` when given: 1 where the patient was censored.
        entry: times at which patients came under observation, where that is later than diagnosis (left
            truncation), on the scale of `time`; empty is 0.
        covariates: clinical columns to read besides; the same for all slides of a patient.
        ordinal: for a covariate with ordered levels, such as a stage, its levels from low to high; it is read
            as their numbers 0, 1, 2. Names of one level are separated by "|". Other values are refused,
            except text for a missing value (`cohorts.levels`).
        kinds: of covariates, "number", "skewed" (which enters as log(1 + value)) or "category", where they
            are to differ from what their values look like; those in `ordinal` are ordinals.
        units: of covariates, as text, which messages and models repeat.
        patient_characters: only that many first characters of the patient column name the patient; None
            takes the whole, or of TCGA barcodes the 12 that name the patient.
        further: other columns to read, such as those of subgroups; the same for all slides of a patient.
        fold_by: column of the sites, none of which is in two parts of a fold; "tcga-site" reads them from the
            barcodes of the patients.
        site: column of the sites where folds do not go by them; "tcga-site" as above. One of the two at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide: str = "slide"
    patient: str = "patient"
    time: str = "time"
    event: str = "event"
    censorship: str | None = None
    entry: str | None = None
    covariates: tuple[str, ...] = ()
    ordinal: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    kinds: dict[str, Literal["number", "skewed", "category"]] = Field(default_factory=dict)
    units: dict[str, str] = Field(default_factory=dict)
    patient_characters: int | None = Field(None, ge=1, le=1000)
    fold_by: str | None = None
    site: str | None = None
    further: tuple[str, ...] = ()

    @property
    def sites(self) -> str | None:
        """Return the column of the sites, "tcga-site", or None if they are not asked for."""
        return self.site if self.fold_by is None else self.fold_by

    @property
    def of_patients(self) -> tuple[str, ...]:
        """Return covariates and further columns, each once."""
        return tuple(dict.fromkeys((*self.covariates, *self.further)))
