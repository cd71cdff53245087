"""The steps of TIAToolbox's engines that a survival model cannot take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tiacrossfusion.errors import UsageError

Engine = TypeVar("Engine", bound=type)

#: Steps that run a network on batches of patches.
_STEPS = (
    "get_dataloader",
    "infer_patches",
    "infer_wsi",
    "post_process_patches",
    "post_process_wsi",
    "save_predictions",
    "save_predictions_as_zarr",
)


def without_patch_steps(engine: Engine) -> Engine:
    """Make the steps of an engine that work on batches of patches raise `UsageError`, as a decorator."""
    for name in _STEPS:
        setattr(engine, name, _refused(engine.__name__, name))
    return engine


def _refused(engine: str, name: str) -> Callable[..., None]:
    def refused(*args: Any, **kwargs: Any) -> None:  # noqa: ARG001
        raise UsageError(
            f"{engine}.{name}: survival is predicted from all patches of a slide at once, not from "
            "batches of patches; call run()"
        )

    refused.__name__ = name
    refused.__doc__ = "Raise UsageError: survival is predicted from all patches of a slide at once."
    return refused
