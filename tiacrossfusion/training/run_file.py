"""`run.json`: settings and data of a training, compared when it is resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tiacrossfusion.cohorts.folds import read_folds, write_folds
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.atomic import write_text, writing
from tiacrossfusion.io.paths import is_there
from tiacrossfusion.training.plan import Plan

RUN, SPLITS = "run.json", "splits.csv"

_VERSIONED = ("tiacrossfusion", "torch", "lightning", "numpy", "pandas", "lifelines")


#: Settings that belong to single models.
_OF_MODELS: dict[str, Any] = {"models": True, "augmenting": True, "columns": {"site"}}


def _recipe(plan: Plan, model: str) -> dict[str, Any]:
    """Return the recipe of a network, and of what it is trained against where that comes from."""
    recipe = plan.config.recipe_of(model)
    found = asdict(recipe)
    if recipe.shift:
        found["sites"] = plan.config.columns.sites
    if recipe.stain and plan.config.augmenting.nuisance is not None:
        with plan.config.augmenting.nuisance.open("rb") as file:
            found["nuisance"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def open_folder(plan: Plan) -> None:
    """Make the folder of a training, or check that it holds one of the same data and settings but models.

    Raises:
        TiacfError: the folder holds something else, or cannot be written.
    """
    path = plan.folder / RUN
    record: dict[str, Any] = {
        # Models may be added, and what they are trained against is in their recipes.
        "config": plan.config.model_dump(mode="json", exclude=_OF_MODELS),
        "recipes": {model: _recipe(plan, model) for model in plan.networks},
        "tuning": None if plan.tuning is None else plan.tuning.model_dump(mode="json"),
        "table": {"name": plan.cohort.name, "sha256": plan.cohort.table.sha256},
        "messages": list(plan.messages),
        "versions": {name: version(name) for name in _VERSIONED},
    }
    if is_there(path):
        with _reading(path):
            earlier = json.loads(path.read_text(encoding="utf-8"))
            differs = _differences(earlier["config"], record["config"])
            if earlier.get("tuning") != record["tuning"]:
                differs.append("choice of settings (tiacf tune)")
            earlier_recipes = earlier["recipes"]
            recipes = record["recipes"] | earlier_recipes  # of all models in the folder
            for model in record["recipes"]:
                differs += _differences(recipes[model], record["recipes"][model], f"{model}: ")
            if earlier["table"]["sha256"] != plan.cohort.table.sha256:
                differs.append("table")
            elif not (plan.folder / SPLITS).is_file():  # killed before it was written
                write_folds(plan.folder / SPLITS, plan.folds)
            elif tuple(read_folds(plan.folder / SPLITS)) != plan.folds:
                differs.append("division of the patients")
        if differs:
            raise TiacfError(
                f"{plan.folder}: holds a run with another {' and '.join(differs)}; give another "
                "--output-path, or the same settings to go on"
            )
        if recipes != earlier_recipes:
            write_text(path, json.dumps(earlier | {"recipes": recipes}, indent=1) + "\n")
        return
    with writing(plan.folder):
        unfinished = set(plan.folder.glob(f".{RUN}.*.part"))  # killed while it was written
        there = set(plan.folder.iterdir()) if plan.folder.is_dir() else set()
    if there - unfinished:
        raise TiacfError(
            f"{plan.folder}: is not empty and holds no training run; give another --output-path"
        )
    write_text(path, json.dumps(record, indent=1) + "\n")
    write_folds(plan.folder / SPLITS, plan.folds)


def check_bags(folder: Path, sha256: str) -> None:
    """Refuse bags with other features than those the training was begun with; record them if new.

    Raises:
        TiacfError: they are other bags, or the file cannot be read.
    """
    path = folder / RUN
    with _reading(path):
        record = json.loads(path.read_text(encoding="utf-8"))
        begun_with = record.get("bags", {}).get("sha256")
    if begun_with is None:  # so far, models of covariates alone
        record["bags"] = {"sha256": sha256}
        write_text(path, json.dumps(record, indent=1) + "\n")
    elif begun_with != sha256:
        raise TiacfError(
            f"{folder}: holds a run on bags with other features; give another --output-path, or "
            "the same bags to go on"
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors about the file into one line."""
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
