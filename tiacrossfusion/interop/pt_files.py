"""The authors' layout: a bare tensor (N, E) in `x5/pt_files/NAME.pt`, without coordinates."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.interop.scale_file import ScaleFile, as_features

#: Comment of the zip archive of a tensor file, by which this package recognises its own files.
_COMMENT = b"written by tiacrossfusion"


def read_pt(path: Path) -> ScaleFile:
    """Read a tensor of features. Nothing in the file is executed.

    Raises:
        TiacfError: the file is damaged, holds pickled objects, or something else than one tensor.
    """
    import torch

    from tiacrossfusion.io.tensor_files import load_tensors

    try:
        loaded = load_tensors(path)
    except pickle.UnpicklingError as error:
        raise TiacfError(
            f"{path}: is no file of tensors, or holds Python objects, which could run code and are "
            "not loaded; save the tensor of features alone with torch.save"
        ) from error
    except Exception as error:  # torch raises many kinds on a damaged file
        raise TiacfError(
            f"{path}: cannot be read as a tensor ({one_line(error)}); make it again"
        ) from error
    if not isinstance(loaded, torch.Tensor):
        raise TiacfError(
            f"{path}: holds a {type(loaded).__name__}, not one tensor (patches, width); "
            "save the tensor of features alone with torch.save"
        )
    if loaded.is_nested or loaded.is_quantized or loaded.layout is not torch.strided:
        raise TiacfError(
            f"{path}: holds a nested, quantised or sparse tensor; save the features as plain float32"
        )
    loaded = loaded.detach()  # numpy takes no tensor that requires gradients
    tensor = loaded[0] if loaded.ndim == 3 and len(loaded) == 1 else loaded
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float64):
        tensor = tensor.float()  # numpy has no bfloat16 and no float8
    features = as_features(
        tuple(tensor.shape), lambda start, stop: tensor[start:stop].numpy(), str(path)
    )
    return ScaleFile(path, "pt", features)


def write_pt(path: Path, features: np.ndarray) -> None:
    """Write features (N, E) as a float32 tensor."""
    import torch

    with path.open("wb") as file:  # given a path, torch hides why it could not write
        torch.save(torch.from_numpy(features.astype(np.float32)), file)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = _COMMENT


def is_own_pt(path: Path) -> bool:
    """Return whether this package wrote a tensor file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == _COMMENT
    except (OSError, zipfile.BadZipFile):
        return False
