"""Slides, bundles and folders that several tests use."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from filelock import FileLock

# Small networks are fastest with one thread of torch, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell has what it runs in the background pass over Ctrl-C; the tests send it to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]

#: Makes a folder under a name unless it is there, by a function that is given it; returns the folder.
MadeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in `hostile/`, and put files with slow tests first.

    A worker of xdist takes whole files: a long one that begins last would leave the other workers idle.
    """
    slow: Counter[Path] = Counter()
    for item in items:
        if item.path.is_relative_to(REPOSITORY / "plugin_tests" / "hostile"):
            item.add_marker("hostile")
        slow[item.path] += any(item.iter_markers("slow")) + 2 * any(item.iter_markers("process"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Escape what UTF-8 cannot encode: workers of xdist send reports, with file names printed, as UTF-8."""
    return _encodable((yield))


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_encodable(item) for item in value)
    return value


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder beside the repository with data, golden numbers and tools, which may be absent."""
    path = REPOSITORY.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides, tables and weights, which is not part of the repository."""
    path = Path(os.environ.get("TIACF_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no test data at {path}; set TIACF_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def real_slides(shared_data: Path) -> Path:
    """Folder of real slides."""
    return shared_data / "slides"


@pytest.fixture(autouse=True)
def _quick_collections() -> None:
    """Leave imported libraries out of the garbage collection that follows each slide: it took longest."""
    if len(gc.get_objects()) > 100_000:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MadeOnce:
    """Makes a folder under a name and returns it; workers of xdist share what one of them made."""
    own = tmp_path_factory.getbasetemp()
    common = own if worker_id == "master" else own.parent

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        folder = common / name
        with FileLock(common / f"{name}.lock"):
            if not folder.exists():
                begun = common / f"{name}.begun"
                shutil.rmtree(begun, ignore_errors=True)
                begun.mkdir()
                make(begun)
                begun.rename(folder)
        return folder

    return made_once


@pytest.fixture(scope="session")
def simulated(made_once: MadeOnce) -> Path:
    """Folder with two small simulated slides: `low.svs` at 0.5 mpp and `high.svs` at 0.25 mpp."""
    from tiacrossfusion.simulation.parameters import TissueParameters
    from tiacrossfusion.simulation.slide import render_slide

    def draw(folder: Path) -> None:
        low, high = TissueParameters(0.1, 0.1, 0.1), TissueParameters(0.9, 0.9, 0.9)
        render_slide(folder / "low.svs", low, size=(1800, 1500), mpp=0.5, seed=1)
        render_slide(folder / "high.svs", high, size=(3000, 2600), mpp=0.25, seed=2)

    return made_once("simulated", draw)


@pytest.fixture(scope="session")
def small_slide(made_once: MadeOnce) -> Path:
    """A sound slide of 1000 x 800 pixels at 0.5 mpp with three levels, all of it tissue."""
    from tiacrossfusion.simulation.parameters import TissueParameters
    from tiacrossfusion.simulation.slide import render_slide

    def draw(folder: Path) -> None:
        middle = TissueParameters(0.5, 0.5, 0.5)
        render_slide(folder / "small.svs", middle, size=(1000, 800), mpp=0.5)

    return made_once("small", draw) / "small.svs"


@pytest.fixture(scope="session")
def blank(made_once: MadeOnce) -> Path:
    """A slide of glass with scanner noise and dust."""
    from tiacrossfusion.simulation.slide import blank_slide

    def draw(folder: Path) -> None:
        blank_slide(folder / "blank.svs", size=(3000, 2500), mpp=0.5, seed=0)

    return made_once("blank", draw) / "blank.svs"


@pytest.fixture(scope="session")
def demo_bundle():
    """The shipped demonstration model."""
    from tiacrossfusion.models.bundle import load_bundle

    return load_bundle("crossfusion-demo")


@pytest.fixture(scope="session")
def demo_encoder(demo_bundle):
    """The encoder of the demonstration model."""
    from tiacrossfusion.encoders.stored import load_encoder_of

    return load_encoder_of(demo_bundle.config.encoder)
