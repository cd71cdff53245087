"""Judge a model whose folds are finished: figures, pictures, the ensemble, and all models in one table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pandas as pd

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.added_value import added_value
from tiacrossfusion.evaluation.clinic_files import ADDED_VALUE
from tiacrossfusion.evaluation.comparison import compare
from tiacrossfusion.evaluation.evaluation_files import read_evaluation
from tiacrossfusion.evaluation.judging import Judgement, write_judgement
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.partial_figure import recommendation
from tiacrossfusion.evaluation.prediction_files import read_predictions, write_predictions
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import CHANCE, AddedValue, Evaluation, figure_row
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.networks.registry import CLINICAL, FUSIONS
from tiacrossfusion.survival.dependence_on_variables import opposite
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.bundles import save_ensemble
from tiacrossfusion.training.fit import DEPENDENCE, or_train_again, read_metrics
from tiacrossfusion.training.fold import METRICS
from tiacrossfusion.training.partial_reading import PARTIAL
from tiacrossfusion.training.permutation import CHEAP, permutation_p
from tiacrossfusion.training.plan import BUNDLE, Plan
from tiacrossfusion.training.variants import is_network, parts_of, plain_of

MODELS = "models.csv"


def judge_model(
    plan: Plan,
    model: str,
    bags: CohortBags | None,
    *,
    permutations: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Write predictions, figures, pictures and the ensemble of a model whose folds are finished.

    `permutations` is the number for the test of models that are quickly fitted, 0 for none.

    Raises:
        TiacfError: a fold is damaged, or the folder cannot be written.
    """
    folds = fold_predictions(plan, model)
    place = plan.model_folder(model)
    evaluation = evaluate(folds, seed=plan.config.seed, optimistic=plan.optimistic)
    if permutations and model in CHEAP:
        p = permutation_p(plan, model, bags, folds, permutations, say)
        evaluation = evaluation.model_copy(
            update={"permutation_p": p, "permutations": permutations}
        )
    write_predictions(place, folds)
    curves = None
    if is_network(model):
        curves = {
            fold.number: read_metrics(plan.fold_folder(model, fold) / METRICS)
            for fold in plan.folds
        }
    dependence = []
    if model in (CLINICAL, *FUSIONS):
        for fold in plan.folds:
            path = plan.fold_folder(model, fold) / DEPENDENCE
            dependence.append(read_metrics(path).astype({"value": str}))
        notes = (*evaluation.notes, *opposite(dependence))
        evaluation = evaluation.model_copy(update={"notes": notes})
    parts = [
        read_metrics(path).astype({"patient": str, "slide": str})
        for fold in plan.folds
        if (path := plan.fold_folder(model, fold) / PARTIAL).exists()
    ]
    parts = [frame for frame in parts if len(frame)]
    if parts and evaluation.pooled.harrell_c.low > CHANCE:
        notes = (*evaluation.notes, *recommendation(parts))
        evaluation = evaluation.model_copy(update={"notes": notes})
    if plain_of(model) != model:
        notes = (*evaluation.notes, *_beside_plain(plan, model, folds))
        evaluation = evaluation.model_copy(update={"notes": notes})
    judged = Judgement(model, evaluation)
    if plan.config.columns.covariates and model != CLINICAL:
        covariates = plan.cohort.table.patients[list(plan.config.columns.covariates)]
        try:
            judged = replace(
                judged,
                added=added_value(folds, covariates, record=plan.record, seed=plan.config.seed),
            )
        except TiacfError as error:
            note = f"What the model adds to the covariates could not be computed: {error}"
            evaluation = evaluation.model_copy(update={"notes": (*evaluation.notes, note)})
            judged = replace(judged, evaluation=evaluation)
    write_judgement(
        place,
        folds,
        judged,
        title=f"{plan.cohort.name}: {model}",
        learning_curves=curves,
        dependence=dependence,
        parts=parts,
        settings=plan.config.model_dump(mode="json", exclude_none=True, exclude={"models"}),
    )
    if bags is not None and len(plan.folds) > 1 and not _is_bundle(plan, model):
        members = [plan.fold_folder(model, fold) / BUNDLE for fold in plan.folds]
        save_ensemble(plan.ensemble(model), members, model, plan.cohort, bags, evaluation)
    _write_models(plan)
    return evaluation


def fold_predictions(plan: Plan, model: str) -> list[FoldPredictions]:
    """Read the predictions of a model whose folds are finished.

    Raises:
        TiacfError: those of a fold are missing or damaged.
    """
    predictions = []
    for fold in plan.folds:
        place = plan.fold_folder(model, fold)
        with or_train_again(place):
            predictions += read_predictions(place)
    return predictions


def _beside_plain(plan: Plan, model: str, folds: list[FoldPredictions]) -> list[str]:
    """Return what the changes that a network was trained with do to its C; nothing without plain training."""
    plain, parts = parts_of(model)
    if plain not in plan.config.models:
        return []
    found = compare(folds, fold_predictions(plan, plain), seed=plan.config.seed)
    change = found.difference
    return [
        f"Trained against {' and '.join(parts)}: C less that of plain {plain} on the same folds is "
        f"{change.value:+.3f} (95 % interval {change.low:+.3f} to {change.high:+.3f}, p {found.p:.2g})."
    ]


def _is_bundle(plan: Plan, model: str) -> bool:
    """Return whether the ensemble is in place and whole; else it is made from its members."""
    try:
        load_bundle(plan.ensemble(model))
    except TiacfError:
        return False
    return True


def _write_models(plan: Plan) -> None:
    """Write `models.csv` from all models that are judged, in the order in which they were named."""
    finished = {}
    for model in plan.config.models:
        place = plan.model_folder(model)
        with suppress(TiacfError):  # not judged yet, or to be judged again
            finished[model] = read_evaluation(place).pooled, read_predictions(place)
    rows, first = [], next(iter(finished))
    for model, (pooled, predictions) in finished.items():
        row: dict[str, Any] = {"model": model, **figure_row(pooled)}
        with suppress(OSError, ValueError):
            added = AddedValue.model_validate_json(
                (plan.model_folder(model) / ADDED_VALUE).read_bytes()
            )
            ratio, gain = added.risk_adjusted, added.differences["harrell_c"]
            row |= {
                "adjusted_hazard_ratio": ratio.value,
                "adjusted_hazard_ratio_low": ratio.low,
                "adjusted_hazard_ratio_high": ratio.high,
                "likelihood_ratio_p": added.likelihood_ratio_p,
                "harrell_c_added": gain.value,
                "harrell_c_added_low": gain.low,
                "harrell_c_added_high": gain.high,
            }
        row["remark"] = "no better than chance" if pooled.harrell_c.low <= CHANCE else ""
        if model != first:
            difference = compare(finished[first][1], predictions, seed=plan.config.seed)
            row |= {
                f"{first}_minus_this": difference.difference.value,
                "difference_low": difference.difference.low,
                "difference_high": difference.difference.high,
                "difference_p": difference.p,
            }
        if (plain := plain_of(model)) != model and plain in finished:
            beside = compare(predictions, finished[plain][1], seed=plan.config.seed)
            row |= {
                "this_minus_plain": beside.difference.value,
                "this_minus_plain_low": beside.difference.low,
                "this_minus_plain_high": beside.difference.high,
                "this_minus_plain_p": beside.p,
            }
        rows.append(row)
    text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    write_text(plan.folder / MODELS, text)
