"""A training run: models on the same folds, kept in a folder in which a killed run is resumed.

- `run.json`: configuration, versions, hashes of the table and of the bags, what was left out
- `splits.csv`: fold, part and patient
- `models.csv`: figures of all models, and each against the first
- `<model>/fold-<k>/`: `metrics.csv` by epoch and `out_of_fold.csv` of the test patients
- `<model>/fold-<k>/bundle/`: model bundle of the fold, for `tiacf predict`
- `<model>/ensemble/`: bundle of all folds together
- `tuning/fold-<k>/`: of `tiacf tune`, `study.log` (Optuna's journal) and `trials.csv`
- `.features/`: uncompressed features of a cohort that does not fit into memory, until the run is finished
- `<model>/`: `out_of_fold.csv` of all folds, `evaluation.json`, pictures
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only

from tiacrossfusion.evaluation.scores import Evaluation
from tiacrossfusion.networks.registry import CLINICAL
from tiacrossfusion.training.augmented_models import check_features
from tiacrossfusion.training.bag_cache import BagCache
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.config import TrainingConfig
from tiacrossfusion.training.devices import Devices
from tiacrossfusion.training.fit import fit_model
from tiacrossfusion.training.fold import needed_of_bags
from tiacrossfusion.training.judge import judge_model
from tiacrossfusion.training.lock import alone_in
from tiacrossfusion.training.plan import Cohort, make_plan
from tiacrossfusion.training.run_file import check_bags, open_folder
from tiacrossfusion.training.space import Tuning
from tiacrossfusion.training.tuning import tuned_settings

#: Folder of the uncompressed features within that of a run.
CACHE = ".features"


class TrainingRun:
    """A run in a folder, new or resumed: plan, fit, judge.

    A folder with results of other settings, data or splits is refused; models may be added. `say` gets a
    line for each step. `cache` is a folder for uncompressed features that is kept; without it they are in the
    run's folder until it is finished.

    Attributes:
        plan: folds, models and places of the files.
        leader: whether this process writes. With several devices, Lightning starts the program once
            for each.

    Raises:
        TiacfError: the folds cannot be used, or the folder holds another run.
    """

    def __init__(
        self,
        folder: Path,
        cohort: Cohort,
        config: TrainingConfig,
        *,
        devices: Devices | None = None,
        cache: Path | None = None,
        say: Callable[[str], None] | None = None,
        tuning: Tuning | None = None,
        loggers: Sequence[str] = (),
        permutations: int = 0,
    ) -> None:
        """Make or check the folder."""
        self.plan = make_plan(Path(folder), cohort, config, tuning)
        self.leader = getattr(rank_zero_only, "rank", 0) == 0
        self._devices, self._say, self._loggers = devices or Devices(), say, loggers
        self._bags: CohortBags | None = None
        self._permutations = permutations
        self._keep_cache = cache is not None
        self._cache = BagCache(cache or self.plan.folder / CACHE)
        open_folder(self.plan)

    def train(self) -> dict[str, Evaluation]:
        """Train and judge all models that are not finished; returns their evaluations.

        Raises:
            TiacfError: another run works in the folder, or something went wrong.
        """
        evaluations = {}
        with alone_in(self.plan.folder) if self.leader else nullcontext():
            open_folder(self.plan)  # again: another run may have used the folder since
            if self.plan.networks:  # checked before any model is trained
                bags = self._bags_of(self.plan.networks[0])
                if self.plan.tuning is not None and bags is not None:
                    self._choose_settings(self.plan.tuning, bags)
            for model in self.plan.config.models:
                self.fit(model)
                if self.leader:
                    evaluations[model] = self.judge(model)
            if self.leader and not self._keep_cache:
                self._cache.remove()
        return evaluations

    def fit(self, model: str) -> None:
        """Train a model on the folds that are not finished, and predict their test patients.

        Raises:
            TiacfError: the folds that are finished were trained on other bags, or something went wrong.
        """
        fit_model(
            self.plan,
            model,
            self._bags_of(model),
            devices=self._devices,
            loggers=self._loggers,
            leader=self.leader,
            say=self._say or (lambda _: None),
            show_progress=self._say is not None,
        )

    def _choose_settings(self, tuning: Tuning, bags: CohortBags) -> None:
        """Choose the settings of each fold."""
        chosen = tuned_settings(
            self.plan, tuning, bags, devices=self._devices, say=self._say or (lambda _: None)
        )
        self.plan = replace(self.plan, tuned=chosen)

    def judge(self, model: str) -> Evaluation:
        """Write predictions, figures, pictures and the ensemble of a model whose folds are finished.

        Raises:
            TiacfError: a fold is damaged, or the folder cannot be written.
        """
        return judge_model(
            self.plan,
            model,
            self._bags_of(model),
            permutations=self._permutations,
            say=self._say or (lambda _: None),
        )

    def _bags_of(self, model: str) -> CohortBags | None:
        """Read and check the bags, once; None for a model that needs none."""
        if model == CLINICAL:
            return None
        if self._bags is None:
            bags = CohortBags(
                self.plan.bag_sources(),
                self.plan.covariates(),
                cache=self._cache,
                say=self._say or (lambda _: None),
                show_progress=self._say is not None,
            )
            slides = self.plan.cohort.table.slides
            bags.check_patients(dict(zip(slides.slide, slides.patient, strict=True)))
            for network in self.plan.networks:
                bags.check_inputs(network, needed_of_bags(network, self.plan.config))
            check_features(self.plan.networks, self.plan.config, bags.encoder)
            if self.leader:
                check_bags(self.plan.folder, bags.sha256)
            self._bags = bags
        return self._bags
