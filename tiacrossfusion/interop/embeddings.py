"""One vector a slide or patient, as slide encoders make them, becomes a bag with a single 20x token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.csv_table import read_csv
from tiacrossfusion.io.paths import is_folder, is_there, missing
from tiacrossfusion.slides.spec import SamplingSpec
from tiacrossfusion.text import examples

#: Name of the encoder where none is given.
UNKNOWN = "slide-embedding"

#: Names that files give to slides, and to the vectors.
_NAMES = (
    "slide",
    "slide_id",
    "slide_ids",
    "patient",
    "patient_id",
    "names",
    "filename",
    "filenames",
)
_VECTORS = ("embedding", "embeddings", "features", "feats", "slide_embedding", "x")
_TABLES = (".csv", ".csv.gz", ".csv.zip", ".parquet", ".pq")


@dataclass(frozen=True)
class SlideVector:
    """The vector (E,) of a slide or patient.

    Attributes:
        source: the file that it is from.
    """

    name: str
    vector: np.ndarray
    source: Path


def read_embeddings(path: Path) -> list[SlideVector]:
    """Read the vectors of slides or patients from a file, or from a folder with a file for each.

    - `.npz`, `.h5`: a vector for each name; or an array (N, E) beside an array of N names
    - CSV or Parquet: a column of names (slide, patient ...; else the first) and columns of numbers
    - a folder of `.npz`, `.npy` or `.h5` files, each with one vector, named like its slide

    Raises:
        TiacfError: it cannot be read, a name is there twice, vectors differ in length, or are not finite.
    """
    if is_folder(path):
        found = _of_folder(path)
    elif not is_there(path):
        raise UsageError(f"{path}: {missing(path)}; check --embeddings")
    elif path.name.lower().endswith(_TABLES):
        found = _of_table(path)
    else:
        found = _of_arrays(path, _arrays(path))
    if not found:
        raise UsageError(f"{path}: holds no vectors; give a file or a folder of slide embeddings")
    names = [item.name for item in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TiacfError(
            f"{path}: has two embeddings of {len(twice)} slides, such as {examples(twice)}; keep one of each"
        )
    widths = sorted({len(item.vector) for item in found})
    if len(widths) > 1:
        first = {width: next(i.name for i in found if len(i.vector) == width) for width in widths}
        shown = [f"{width} ({name})" for width, name in first.items()]
        raise TiacfError(
            f"{path}: embeddings have different lengths, {examples(shown)}; give those of one encoder"
        )
    odd = [item.name for item in found if not np.isfinite(item.vector).all()]
    if odd:
        raise TiacfError(
            f"{path}: embeddings of {len(odd)} slides are not finite, such as {examples(odd)}; mend or "
            "remove them"
        )
    return found


def embedding_bag(item: SlideVector, encoder: str | None) -> FeatureBag:
    """Return a bag whose only token, at 20x, is the vector; it has no position."""
    vector = item.vector.astype(np.float32)[None]
    provenance = Provenance(
        slide=item.name,
        slide_size=None,
        slide_hash=None,
        dimensions=None,
        mpp=None,
        power=None,
        offset=(0, 0),
        mask=None,
        sampling=SamplingSpec(),
        encoder=EncoderSpec(name=encoder or UNKNOWN, width=vector.shape[1]),
        versions={"tiacrossfusion": version("tiacrossfusion")},
        imported=f"slide embedding: {item.source}",
    )
    return FeatureBag({"20x": ScaleFeatures(vector, None, None)}, provenance)


def _of_folder(path: Path) -> list[SlideVector]:
    found = []
    for file in sorted(path.iterdir()):
        if file.suffix not in _READERS or file.name.startswith("."):
            continue
        arrays = _arrays(file)
        chosen = [arrays[name] for name in _VECTORS if name in arrays] or list(arrays.values())
        vectors = [
            array.reshape(-1) for array in chosen if array.size == max(array.shape, default=0)
        ]
        if len(vectors) != 1 or vectors[0].dtype.kind not in "fiu":
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise TiacfError(
                f"{file}: holds not one vector but {shapes}; features of patches are converted with --x20"
            )
        found.append(SlideVector(file.stem, vectors[0], file))
    return found


def _of_table(path: Path) -> list[SlideVector]:
    if path.name.lower().endswith((".parquet", ".pq")):
        try:
            frame = pd.read_parquet(path)
        except (ImportError, OSError, ValueError) as error:
            raise TiacfError(
                f"{path}: cannot be read ({one_line(error)}); save it as CSV, or pip install pyarrow"
            ) from error
        frame = frame.reset_index() if frame.index.name is not None else frame
    else:
        frame = read_csv(path, check="check --embeddings", low_memory=False)
    key = next((name for name in _NAMES if name in frame), frame.columns[0])
    if path.name.lower().endswith(_TABLES[:3]):
        frame[key] = read_csv(path, check="check --embeddings", converters={key: str})[key]
    numbers = frame.drop(columns=[name for name in (key, *_NAMES) if name in frame])
    text = [name for name in numbers if numbers[name].dtype.kind not in "fiu"]
    if text or numbers.empty:
        raise TiacfError(
            f"{path}: the column {text[0] if text else key!r} holds no numbers; give a column of names "
            "(slide or patient) and one for each element of the vectors"
        )
    values = numbers.to_numpy(np.float32)
    return [SlideVector(str(name), v, path) for name, v in zip(frame[key], values, strict=True)]


def _of_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> list[SlideVector]:
    names = next((arrays[name] for name in _NAMES if name in arrays), None)
    vectors = next((arrays[name] for name in _VECTORS if name in arrays), None)
    if names is not None and vectors is not None:
        texts = [n.decode() if isinstance(n, bytes) else str(n) for n in names.reshape(-1)]
        if vectors.ndim != 2 or len(texts) != len(vectors):
            raise TiacfError(
                f"{path}: {len(texts)} names for embeddings of the shape {vectors.shape}; give a row a name"
            )
        return [SlideVector(name, v, path) for name, v in zip(texts, vectors, strict=True)]
    odd = [
        f"{name} {array.shape}"
        for name, array in arrays.items()
        if array.size != max(array.shape, default=0) or array.dtype.kind not in "fiu"
    ]
    if odd:
        raise TiacfError(
            f"{path}: {examples(odd)} is no vector of numbers; give a vector for each name, or an array "
            f"{_VECTORS[0]} (N, E) beside an array {_NAMES[0]} of N names"
        )
    return [SlideVector(name, array.reshape(-1), path) for name, array in arrays.items()]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    read = _READERS.get(path.suffix)
    if read is None:
        raise UsageError(
            f"{path}: not a file of embeddings; give .npz, .h5, .csv or .parquet, or a folder of .npz, .npy "
            "or .h5"
        )
    try:
        return read(path)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise TiacfError(
            f"{path}: cannot be read ({one_line(error)}); check --embeddings"
        ) from error


def _of_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _of_npy(path: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, allow_pickle=False)}


def _of_h5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    with h5py.File(path, "r") as file:
        return {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset)}


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": _of_npz,
    ".npy": _of_npy,
    ".h5": _of_h5,
    ".hdf5": _of_h5,
}
