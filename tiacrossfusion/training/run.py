"""A training run: models on the same folds, kept in a folder that a killed run goes on in.

- `run.json`: configuration, versions, hashes of the table and of the bags, what was left out
- `splits.csv`: fold, part and patient
- `models.csv`: figures of all models, and each against the first
- `<model>/fold-<k>/`: `metrics.csv` by epoch and `out_of_fold.csv` of the test patients
- `<model>/fold-<k>/bundle/`: model bundle of the fold, for `tiacf predict`
- `<model>/ensemble/`: bundle of all folds together
- `<model>/`: `out_of_fold.csv` of all folds, `evaluation.json`, pictures
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.fabric.utilities.rank_zero import rank_zero_only

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cohorts.folds import (
    Fold,
    check_folds,
    holdout_fold,
    nested_folds,
    read_folds,
    write_folds,
)
from tiacrossfusion.cohorts.matching import match_bags
from tiacrossfusion.cohorts.splits import given_folds, official_folds, read_splits
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.evaluation.comparison import compare
from tiacrossfusion.evaluation.evaluation_files import read_evaluation
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.prediction_files import TABLE as PREDICTIONS
from tiacrossfusion.evaluation.prediction_files import read_predictions, write_predictions
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.report import STAGING, write_evaluation
from tiacrossfusion.evaluation.scores import Evaluation
from tiacrossfusion.io.atomic import write_text, writing
from tiacrossfusion.io.paths import is_there
from tiacrossfusion.io.text import printable
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.networks.registry import COX_COVARIATES
from tiacrossfusion.survival import quantile_bins, risk_of, survival_curve
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.config import ProtocolSettings, TrainingConfig
from tiacrossfusion.training.covariates import CoxCovariates
from tiacrossfusion.training.lock import alone_in

RUN, SPLITS, MODELS = "run.json", "splits.csv", "models.csv"
BUNDLE, ENSEMBLE = "bundle", "ensemble"

_VERSIONED = ("tiacrossfusion", "torch", "lightning", "numpy", "pandas", "lifelines")


@dataclass(frozen=True)
class Cohort:
    """Everything a run needs to know of its patients.

    Attributes:
        name: of the cohort, for titles and model cards.
        table: follow-up.
        sources: a bag, or the path of one, for each slide; empty for models of covariates only.
    """

    name: str
    table: CohortTable
    sources: Mapping[str, Path | FeatureBag]


def read_cohort(table: Path, bags: Path | None, config: TrainingConfig) -> Cohort:
    """Read a table and find the bags of its slides.

    Args:
        table: follow-up, CSV or Parquet.
        bags: folder of bag stores; None for models of covariates only.
        config: names the columns, and whether what cannot be used may be left out.

    Raises:
        TiacfError: the table is at fault, or slides have no bag.
    """
    checked = read_table(
        table, config.columns, config.time_unit, drop_unusable=config.drop_unusable
    )
    name = printable(table.stem)
    if bags is None:
        return Cohort(name, checked, {})
    checked, sources = match_bags(checked, find_bags(bags), drop_missing=config.drop_unusable)
    return Cohort(name, checked, sources)


def make_folds(
    table: CohortTable, settings: ProtocolSettings, seed: int
) -> tuple[list[Fold], list[str]]:
    """Divide the patients as a protocol says.

    Returns:
        The folds, and what does not fit between given splits and the table, one line each.

    Raises:
        TiacfError: the protocol lacks its splits, or a split does not serve.
    """
    if settings.protocol == "holdout":
        if settings.splits is not None:
            raise UsageError("--splits with --protocol holdout: leave one of them out")
        fold = holdout_fold(table, settings.test_share, settings.validation_share, seed=seed)
        return [fold], []
    if settings.splits is None:
        if settings.protocol == "official":
            raise UsageError(
                "--protocol official takes the authors' splits; give their folder with --splits"
            )
        return nested_folds(table, settings.folds, settings.validation_share, seed=seed), []
    splits = read_splits(settings.splits, table)
    messages = [line for split in splits for line in split.messages()]
    if settings.protocol == "official":
        return official_folds(splits), messages
    return given_folds(splits, table, settings.validation_share, seed=seed), messages


class TrainingRun:
    """A run in a folder, new or resumed.

    Args:
        folder: made when it does not exist.
        cohort: the patients.
        config: settings. A folder with results of other settings, data or splits is refused; models may
            be added.
        devices: where networks are trained; None takes the first device.
        say: gets a line for each step; None is silent.

    Raises:
        TiacfError: the folds do not serve, or the folder holds another run.
    """

    def __init__(
        self,
        folder: Path,
        cohort: Cohort,
        config: TrainingConfig,
        *,
        devices: Any | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Make or check the folder."""
        self.folder, self.cohort, self.config = Path(folder), cohort, config
        self.devices, self._show = devices, say is not None
        self._say = say or (lambda _: None)
        self._bags: CohortBags | None = None
        self.folds, messages = make_folds(cohort.table, config.protocol, config.seed)
        check_folds(self.folds, cohort.table, config.network.num_bins)
        self.messages = [*cohort.table.messages(), *messages]
        # With several devices, Lightning starts this program once for each; the first one writes.
        self.leader = getattr(rank_zero_only, "rank", 0) == 0
        self.optimistic = any(fold.optimistic for fold in self.folds)
        if COX_COVARIATES in config.models and not config.columns.covariates:
            raise UsageError(f"{COX_COVARIATES} needs covariates; name columns with --covariates")
        for model in config.models:
            if model != COX_COVARIATES and not cohort.sources:
                raise UsageError(f"{model} needs bags; give their folder with --bags")
        self._check_networks()
        self._open()

    def train(self) -> dict[str, Evaluation]:
        """Train and judge all models that are not finished; returns their evaluations.

        Raises:
            TiacfError: another run works in the folder, or something went wrong.
        """
        evaluations = {}
        with alone_in(self.folder) if self.leader else nullcontext():
            self._open()  # again: another run may have had the folder since
            for model in self.config.models:
                self.fit(model)
                if self.leader:
                    evaluations[model] = self.judge(model)
        return evaluations

    def fit(self, model: str) -> None:
        """Train a model on the folds that are not finished, and predict their test patients.

        Raises:
            TiacfError: the folds that are finished were trained on other bags, or something went wrong.
        """
        if self.leader:
            self._sweep(model)
        if model != COX_COVARIATES:
            self.bags()  # even if all folds are finished: they may be other bags than those had
        for number, fold in enumerate(self.folds, 1):
            place = self._fold_folder(model, fold)
            label = f"{model}, fold {fold.number} ({number} of {len(self.folds)})"
            if (place / PREDICTIONS).is_file():
                self._check_finished(model, place)
                self._say(f"{label}: finished before")
                continue
            self._say(
                f"{label}: {len(fold.train)} patients to train, "
                f"{len(fold.validation)} to stop by, {len(fold.test)} to test"
            )
            if model == COX_COVARIATES:
                write_predictions(place, [self._fit_covariates(fold)])
            else:
                self._fit_network(model, fold, place)

    def judge(self, model: str) -> Evaluation:
        """Write predictions, figures, pictures and the ensemble of a model whose folds are finished."""
        folds = self.predictions(model)
        place = self.folder / model
        evaluation = evaluate(folds, seed=self.config.seed, optimistic=self.optimistic)
        write_predictions(place, folds)
        curves = None if model == COX_COVARIATES else self._learning_curves(model)
        write_evaluation(
            place,
            folds,
            evaluation,
            title=f"{self.cohort.name}: {model}",
            learning_curves=curves,
            note="Research use only.",
        )
        if model != COX_COVARIATES and len(self.folds) > 1 and not self._has_ensemble(model):
            from tiacrossfusion.training.bundles import save_ensemble

            members = [self._fold_folder(model, fold) / BUNDLE for fold in self.folds]
            cohort = self.cohort
            save_ensemble(
                self.ensemble(model),
                members,
                model,
                cohort.name,
                cohort.table,
                self.bags(),
                evaluation,
            )
        self._write_models()
        return evaluation

    def predictions(self, model: str) -> list[FoldPredictions]:
        """Read the predictions of a model whose folds are finished."""
        predictions = []
        for fold in self.folds:
            place = self._fold_folder(model, fold)
            with _to_train_again(place):
                predictions += read_predictions(place)
        return predictions

    # Fitting ---------------------------------------------------------------------------------------

    def _fit_network(self, model: str, fold: Fold, place: Path) -> None:
        from tiacrossfusion.training.bundles import save_fold_bundle
        from tiacrossfusion.training.fold import fit_fold, wait_for_others
        from tiacrossfusion.training.patients import patient_hazards, patients_of

        training, validation, test = (
            patients_of(self.cohort.table, names)
            for names in (fold.train, fold.validation, fold.test)
        )
        fitted = fit_fold(
            model,
            self.config,
            self.bags(),
            training,
            validation,
            place,
            seed=self.config.seed * 1000 + fold.number,
            devices=self.devices,
            show_progress=self._show,
        )
        if self.leader:
            on_train = survival_curve(patient_hazards(fitted.network, self.bags(), training))
            on_test = survival_curve(patient_hazards(fitted.network, self.bags(), test))
            predictions = self._predictions(
                fold, risk_of(on_test), on_test, risk_of(on_train), fitted.bins
            )
            cohort = self.cohort
            save_fold_bundle(
                place / BUNDLE,
                model,
                cohort.name,
                cohort.table,
                self.bags(),
                fold,
                fitted,
                risk_of(on_train),
                predictions,
            )
            # An ensemble that is there was made with an earlier training of this fold.
            shutil.rmtree(self.ensemble(model), ignore_errors=True)
            write_predictions(place, [predictions])  # last: it marks the fold as finished
            self._sweep(model)
        wait_for_others()

    def _fit_covariates(self, fold: Fold) -> FoldPredictions:
        patients = self.cohort.table.patients
        training, test = patients.loc[list(fold.train)], patients.loc[list(fold.test)]
        bins = quantile_bins(
            training.time.to_numpy(float),
            training.event.to_numpy(int),
            self.config.network.num_bins,
            self.config.time_unit,
        )
        fitted = CoxCovariates(self.config.columns.covariates).fit(training)
        risks, survival = fitted.risk(test), fitted.survival(test, bins)
        for line in dict.fromkeys(fitted.messages):
            self._say(f"{COX_COVARIATES}, fold {fold.number}: {line}")
        return self._predictions(fold, risks, survival, fitted.risk(training), bins)

    def _predictions(
        self,
        fold: Fold,
        risks: np.ndarray,
        survival: np.ndarray,
        train_risks: np.ndarray,
        bins: Any,
    ) -> FoldPredictions:
        patients = self.cohort.table.patients
        training, test = patients.loc[list(fold.train)], patients.loc[list(fold.test)]
        return FoldPredictions(
            fold=fold.number,
            patients=tuple(fold.test),
            times=test.time.to_numpy(float),
            events=test.event.to_numpy(int),
            risks=risks,
            survival=survival,
            high=risks > np.median(train_risks),
            bins=bins,
            training_times=training.time.to_numpy(float),
            training_events=training.event.to_numpy(int),
        )

    def ensemble(self, model: str) -> Path:
        """Folder of the bundle of all folds together, if there is one."""
        return self.folder / model / ENSEMBLE

    def bags(self) -> CohortBags:
        """Read the bags, once.

        Raises:
            TiacfError: a bag cannot be used, or the run in the folder was begun with others.
        """
        if self._bags is None:
            used = {
                patient
                for fold in self.folds
                for patient in (*fold.train, *fold.validation, *fold.test)
            }
            slides = self.cohort.table.slides
            names = slides.slide[slides.patient.isin(used)]
            bags = CohortBags(
                {name: self.cohort.sources[name] for name in names}, show_progress=self._show
            )
            if self.leader:
                self._check_bags(bags)
            self._bags = bags
        return self._bags

    def _check_networks(self) -> None:
        """Refuse sizes of which one of the networks cannot be built, before the first is trained."""
        networks = [model for model in self.config.models if model != COX_COVARIATES]
        if networks:
            from tiacrossfusion.training.fold import check_network

            for model in networks:
                check_network(model, self.config)

    # Files -----------------------------------------------------------------------------------------

    def _sweep(self, model: str) -> None:
        """Remove what is of no use any more, and what a killed run was about to write."""
        from tiacrossfusion.training.fold import BEST, LAST

        for part in (*self.folder.glob(".*.part"), *(self.folder / model).rglob(".*.part")):
            part.unlink(missing_ok=True)
        for staging in (self.folder / model).glob(f"{STAGING}*"):
            shutil.rmtree(staging, ignore_errors=True)
        for fold in self.folds:
            place = self._fold_folder(model, fold)
            if (place / PREDICTIONS).is_file():
                for name in (LAST, BEST):
                    (place / name).unlink(missing_ok=True)

    def _fold_folder(self, model: str, fold: Fold) -> Path:
        return self.folder / model / f"fold-{fold.number}"

    def _learning_curves(self, model: str) -> dict[int, pd.DataFrame]:
        from tiacrossfusion.training.fold import METRICS

        return {
            fold.number: _read_metrics(self._fold_folder(model, fold) / METRICS)
            for fold in self.folds
        }

    def _check_finished(self, model: str, place: Path) -> None:
        """Refuse a fold that lost a file, or of which one was damaged, after it had been finished."""
        from tiacrossfusion.training.fold import METRICS

        with _to_train_again(place):
            read_predictions(place)
            if model != COX_COVARIATES:
                load_bundle(place / BUNDLE)
                _read_metrics(place / METRICS)

    def _has_ensemble(self, model: str) -> bool:
        """Tell whether the ensemble is there and whole; else it is made from its members."""
        try:
            load_bundle(self.ensemble(model))
        except TiacfError:
            return False
        return True

    def _write_models(self) -> None:
        """Write `models.csv` from all models that are judged, in the order in which they were named."""
        finished = {}
        for model in self.config.models:
            place = self.folder / model
            with suppress(TiacfError):  # not judged yet, or to be judged again: its turn will come
                finished[model] = read_evaluation(place).pooled, read_predictions(place)
        rows, first = [], ""
        for model, (pooled, predictions) in finished.items():
            row: dict[str, Any] = {
                "model": model,
                "patients": pooled.patients,
                "events": pooled.events,
            }
            for name, figure in (
                ("harrell_c", pooled.harrell_c),
                ("uno_c", pooled.uno_c),
                ("brier", pooled.brier),
            ):
                row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
            row["log_rank_p"] = pooled.risk_groups.log_rank_p
            first = first or model
            if model != first:
                difference = compare(finished[first][1], predictions, seed=self.config.seed)
                row |= {
                    f"{first}_minus_this": difference.difference.value,
                    "difference_low": difference.difference.low,
                    "difference_high": difference.difference.high,
                    "difference_p": difference.p,
                }
            rows.append(row)
        table = pd.DataFrame(rows)
        write_text(self.folder / MODELS, table.to_csv(index=False, lineterminator="\n"))

    def _open(self) -> None:
        """Make the folder, or check that it holds a run of the same settings and data."""
        record: dict[str, Any] = {
            "config": self.config.model_dump(mode="json", exclude={"models"}),
            "table": {"name": self.cohort.name, "sha256": self.cohort.table.sha256},
            "messages": self.messages,
            "versions": {name: version(name) for name in _VERSIONED},
        }
        if is_there(self.folder / RUN):
            with self._run_file():
                earlier = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
                differs = _differences(earlier["config"], record["config"])
                if earlier["table"]["sha256"] != self.cohort.table.sha256:
                    differs.append("table")
                elif not (self.folder / SPLITS).is_file():  # killed before it was written
                    write_folds(self.folder / SPLITS, self.folds)
                elif read_folds(self.folder / SPLITS) != self.folds:
                    differs.append("division of the patients")
            if differs:
                raise TiacfError(
                    f"{self.folder}: holds a run with another {' and '.join(differs)}; give another "
                    "--output-path, or the same settings to go on"
                )
            return
        with writing(self.folder):
            unfinished = set(self.folder.glob(f".{RUN}.*.part"))  # killed while it was written
            there = set(self.folder.iterdir()) if self.folder.is_dir() else set()
        if there - unfinished:
            raise TiacfError(
                f"{self.folder}: is not empty and holds no training run; give another --output-path"
            )
        write_text(self.folder / RUN, json.dumps(record, indent=1) + "\n")
        write_folds(self.folder / SPLITS, self.folds)

    def _check_bags(self, bags: CohortBags) -> None:
        """Refuse bags that are not those the run was begun with, or note what they are."""
        with self._run_file():
            record = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
            begun_with = record.get("bags", {}).get("sha256")
        if begun_with is None:  # so far, models of covariates alone
            record["bags"] = {"sha256": bags.sha256}
            write_text(self.folder / RUN, json.dumps(record, indent=1) + "\n")
        elif begun_with != bags.sha256:
            raise TiacfError(
                f"{self.folder}: holds a run on bags with other features; give another --output-path, or "
                "the same bags to go on"
            )

    @contextmanager
    def _run_file(self) -> Iterator[None]:
        """Say in one line what is wrong with the file of the run."""
        path = self.folder / RUN
        try:
            yield
        except OSError as error:
            raise TiacfError(
                f"{path}: cannot be read ({error.strerror or error}); check its rights"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TiacfError(
                f"{path}: damaged; remove the folder or give another --output-path"
            ) from error


@contextmanager
def _to_train_again(place: Path) -> Iterator[None]:
    """Add a way out to what is wrong with the files of a fold, which is no fault of the options."""
    try:
        yield
    except TiacfError as error:
        raise TiacfError(f"{error}; or remove {place} to have the fold trained again") from error


def _read_metrics(path: Path) -> pd.DataFrame:
    """Figures of the epochs of a fold.

    Raises:
        TiacfError: they are not there, or damaged.
    """
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise TiacfError(
            f"{path}: cannot be read ({one_line(error)}); take the file as training wrote it"
        ) from error


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the settings that differ."""
    names = []
    for name in {**one, **other}:
        left, right = one.get(name), other.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            names += _differences(left, right, f"{prefix}{name}.")
        elif left != right:
            names.append(prefix + name)
    return names
