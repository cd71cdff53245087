"""Checks of arguments, with errors of one line."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from tiacrossfusion.errors import ArgumentTypeError, ArgumentValueError


def at_least(option: str, value: int, smallest: int, largest: int = 1_000_000) -> None:
    """Refuse a count below the smallest that makes sense, or one that is a slip of the keyboard.

    Raises:
        UsageError: it is one, or no whole number.
    """
    _be_a(Integral, "whole number", option, value)
    if value < smallest:
        raise ArgumentValueError(f"{option} {value}: must be {smallest} or more")
    if value > largest:
        raise ArgumentValueError(f"{option} {value}: must be {largest} or less")


def usable_seed(option: str, value: int) -> None:
    """Refuse seeds that are not numbers of 32 bits, which all libraries take.

    Raises:
        UsageError: it is not.
    """
    at_least(option, value, 0, 2**32 - 1)


def positive(option: str, value: float | None) -> None:
    """Refuse a size that is zero, negative or not a number; None is not given.

    Raises:
        UsageError: it is one of these.
    """
    if value is None:
        return
    _be_a(Real, "number", option, value)
    if not 0 < value < float("inf"):
        raise ArgumentValueError(f"{option} {float(value):g}: must be a number above 0")


def one_scale(mpp: float | None, power: float | None) -> None:
    """Check the scale that is given for slides.

    Raises:
        UsageError: a number is not above 0, or the two contradict each other: 10 divided by mpp is about
            the power.
    """
    positive("mpp", mpp)
    positive("power", power)
    if mpp and power and not 5 <= mpp * power <= 20:
        raise ArgumentValueError(
            f"mpp {mpp:g} and power {power:g} contradict each other, {mpp:g} microns per pixel are "
            f"about {10 / mpp:.3g}x; leave one of them out"
        )


def usable_device(device: str) -> None:
    """Refuse a torch device that is unknown or not there.

    Raises:
        UsageError: it is.
    """
    import torch

    if not isinstance(device, str | torch.device):
        raise ArgumentTypeError(
            f"device: must be a name such as cpu or cuda, not {type(device).__name__}"
        )
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise ArgumentValueError(f"device {device}: {reason}; use the device cpu") from error


def _be_a(kind: type, words: str, option: str, value: Any) -> None:
    """Refuse other types than numbers; True and False are not numbers here."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ArgumentTypeError(f"{option}: must be a {words}, not {type(value).__name__}")
