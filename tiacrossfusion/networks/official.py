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

# From our name of a weight to the released one: patterns and replacements, applied in this order.
_RELEASED = (
    (r"^class_token", "cls_token"),
    (r"^head", "mlp_head.0"),
    (r"^project_([csf])\w+\.linear", r"\1_lin_proj.0"),
    (r"^project_([csf])\w+\.norm", r"\1_lin_proj.1"),
    (r"^cross_([cf])\w+\.norm", r"\1_cross_attn_ln"),
    (r"^cross_([cf])\w+\.feed_forward", r"\1_cross_attn_ffn.net"),
    (r"^cross_([cf])\w+\.(attention\.)?", r"\1_cross_attn."),
    (r"\.scale_embedding$", ".scale_embeddings"),
    (r"^transform_final\.norm", "final_ln"),
    (r"^transform_final", "final_transformer"),
    (r"^transform_([csf])\w+\.norm", r"\1_transformer_ln"),
    (r"^transform_([csf])\w+", r"\1_transformer"),
    (r"\.(pre|post)\.", r".\1_layers.layers."),
    (r"\.attention_norm\.", ".0."),
    (r"\.attention\.", ".1."),
    (r"\.feed_forward_norm\.", ".2."),
    (r"\.feed_forward\.", ".3.net."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"\.out\.", ".out_proj."),
    (r"\.expand\.", ".0."),
    (r"\.contract\.", ".3."),
    (r"\.position\.", ".ppeg."),
    (r"^conv_processor\.mix", "conv_processor.conv3d"),
    (r"^conv_processor\.norm", "conv_processor.linear.1"),
    (r"^conv_processor\.linear\.(\D)", r"conv_processor.linear.0.\1"),
    (r"^conv_processor\.conv(\d)\.", r"conv_processor.conv_block.0.conv\1."),
    (r"\.conv7\.", ".proj."),
    (r"\.conv5\.", ".proj1."),
    (r"\.conv3\.", ".proj2."),
    (r"\.conv1\.", ".x_proj."),
)


def released_names(network: CrossFusion) -> dict[str, str]:
    """Return a network's names of its weights, by their names in a released checkpoint."""
    names = {}
    for name in network.state_dict():
        released = name
        for ours, theirs in _RELEASED:
            released = re.sub(ours, theirs, released)
        names[released] = name
    return names


def load_official_checkpoint(path: str | PathLike[str], num_heads: int = 4) -> CrossFusion:
    """Load a checkpoint of the authors' release (MIT).

    Encoder width, embed_dim, depth and number of time bins follow from the shapes of the weights. The file
    may hold the bare state dict, or wrap it as `{"state_dict": ...}` or `{"model": ...}`, with names that
    begin with "module." or "model.". No code in the file is executed.

    Args:
        path: the `.pt` file.
        num_heads: H; 4 in the released models. It does not follow from the weights, so another divisor of
            embed_dim gives wrong predictions without an error.

    Returns:
        The network in eval mode, on the CPU, in float32.

    Raises:
        TiacfError: the file is missing, is not a checkpoint, holds more than tensors, or its names or
            shapes are not CrossFusion's; or `num_heads` does not divide embed_dim.
    """
    path = Path(path)
    state = _unwrap(path, _read(path))

    width, embed_dim, depth, bins = _sizes(path, state)
    # On "meta" no weights are drawn, which would change the state of the global random generator.
    with torch.device("meta"):
        try:
            model = CrossFusion(width, embed_dim, num_heads, depth, bins)
        except UsageError as error:
            if num_heads < 1 or embed_dim % num_heads:  # the option is wrong, not the file
                raise
            raise TiacfError(f"{path}: {error}; no released model has this size") from error
    names, expected = released_names(model), model.state_dict()
    _check_names(path, state, names)
    for theirs, ours in names.items():
        found, wanted = tuple(state[theirs].shape), tuple(expected[ours].shape)
        if found != wanted:
            raise TiacfError(
                f"{path}: {theirs} has shape {found}, but {wanted} fits the other weights: the "
                "checkpoint is inconsistent"
            )
    model.load_state_dict({names[name]: t.float() for name, t in state.items()}, assign=True)
    return model.eval()


def _read(path: Path) -> object:
    """Unpickle tensors and plain containers only."""
    if not is_file(path):
        reason = "no file" if is_there(path) else missing(path)
        raise UsageError(f"{path}: {reason}; give a checkpoint")
    try:
        return load_tensors(path)
    except OSError as error:
        raise TiacfError(f"{path}: cannot be read ({error.strerror})") from error
    except pickle.UnpicklingError as error:
        raise TiacfError(
            f"{path}: refused, because it is not a plain file of tensors and loading it could run code: "
            "save only the model's state_dict() with torch.save"
        ) from error
    except Exception as error:  # other bytes than a checkpoint's fail in many ways
        raise TiacfError(
            f"{path}: not a PyTorch checkpoint, or a damaged one ({one_line(error)}); get it again"
        ) from error


def _unwrap(path: Path, content: object) -> dict[str, Tensor]:
    """Return the state dict without the usual wrappings and prefixes."""
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
    """Return encoder width, embed_dim, depth and number of time bins, from the shapes."""
    for name in ("cls_token", "mlp_head.0.weight"):
        if name not in state:
            raise TiacfError(f"{path}: not a CrossFusion checkpoint: it has no {name}")
    embed_dim = state["cls_token"].shape[-1:].numel()
    # Without a projection the features have the width of the network.
    width = state.get("c_lin_proj.0.weight", state["cls_token"]).shape[-1:].numel()
    bins = state["mlp_head.0.weight"].shape[:1].numel()
    layer = re.compile(r"c_transformer\.pre_layers\.layers\.(\d+)\.")
    layers = {found[1] for name in state if (found := layer.match(name))}
    return width, embed_dim, max(1, len(layers)), bins


def _check_names(path: Path, state: dict[str, Tensor], names: dict[str, str]) -> None:
    """Refuse a checkpoint with missing or additional weights."""
    for what, odd in (
        ("lacks", names.keys() - state.keys()),
        ("adds", state.keys() - names.keys()),
    ):
        if odd:
            first = printable(", ".join(sorted(odd)[:3])[:300]) + (", ..." if len(odd) > 3 else "")
            raise TiacfError(
                f"{path}: {what} {len(odd)} of CrossFusion's {len(names)} weights: {first}"
            )
