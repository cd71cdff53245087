"""The settings of a training run: one schema for the command line, a file and Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.errors import TiacfError, UsageError, first_fault, one_line
from tiacrossfusion.io.paths import is_endless
from tiacrossfusion.networks.recipe import PAPER, Recipe
from tiacrossfusion.networks.registry import NETWORKS, OTHER_NAMES, model_names, recipe_of
from tiacrossfusion.survival import check_unit
from tiacrossfusion.text import printable
from tiacrossfusion.training.variants import AUGMENTATIONS, in_recipe, parts_of

#: Bytes of a file of settings; all of them take two thousand.
_LARGEST = 2**20


class NetworkSettings(BaseModel):
    """Sizes and dropout of a network; a network takes those that it has.

    Attributes:
        embed_dim: D, width inside the network; None for that of the network's recipe.
        num_heads: H, attention heads.
        depth: L, layers in each block of a Pad-Transformer.
        num_bins: K, time bins, holding equal numbers of the training patients' events.
        dropout: of feed-forward layers; None for that of the network's recipe.
        attention_dropout: of self-attention weights.
        standardise: bring the features of each scale to mean 0 and SD 1 over the training tokens. The
            moments become part of the model.
        sizes: other arguments of the constructors of networks, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embed_dim: int | None = Field(None, ge=1, le=8192)
    num_heads: int = Field(4, ge=1, le=256)
    depth: int = Field(1, ge=1, le=64)
    num_bins: int = Field(4, ge=1, le=100)
    dropout: float | None = Field(None, ge=0, lt=1)
    attention_dropout: float = Field(0.2, ge=0, lt=1)
    standardise: bool = True
    sizes: dict[str, int | float | str | bool] = Field(default_factory=dict)


class FittingSettings(BaseModel):
    """How weights are found: fields of `Recipe`, each None for the value of the network's own recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    loss: Literal["nll", "cox", "cross-entropy"] | None = None
    alpha: float | None = Field(None, ge=0, le=1)
    learning_rate: float | None = Field(None, gt=0, le=10)
    weight_decay: float | None = Field(None, ge=0, le=100)
    input_weight_decay: float | None = Field(None, ge=0, le=1000)
    patients_per_step: int | None = Field(None, ge=1, le=1_000_000)
    epochs: int | None = Field(None, ge=1, le=100_000)
    warm_up: int | None = Field(None, ge=0, le=100_000)
    patience: int | None = Field(None, ge=1, le=100_000)
    monitor: Literal["loss", "c-index"] | None = None
    gradient_clip: float | None = Field(None, gt=0)
    least_steps: int | None = Field(None, ge=1, le=1_000_000)
    statistics: bool | None = None
    cell_share: float | None = Field(None, gt=0, le=1)
    scale_dropout: float | None = Field(None, ge=0, lt=1)


class FusionSettings(BaseModel):
    """Models of slide and clinical record.

    Attributes:
        slide_model: the network of slides; None for the first network among the models, or "crossfusion".
        init: folder of `tiacf pretrain`, for late-fusion and joint-fusion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide_model: str | None = None
    init: Path | None = None


class ProtocolSettings(BaseModel):
    """Who is fitted, who stops the training and who is only predicted.

    Attributes:
        protocol: "nested" (test folds touched once, validation taken from the training part),
            "holdout" (one test part), or "official" (the authors' protocol, which selects and reports
            on the same part: optimistic).
        folds: number of test folds of "nested".
        validation_share: share of the patients outside the test part that stops the training.
        test_share: share of the patients in the test part of "holdout".
        repeats: how many times "nested" divides all patients anew; each patient is then tested as many times.
        splits: folder with the authors' `splits_<k>.csv`; needed for "official", possible for "nested".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["nested", "holdout", "official"] = "nested"
    folds: int = Field(5, ge=2, le=100)
    repeats: int = Field(1, ge=1, le=100)
    validation_share: float = Field(0.2, gt=0, lt=1)
    test_share: float = Field(0.2, gt=0, lt=1)
    splits: Path | None = None


class AugmentingSettings(BaseModel):
    """What networks are trained against, each beside plain training on the same folds.

    Attributes:
        augment: "shift" (differences between sites) and "stain" (changes that were measured).
        adversarial: a generator that is trained against the network.
        nuisance: file of the measured changes, for "stain".
        strength: largest change of a feature by the generator, in SDs of the training features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    augment: tuple[Literal["stain", "shift"], ...] = ()
    adversarial: bool = False
    nuisance: Path | None = None
    strength: float = Field(0.25, gt=0, le=10)

    @property
    def parts(self) -> tuple[str, ...]:
        """Return what networks are trained against, each once."""
        given = (*self.augment, *(["adversarial"] if self.adversarial else []))
        return tuple(part for part in AUGMENTATIONS if part in given)


class TrainingConfig(BaseModel):
    """All settings that decide the result of `tiacf train`, apart from the data.

    Attributes:
        models: names from `tiacrossfusion.networks.registry.model_names`; all share folds and settings. Of a
            network, "+shift", "+stain" and "+adversarial" may follow.
        time_unit: unit of the follow-up times.
        columns: names of the table's columns.
        drop_unusable: leave out, and count, what cannot be used instead of refusing the table.
        protocol: who is trained and tested.
        network: sizes and dropout.
        recipe: where settings that are not given come from: "network", each network's own recipe, or
            "paper", that of the CrossFusion paper for all.
        fusion: of models of slide and clinical record.
        fitting: loss and optimiser, where they are to differ from the recipe.
        augmenting: what networks are trained against besides.
        seed: of folds, initial weights, dropout and order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = ("crossfusion",)
    time_unit: str = Field(min_length=1)
    columns: Columns = Columns()
    drop_unusable: bool = False
    protocol: ProtocolSettings = ProtocolSettings()
    network: NetworkSettings = NetworkSettings()
    recipe: Literal["network", "paper"] = "network"
    fitting: FittingSettings = FittingSettings()
    fusion: FusionSettings = FusionSettings()
    augmenting: AugmentingSettings = AugmentingSettings()
    #: Each fold takes one of a thousand from it, in 32 bits.
    seed: int = Field(0, ge=0, le=4_000_000)

    def recipe_of(self, model: str, patients: int | None = None, devices: int = 1) -> Recipe:
        """Return how a network is trained: the settings that are given, the others from its recipe.

        Args:
            model: name of the network.
            patients: number of the training patients. If the epochs are not given and too few patients make
                fewer steps of the optimiser than the network needs, the epochs of the recipe are raised.
            devices: that share the patients of an epoch.
        """
        given = self.fitting.model_dump(exclude_none=True)
        sizes = self.network.model_dump(include={"embed_dim", "dropout"}, exclude_none=True)
        plain, parts = parts_of(model)
        recipe = PAPER if self.recipe == "paper" else recipe_of(plain)
        if patients is not None and "epochs" not in given:
            step = given.get("patients_per_step", recipe.patients_per_step)
            recipe = recipe.lengthened(math.ceil(patients / (devices * step)))
        return replace(recipe, **given, **sizes, **in_recipe(parts, self.augmenting.strength))

    @property
    def slide_model(self) -> str:
        """Return the network of slides in models of slide and record."""
        named = [model for model in self.models if model in NETWORKS]
        return self.fusion.slide_model or (named[0] if named else "crossfusion")

    @field_validator("time_unit")
    @classmethod
    def _plain(cls, unit: str) -> str:
        return check_unit(unit.strip())

    @field_validator("fusion")
    @classmethod
    def _network(cls, fusion: FusionSettings) -> FusionSettings:
        if fusion.slide_model is not None and fusion.slide_model not in NETWORKS:
            raise ValueError(f"slide_model {NETWORKS.unknown(fusion.slide_model)}")
        return fusion

    @field_validator("models")
    @classmethod
    def _known(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if not models:
            raise ValueError("no model; give at least one")
        models = tuple(OTHER_NAMES.get(model, model) for model in models)
        known = model_names()
        for model in models:
            if model not in known and model.split("+")[0] not in known:
                near = get_close_matches(model, known, n=1)
                hint = f'did you mean "{near[0]}"? ' if near else ""
                raise ValueError(f"unknown model {model!r}; {hint}known: {', '.join(known)}")
            parts_of(model)
        if len(set(models)) < len(models):
            raise ValueError("a model is named twice")
        return models


class _PlainLoader(yaml.SafeLoader):
    """Loads plain values with each name once, and no aliases: a few lines of them can expand to any size."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias before it is followed."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the values out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a name that is given twice: the first value would be lost."""
        settings = super().construct_mapping(node, deep=deep)
        if len(settings) < len(node.value):
            raise yaml.YAMLError("a setting stands twice in one place")
        return settings


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings, laid out as `TrainingConfig`; it need not have them all.

    Raises:
        TiacfError: there is no such file, or it is not a mapping in YAML.
    """
    try:
        if is_endless(path):
            raise UsageError(f"{path}: a pipe or a device is no file of settings; check --config")
        if path.is_file() and path.stat().st_size > _LARGEST:
            raise TiacfError(f"{path}: far too large for settings; check --config")
        text = path.read_text(encoding="utf-8")
        settings = yaml.load(text, _PlainLoader)  # noqa: S506 - it is a safe one
    except TiacfError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check --config") from error
    except Exception as error:  # yaml raises what making a value raises, or endless nesting
        raise TiacfError(f"{path}: not valid YAML ({one_line(error)}); mend the file") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise TiacfError(f"{path}: holds no settings by name; write lines such as `seed: 1`")
    return settings


def make_config(
    settings: dict[str, Any], source: str, options: Mapping[tuple[str, ...], str] | None = None
) -> TrainingConfig:
    """Check settings that are laid out as `TrainingConfig`.

    A message names their `source`, or the option of the command line that gave the setting.

    Raises:
        TiacfError: a key is unknown or a value does not fit; names the first.
    """
    try:
        return TrainingConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field, reason = first_fault(error)
        where = f"{source}: {field}"
        if option := (options or {}).get(tuple(map(str, first["loc"]))):
            where = f"{option} {printable(str(first['input'])[:80])}"
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{where}: unknown setting; remove it or mend its name") from None
        raise UsageError(f"{where}: {reason}") from None


def from_options(
    file: Path | None, options: Mapping[tuple[str, ...], tuple[str, Any]]
) -> TrainingConfig:
    """Combine options of the command line with a YAML file of settings, which they override.

    `options` are by the place of the setting: name and value of each that is given.

    Raises:
        TiacfError: the file cannot be read, or a value does not fit.
    """
    settings = read_settings(file) if file is not None else {}
    for place, (_, value) in options.items():
        within = settings
        for name in place[:-1]:
            within = within.setdefault(name, {})
            if not isinstance(within, dict):
                raise UsageError(f"{name}: holds no settings by name; mend the file of --config")
        within[place[-1]] = value
    if "time_unit" not in settings:
        raise UsageError(
            "--time-unit is missing; give the unit of the table's times, such as months"
        )
    names = {place: name for place, (name, _) in options.items()}
    return make_config(settings, "the options" if file is None else str(file), names)
