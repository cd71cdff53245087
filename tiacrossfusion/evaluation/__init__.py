"""Evaluation: out-of-fold predictions, figures with intervals, comparison and report.

The names are loaded when they are first used: importing this room imports neither pandas nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiacrossfusion.evaluation.comparison import compare
    from tiacrossfusion.evaluation.measuring import evaluate
    from tiacrossfusion.evaluation.prediction_files import (
        read_predictions,
        write_predictions,
    )
    from tiacrossfusion.evaluation.predictions import FoldPredictions
    from tiacrossfusion.evaluation.report import write_report
    from tiacrossfusion.evaluation.scores import Comparison, Evaluation

_MODULES = {
    "Comparison": "scores",
    "Evaluation": "scores",
    "FoldPredictions": "predictions",
    "compare": "comparison",
    "evaluate": "measuring",
    "read_predictions": "prediction_files",
    "write_predictions": "prediction_files",
    "write_report": "report",
}

__all__ = [
    "Comparison",
    "Evaluation",
    "FoldPredictions",
    "compare",
    "evaluate",
    "read_predictions",
    "write_predictions",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
