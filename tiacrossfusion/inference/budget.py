"""How much of slides is read: a share of the families, or until the answer is certain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tiacrossfusion.errors import UsageError
from tiacrossfusion.inference.sampling import families_for

if TYPE_CHECKING:
    from tiacrossfusion.models.bundle import ModelBundle

Choose = Literal["random", "focus"]
#: Half-width of an interval in standard deviations of the training risks, or until the group is certain.
Until = float | Literal["group"]

#: Networks that predict from means over the slide, for messages.
POOLING = "nested-fusion, mean-pool and abmil"


@dataclass(frozen=True)
class Budget:
    """How much of each slide is read. All 5x patches always are.

    Attributes:
        share: most of the families (a 5x patch with the 10x and 20x patches inside) that are read, 0 to 1;
            0 predicts from 5x alone. At least 16 are read, and all of slides with fewer.
        until: stop when the half-width of the interval is this many standard deviations of the training
            risks, or, with "group", when the risk group is certain.
        choose: families at random, or those from which 5x promises most ("focus").

    Raises:
        UsageError: a number is out of range, or the two do not go together.
    """

    share: float = 1.0
    until: Until | None = None
    choose: Choose = "random"

    def __post_init__(self) -> None:
        """Check the options."""
        families_for(self.share, 100)
        if self.until is not None:
            if self.until != "group" and not 0 < self.until < float("inf"):
                raise UsageError(
                    f"until is {self.until}: give a half-width in standard deviations of the training "
                    'risks, above 0, or "group"'
                )
            if self.choose == "focus":
                raise UsageError(
                    "until needs families at random: those chosen by focus have no standard error"
                )
            if self.share == 0:
                raise UsageError("until needs families to read: give a budget above 0, or none")

    @classmethod
    def of(cls, given: float | Budget) -> Budget:
        """Return a budget, from the share of families or as it is given."""
        return given if isinstance(given, Budget) else cls(given)

    @property
    def reads_all(self) -> bool:
        """Whether all families are read in any case."""
        return self.share == 1 and self.until is None

    def checked(self, load: Callable[[], ModelBundle]) -> Budget:
        """Return the budget, after a check that the model can predict from some of the families.

        Args:
            load: returns the model; called if not all is read.

        Raises:
            UsageError: it cannot, or lacks what 5x tells.
        """
        if self.reads_all:
            return self
        bundle = load()
        name = bundle.config.name
        if not bundle.network.pools_families:
            raise UsageError(
                f"{name} does not predict from means over the slide, so it needs all of it; models of "
                f"{POOLING} can read a part"
            )
        if bundle.from_coarse is None and (self.choose == "focus" or self.share == 0):
            what = "focus" if self.choose == "focus" else "a budget of 0"
            raise UsageError(
                f"{name} has not learnt what 5x tells, which {what} needs; run tiacf calibrate"
            )
        if self.until is not None and bundle.config.risk_reference is None:
            raise UsageError(f"{name} has no training risks, which --until needs; give --budget")
        return self


def parse_until(text: str) -> Until:
    """Return the value of `--until`.

    Raises:
        UsageError: it is neither a number nor "group".
    """
    if text == "group":
        return "group"
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--until {text}: give a half-width in standard deviations of the training risks, such as "
            "0.25, or group"
        ) from None
