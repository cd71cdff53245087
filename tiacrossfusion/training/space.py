"""The settings that `tiacf tune` chooses, and from what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tiacrossfusion.errors import UsageError, first_fault
from tiacrossfusion.training.config import TrainingConfig, make_config, read_settings

#: Settings of networks that can be chosen: those that leave the architecture as it is, as the folds' networks
#: are joined to an ensemble. All others that can be chosen are of `FittingSettings`.
_OF_NETWORK = ("dropout", "attention_dropout")
_OF_FITTING = (
    *("alpha", "learning_rate", "weight_decay", "input_weight_decay", "patients_per_step"),
    *("epochs", "warm_up", "patience", "gradient_clip", "cell_share", "scale_dropout"),
)


class Dimension(BaseModel):
    """Values that a setting can take.

    Attributes:
        low: smallest value of a range; whole numbers on both ends are a range of whole numbers.
        high: largest value.
        log: draw evenly on a logarithmic scale.
        choices: the values one by one, instead of a range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[int | float | str | bool, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Dimension:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("give low and high, or choices")
        if self.choices is None and not float(self.low or 0) < float(self.high or 0):
            raise ValueError("low is not below high")
        if self.log and not float(self.low or 0) > 0:
            raise ValueError("a logarithmic range begins above 0")
        return self

    def holds(self, value: Any) -> bool:
        """Return whether a value is in the range, or one of the choices."""
        if self.choices is not None:
            return value in self.choices
        return isinstance(value, int | float) and bool(
            float(self.low or 0) <= value <= float(self.high or 0)
        )


#: The space without `--space`: what matters most for small cohorts (benchmarks/recipes.md).
DEFAULT_SPACE = {
    "learning_rate": Dimension(low=3e-4, high=1e-2, log=True),
    "weight_decay": Dimension(low=1e-3, high=1.0, log=True),
    "input_weight_decay": Dimension(low=1e-2, high=30.0, log=True),
    "dropout": Dimension(low=0.0, high=0.5),
}


class Tuning(BaseModel):
    """How settings are chosen.

    Attributes:
        trials: for each fold.
        inner_folds: of the patients outside a test part, in each of which a trial is trained once.
        space: setting by name, a field of `FittingSettings`, or "dropout" or "attention_dropout".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(20, ge=1, le=10_000)
    inner_folds: int = Field(3, ge=2, le=20)
    space: dict[str, Dimension] = Field(default_factory=lambda: dict(DEFAULT_SPACE), min_length=1)


def read_space(path: Path | None) -> dict[str, Dimension]:
    """Read a YAML file of settings and their values; None returns the default.

    Raises:
        TiacfError: the file cannot be read, a setting is unknown, or its values are wrong.
    """
    if path is None:
        return dict(DEFAULT_SPACE)
    given, space = read_settings(path), {}
    if not given:
        raise UsageError(
            f"{path}: names no setting; write lines such as `dropout: {{low: 0, high: 0.5}}`"
        )
    for name, values in given.items():
        if name not in (*_OF_NETWORK, *_OF_FITTING):
            known = ", ".join((*_OF_FITTING, *_OF_NETWORK))
            raise UsageError(f"{path}: {name} cannot be tuned; settings that can: {known}")
        try:
            space[name] = Dimension.model_validate(
                {"choices": values} if isinstance(values, list) else values
            )
        except ValidationError as error:
            field, reason = first_fault(error)
            raise UsageError(f"{path}: {name} {field}: {reason}") from None
    return space


def settings_of(config: TrainingConfig, values: Mapping[str, Any]) -> TrainingConfig:
    """Return settings with some values replaced.

    Raises:
        UsageError: a value does not fit.
    """
    settings = config.model_dump()
    for name, value in values.items():
        settings["network" if name in _OF_NETWORK else "fitting"][name] = value
    return make_config(settings, "--space")
