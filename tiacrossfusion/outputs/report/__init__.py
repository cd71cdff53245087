"""Report: one page for a whole run, which opens in any browser and needs no network.

Each slide leaves a fragment when it is predicted; the page is put together from the fragments alone,
so that neither a resumed run nor a run on many machines opens a slide again. The names are loaded when
they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiacrossfusion.outputs.report.fragment import ReportSlide
    from tiacrossfusion.outputs.report.making import make_fragment
    from tiacrossfusion.outputs.report.writing import ReportRun, write_report

_MODULES = {
    "ReportRun": "writing",
    "ReportSlide": "fragment",
    "make_fragment": "making",
    "write_report": "writing",
}

__all__ = ["ReportRun", "ReportSlide", "make_fragment", "write_report"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
