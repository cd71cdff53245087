"""Reading weights files and loading them completely or not at all."""

import hashlib
import logging
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.paths import is_file, is_there, missing
from tiacrossfusion.io.tensor_files import load_tensors
from tiacrossfusion.text import printable

logger = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

#: First parts of keys that belong to classifiers in the files of timm, torchvision and TIAToolbox,
#: auxiliary ones included.
_HEADS = frozenset(
    ("fc", "classifier", "head", "heads", "head_dist", "last_linear", "AuxLogits", "aux1", "aux2")
)
#: A counter of training steps that inference does not use; files converted from elsewhere lack it.
_COUNTER = "num_batches_tracked"


def state_dict_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of the weights of `model`, which does not depend on the file format.

    Over the keys in sorted order, each with dtype, shape and bytes. `num_batches_tracked` is left
    out: it does not change what the model computes, and some files lack it.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if key.endswith(_COUNTER):
            continue
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{key}|{plain.dtype}|{tuple(plain.shape)}|".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_state_dict(path: Path) -> StateDict:
    """Read a weights file without running code from it.

    Wrappers (`state_dict`, `model`) and the prefixes of `DataParallel` and `torch.compile` are
    taken off.

    Returns:
        Tensors on the CPU, in the order of the file.

    Raises:
        TiacfError: the file is missing, of another kind, damaged, or holds no tensors.
    """
    suffix = path.suffix.lower()
    if suffix not in (".pt", ".pth", ".bin", ".safetensors"):
        raise UsageError(f"encoder weights {path}: expected a .pt, .pth, .bin or .safetensors file")
    if not is_file(path):
        reason = "no file" if is_there(path) else missing(path)
        raise UsageError(f"encoder weights {path}: {reason}; check --encoder-weights")
    try:
        if suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = load_tensors(path)
    except pickle.UnpicklingError as error:
        raise TiacfError(
            f"encoder weights {path}: holds more than tensors, and loading it could run code; "
            "save its state_dict() alone"
        ) from error
    except Exception as error:  # torch and safetensors raise a dozen kinds for damaged files
        raise TiacfError(
            f"encoder weights {path}: cannot be read as a weights file ({one_line(error)}); "
            "get it again"
        ) from error

    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    state = {
        key.removeprefix("module.").removeprefix("_orig_mod."): value
        for key, value in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not state:
        raise TiacfError(f"encoder weights {path}: holds no state dict")
    return state


def load_strictly(
    model: nn.Module,
    state: StateDict,
    *,
    source: str,
    heads: Iterable[str] = (),
    rename: Callable[[str], str] | None = None,
) -> None:
    """Load `state` into `model` completely, or refuse.

    Tried in turn: the keys as they are, the keys through `rename`, timm's own conversion of the
    architecture's original formats, and the order of the tensors when no key agrees.

    Args:
        model: without its classifier; on the meta device if nothing in it but the state is needed.
        state: from `read_state_dict`.
        source: file or page, for the message.
        heads: names of classifier modules of this model that the file may have in addition.
        rename: turns another convention's key into the model's.

    Raises:
        TiacfError: a tensor is missing, superfluous, or of another shape. The model is unchanged then.
    """
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(_COUNTER)}
    heads = tuple(heads)
    given = _without_heads(state, wanted, heads)
    found = _match(wanted, given)
    if found is None and rename is not None:
        renamed = {rename(key): value for key, value in state.items()}
        found = _match(wanted, _without_heads(renamed, wanted, heads))
    if found is None:
        converted = _converted_by_timm(model, state)
        found = converted and _match(wanted, _without_heads(converted, wanted, heads))
    if found is None:
        found = _match_by_order(wanted, given, source)
    if found is None:
        raise TiacfError(_complaint(wanted, given, source))
    if any(value.is_meta for value in wanted.values()):
        # A model built without memory takes the tensors over; half precision files exist.
        model.load_state_dict({key: value.float() for key, value in found.items()}, assign=True)
    else:
        model.load_state_dict(found, strict=False)  # counters keep the model's own value


def _without_heads(state: StateDict, wanted: StateDict, heads: tuple[str, ...]) -> StateDict:
    """Drop counters and classifiers that the model lacks."""
    prefixes = tuple(f"{head}." for head in heads)
    return {
        key: value
        for key, value in state.items()
        if key in wanted
        or not (
            key.endswith(_COUNTER) or key.partition(".")[0] in _HEADS or key.startswith(prefixes)
        )
    }


def _match(wanted: StateDict, given: StateDict) -> StateDict | None:
    if given.keys() == wanted.keys() and all(
        given[key].shape == value.shape for key, value in wanted.items()
    ):
        return given
    return None


def _converted_by_timm(model: nn.Module, state: StateDict) -> StateDict | None:
    """The architecture's own `checkpoint_filter_fn`, for weights as their authors published them.

    It may also resample positions and patch kernels to another size; such a result is thrown away,
    because the features would no longer be those of the published model.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or state.keys() == model.state_dict().keys():
        return None
    try:
        converted = convert(dict(state), model)
    except Exception as error:  # written for one format, it may stumble on another
        logger.debug("timm's conversion does not fit: %s", error)
        return None
    sizes = {value.numel() for value in state.values()}
    if any("embed" in key and value.numel() not in sizes for key, value in converted.items()):
        return None
    return converted


def _match_by_order(wanted: StateDict, given: StateDict, source: str) -> StateDict | None:
    """Pair tensors by position, as `timm.models.remap_state_dict` does, but only if it is certain.

    No key may agree, and shapes and last key parts (`weight`, `running_mean`) must agree one by
    one: batch norm has four tensors of one shape.
    """
    if len(wanted) != len(given) or wanted.keys() & given.keys():
        return None
    pairs = list(zip(wanted.items(), given.items(), strict=True))
    for (key, value), (other_key, other) in pairs:
        if value.shape != other.shape or key.rpartition(".")[2] != other_key.rpartition(".")[2]:
            return None
    logger.info("%s: keys of another library, matched by order and shape", source)
    return {key: other for (key, _), (_, other) in pairs}


def _complaint(wanted: StateDict, given: StateDict, source: str) -> str:
    shapes = [
        f"{key} is {tuple(given[key].shape)} and should be {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    missing = [key for key in wanted if key not in given]
    extra = [key for key in given if key not in wanted]
    parts = []
    labels = ("misses", "has unknown", "differs in shape in")
    for label, keys in zip(labels, (missing, extra, shapes), strict=True):
        if keys:
            first = printable(", ".join(keys[:3])[:300]) + (", ..." if len(keys) > 3 else "")
            parts.append(f"{label} {len(keys)} tensors ({first})")
    remedy = (
        "it is for another encoder: name the one it was made with"
        if len(missing) > len(wanted) // 2 or shapes
        else "it is incomplete, or of a variant that needs other --encoder options"
    )
    return f"encoder weights {source}: {'; '.join(parts)}; {remedy}"
