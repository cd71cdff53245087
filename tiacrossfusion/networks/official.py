"""Loads checkpoints in the format of the CrossFusion authors' release."""

from __future__ import annotations

import pickle
import re
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.paths import is_file, is_there, missing
from tiacrossfusion.io.tensor_files import load_tensors
from tiacrossfusion.networks.crossfusion import CrossFusion
from tiacrossfusion.text import printable

# Released name -> our name, from the top of the network to its parts.
_PROJECTIONS = {
    "c_lin_proj": "project_coarse",
    "s_lin_proj": "project_source",
    "f_lin_proj": "project_fine",
}
_PROJECTION = {"0": "linear", "1": "norm"}
_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
_FEED_FORWARD = {"net.0": "expand", "net.3": "contract"}
_CROSS_ATTENTIONS = {"c_cross_attn": "cross_coarse", "f_cross_attn": "cross_fine"}
_TRANSFORMERS = {
    # released transformer, released LayerNorm after it -> ours, which holds that norm
    ("c_transformer", "c_transformer_ln"): "transform_coarse",
    ("s_transformer", "s_transformer_ln"): "transform_source",
    ("f_transformer", "f_transformer_ln"): "transform_fine",
    ("final_transformer", "final_ln"): "transform_final",
}
_TRANSFORMER_BLOCKS = {"pre_layers": "pre", "post_layers": "post"}
_TRANSFORMER_LAYER = {
    "0": "attention_norm",
    **{f"1.{theirs}": f"attention.{ours}" for theirs, ours in _ATTENTION.items()},
    "2": "feed_forward_norm",
    **{f"3.{theirs}": f"feed_forward.{ours}" for theirs, ours in _FEED_FORWARD.items()},
}
_POSITION = {"proj": "conv7", "proj1": "conv5", "proj2": "conv3"}
_CONV_PROCESSOR = {
    "conv3d": "mix",
    "conv_block.0.proj": "conv7",
    "conv_block.0.proj1": "conv5",
    "conv_block.0.proj2": "conv3",
    "conv_block.0.x_proj": "conv1",
    "linear.0": "linear",
    "linear.1": "norm",
}


def released_names(depth: int, *, projected: bool) -> dict[str, str]:
    """Map every parameter name of a released checkpoint to ours.

    Args:
        depth: L, layers in each block of a Pad-Transformer.
        projected: whether the features are projected: false when E == D.

    Returns:
        Released name to the name in `CrossFusion.state_dict()`, one to one.
    """
    modules = {"mlp_head.0": "head"}
    if projected:
        for theirs, ours in _PROJECTIONS.items():
            modules |= _below(theirs, ours, _PROJECTION)
    for theirs, ours in _CROSS_ATTENTIONS.items():
        modules |= _below(theirs, f"{ours}.attention", _ATTENTION)
        modules |= _below(f"{theirs}_ffn", f"{ours}.feed_forward", _FEED_FORWARD)
        modules[f"{theirs}_ln"] = f"{ours}.norm"
    for (theirs, their_norm), ours in _TRANSFORMERS.items():
        for their_block, our_block in _TRANSFORMER_BLOCKS.items():
            for i in range(depth):
                their_layer = f"{theirs}.{their_block}.layers.{i}"
                modules |= _below(their_layer, f"{ours}.{our_block}.{i}", _TRANSFORMER_LAYER)
        modules |= _below(f"{theirs}.ppeg", f"{ours}.position", _POSITION)
        modules[their_norm] = f"{ours}.norm"
    modules |= _below("conv_processor", "conv_processor", _CONV_PROCESSOR)

    names = {"cls_token": "class_token"}
    for theirs, ours in _CROSS_ATTENTIONS.items():
        names[f"{theirs}.scale_embeddings"] = f"{ours}.scale_embedding"
    for theirs, ours in modules.items():
        for parameter in ("weight", "bias"):
            names[f"{theirs}.{parameter}"] = f"{ours}.{parameter}"
    return names


def _below(theirs: str, ours: str, parts: dict[str, str]) -> dict[str, str]:
    """Put both sides of a map of parts below their parents."""
    return {f"{theirs}.{part}": f"{ours}.{name}" for part, name in parts.items()}


def load_official_checkpoint(path: str | PathLike[str], num_heads: int = 4) -> CrossFusion:
    """Load a checkpoint of the authors' release (MIT) into our network.

    Encoder width, embed_dim, depth and number of time bins are read off the shapes. The file may hold the
    bare state dict, or wrap it as `{"state_dict": ...}` or `{"model": ...}`, with names that begin with
    "module." or "model.". Nothing in the file is executed.

    Args:
        path: the `.pt` file.
        num_heads: H. It is in no shape, so a wrong divisor of embed_dim gives wrong predictions without an
            error. The released models have 4.

    Returns:
        In eval mode, on the CPU, in float32.

    Raises:
        TiacfError: the file is missing, is not a checkpoint, holds more than tensors, or its names or
            shapes are not CrossFusion's; or `num_heads` does not divide embed_dim.
    """
    path = Path(path)
    state = _unwrap(path, _read(path))

    width, embed_dim, depth, bins = _sizes(path, state)
    names = released_names(depth, projected=width != embed_dim)
    _check_names(path, state, names)

    # On "meta" no weights are drawn: they would be overwritten, and move the global seed.
    with torch.device("meta"):
        try:
            model = CrossFusion(width, embed_dim, num_heads, depth, bins)
        except UsageError as error:
            if num_heads < 1 or embed_dim % num_heads:  # the option is at fault, not the file
                raise
            raise TiacfError(f"{path}: {error}; no released model is like that") from error
    expected = model.state_dict()
    for theirs, ours in names.items():
        found, wanted = tuple(state[theirs].shape), tuple(expected[ours].shape)
        if found != wanted:
            raise TiacfError(
                f"{path}: {theirs} has shape {found}, the other weights ask for {wanted}: the "
                "checkpoint is inconsistent"
            )
    model.load_state_dict({names[name]: t.float() for name, t in state.items()}, assign=True)
    return model.eval()


def _read(path: Path) -> object:
    """Unpickle tensors and plain containers, and nothing else."""
    if not is_file(path):
        reason = "no file" if is_there(path) else missing(path)
        raise UsageError(f"{path}: {reason}; give a checkpoint")
    try:
        return load_tensors(path)
    except OSError as error:
        raise TiacfError(f"{path}: cannot be read ({error.strerror})") from error
    except pickle.UnpicklingError as error:
        raise TiacfError(
            f"{path}: refused, because it is no plain file of tensors and loading it could run "
            "code: save the model's state_dict() alone with torch.save"
        ) from error
    except Exception as error:  # bytes that are no checkpoint fail in many ways
        raise TiacfError(
            f"{path}: not a PyTorch checkpoint, or a damaged one ({one_line(error)}); get it again"
        ) from error


def _unwrap(path: Path, content: object) -> dict[str, Tensor]:
    """Take the state dict out of the usual wrappings and strip the usual prefixes."""
    for wrapping in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
    if not isinstance(content, dict) or not content:
        raise TiacfError(
            f"{path}: holds no state dict: save it with torch.save(model.state_dict())"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TiacfError(f"{path}: {name!r} is not a named tensor: save a bare state dict")
        if not value.is_floating_point():
            raise TiacfError(
                f"{path}: {printable(name[:80])} holds {value.dtype}: CrossFusion's weights are floats"
            )
        if not bool(value.float().isfinite().all()):  # float8 has no isfinite
            raise TiacfError(
                f"{path}: {printable(name[:80])} is not finite: the training failed, or the file is "
                "damaged"
            )
    state: dict[str, Tensor] = dict(content)
    # DataParallel ("module.") inside or outside of a training wrapper ("model.").
    for prefix in ("module.", "model.", "module."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _sizes(path: Path, state: dict[str, Tensor]) -> tuple[int, int, int, int]:
    """Read encoder width, embed_dim, depth and number of time bins off the shapes."""
    for name in ("cls_token", "mlp_head.0.weight"):
        if name not in state:
            raise TiacfError(f"{path}: not a CrossFusion checkpoint: it has no {name}")
    embed_dim = state["cls_token"].shape[-1:].numel()
    # Without a projection the features have the width of the network already.
    width = state.get("c_lin_proj.0.weight", state["cls_token"]).shape[-1:].numel()
    bins = state["mlp_head.0.weight"].shape[:1].numel()
    layer = re.compile(r"c_transformer\.pre_layers\.layers\.(\d+)\.")
    layers = {found[1] for name in state if (found := layer.match(name))}
    return width, embed_dim, max(1, len(layers)), bins


def _check_names(path: Path, state: dict[str, Tensor], names: dict[str, str]) -> None:
    """Refuse a checkpoint with weights too few or too many."""
    for what, odd in (
        ("lacks", names.keys() - state.keys()),
        ("adds", state.keys() - names.keys()),
    ):
        if odd:
            first = printable(", ".join(sorted(odd)[:3])[:300]) + (", ..." if len(odd) > 3 else "")
            raise TiacfError(
                f"{path}: {what} {len(odd)} of CrossFusion's {len(names)} weights: {first}"
            )
