"""The check of arguments that the functions of this room share."""

from tiacrossfusion.errors import UsageError


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise unless an argument has an allowed value.

    Args:
        condition: whether the value is allowed.
        name: of the argument.
        value: of the argument.
        allowed: the values to give instead, in words.

    Raises:
        UsageError: the value is not allowed.
    """
    if not condition:
        raise UsageError(f"{name} is {value}; give {allowed}.")


def check_seed(seed: int) -> None:
    """Raise a `UsageError` if a seed is negative."""
    require(seed >= 0, "seed", seed, "0 or a positive whole number")
