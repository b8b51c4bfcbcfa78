"""The layouts that weights have in files: where they stand, what they are called, and their shapes.

Pure functions over state dicts. A key under which a training code keeps its weights goes into `_KEYS`, the attribute of
a module around the model into `_AROUND`. The layout of a family's official file is declared by the family itself
(`official_layout` and what follows it in `backbones/base.py`), a new kind of resizing is an entry of `RESIZERS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor

from ..backbones.family import Rename, WeightSplit
from ..errors import CheckpointError

# Where training codes keep weights, in the order in which they are taken: MMEngine and Lightning, the official
# classification codes, DeepSpeed, others; moving averages last, since nothing says that they are the better ones.
_KEYS = (
    *("state_dict", "model", "module", "model_state_dict", "model_state", "net", "network", "params", "weights"),
    *("model_ema", "state_dict_ema", "ema", "ema_model", "ema_state_dict", "params_ema", "teacher", "student"),
)
_USUAL = ("", "state_dict", "model")  # which need no mention
# What torch.compile, FSDP and activation checkpointing put into names, wherever the wrapped module is.
_WRAPPED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Attributes that hold a whole model: of DistributedDataParallel, Lightning modules, self-supervised pairs.
_AROUND = ("module", "model", "net", "network", "model_ema", "ema_model", "ema", "teacher", "student")
_CLASSIFIER = {"backbone", "head", "fc", "classifier"}
_COUNTERS = ("steps", "n_averaged")  # next to the weights of MMEngine's and PyTorch's averaged models


def weight_sets(checkpoint: Mapping[str, Any]) -> dict[str, Mapping[str, Tensor]]:
    """Find all state dicts in a checkpoint by their keys, such as `model` or `ema.module`; first the one by default.

    The key is '' where the checkpoint is a state dict itself.
    """
    found = dict(_nested_sets(checkpoint, depth=2))
    rank = {key: position for position, key in enumerate(_KEYS)}
    order = sorted(found, key=lambda key: (rank.get(key.partition(".")[0], len(rank)), -len(found[key])))
    unknown = not order or order[0].partition(".")[0] not in rank
    if unknown and any(isinstance(value, Tensor) for value in checkpoint.values()):
        return {"": checkpoint}
    return {key: found[key] for key in order}


def _nested_sets(content: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    if "param_groups" in content:  # an optimizer's state
        return
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping):
            continue
        if any(isinstance(name, str) and isinstance(item, Tensor) and item.ndim for name, item in value.items()):
            yield key, value
        elif depth > 1:
            yield from ((f"{key}.{inner}", found) for inner, found in _nested_sets(value, depth - 1))


def weights_in(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
    """Return the state dict in a checkpoint or the checkpoint itself where it is one; None without any tensors."""
    return next(iter(weight_sets(checkpoint).values()), None)


def choose_weights(checkpoint: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    """Return a checkpoint whose only weights are those under a key, where :func:`weights_in` finds them.

    The key may also be what names of the usual weights begin with, such as `backbone`. A CheckpointError names the keys
    that there are, where it is none of them.
    """
    sets = weight_sets(checkpoint)
    chosen = sets.get(key) or below(next(iter(sets.values()), {}), key)
    if not chosen:
        there = ", ".join(filter(None, sets)) or "none by a key"
        raise CheckpointError(f"{source} has no weights under {key} (it has {there}): name one of these, or none.")
    outer = {name.partition(".")[0] for name in sets}
    rest = {} if "" in sets else {name: value for name, value in checkpoint.items() if name not in outer}
    return rest | {"state_dict": chosen}


def describe_choice(checkpoint: Mapping[str, Any]) -> str:
    """Say which of a checkpoint's weights are taken, where there are several or they are at an unusual place."""
    taken, *others = weight_sets(checkpoint) or [""]
    if taken == "state_dict" and "ema_state_dict" in others:
        others.remove("ema_state_dict")  # MMEngine's EMAHook: state_dict has the averages
    if others:
        return f"{taken} is taken, not {', '.join(others)} (FILE#{others[0]} takes that)"
    return "" if taken in _USUAL else f"{taken} is taken, its only weights"


def rename_key(name: str, rules: Sequence[Rename]) -> str | None:
    """Return the new name of a tensor after all rules in turn; None where one drops it."""
    for pattern, replacement in rules:
        if replacement is not None:
            name = re.sub(pattern, replacement, name)
        elif re.search(pattern, name):
            return None
    return name


def rename_keys(state: Mapping[str, Tensor], rules: Sequence[Rename]) -> dict[str, Tensor]:
    """Return tensors under their new names, as :func:`rename_key` gives them, in the same order."""
    renamed = {rename_key(key, rules): tensor for key, tensor in state.items()}
    return {name: tensor for name, tensor in renamed.items() if name is not None}


def split_joint(state: Mapping[str, Tensor], splits: Sequence[WeightSplit]) -> dict[str, Tensor]:
    """Split tensors that other layouts keep as one, such as the projections to queries, keys and values.

    One that cannot be cut into equal shares stays whole.
    """
    result = {}
    for name, tensor in state.items():
        pattern, parts = next((split for split in splits if re.search(split[0], name)), (None, ()))
        shares = sum(share for _, share in parts)
        if pattern is None or not tensor.ndim or len(tensor) % shares:
            result[name] = tensor
            continue
        rows = tensor.split([len(tensor) // shares * share for _, share in parts])
        result |= {re.sub(pattern, new, name): part for (new, _), part in zip(parts, rows, strict=True)}
    return result


def plain_names(state: Mapping[str, Tensor], backbone_alone: bool, parts: Collection[str] = ()) -> dict[str, Tensor]:
    """Return tensors by names without what wrappers add to them, and without the prefix of a model around a backbone.

    Args:
        backbone_alone: Whether a backbone is wanted. Classifiers keep theirs under `backbone.`, with nothing but a
            head; whole detectors have more parts and stay as they are.
        parts: Names of the model's own parts, which are no wrapper's.
    """
    plain = {_WRAPPED.sub("", name): tensor for name, tensor in state.items() if name not in _COUNTERS}
    while True:
        first = {name.partition(".")[0] for name in plain}
        if len(first) == 1 and first <= set(_AROUND) - set(parts):
            prefix = f"{first.pop()}."
        elif backbone_alone and "backbone" in first and first <= _CLASSIFIER:
            plain = {re.sub(r"^(fc|classifier)\.", "head.", name): tensor for name, tensor in plain.items()}
            prefix = "backbone."
        else:
            return plain
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}


def below(weights: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the tensors whose names begin with a prefix, without it; wrappers' parts of names may come before it."""
    prefix = prefix.rstrip(".") + "."
    for names in (weights, plain_names(weights, backbone_alone=False)):
        if inside := {name.removeprefix(prefix): t for name, t in names.items() if name.startswith(prefix)}:
            return inside
    return {}


def several_models(state: Mapping[str, Any], parts: Collection[str]) -> list[str]:
    """Return what names begin with where they are of several whole models, such as a student and a teacher."""
    first = {name.partition(".")[0] for name in state}
    return sorted(first, key=_AROUND.index) if len(first) > 1 and first <= set(_AROUND) - set(parts) else []


# Names of a Swin, and the official ones.
_HUGGING_FACE_SWIN: Sequence[Rename] = (
    (r"^swin\.", ""),
    (r"^encoder\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^embeddings\.", ""),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^hidden_states_norms\.stage(\d)\.", lambda match: f"norm{int(match[1]) - 1}."),
    (r"^classifier\.", "head."),
)
_OPENMMLAB_SWIN: Sequence[Rename] = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)


def is_swin(state: Mapping[str, Tensor]) -> bool:
    """Whether these are a Swin's weights in any layout that `official_swin` knows."""
    names = official_swin(state)
    attention = "layers.0.blocks.0.attn."
    return {f"{attention}qkv.weight", f"{attention}relative_position_bias_table"} <= names.keys() and (
        "msg_tokens" not in names  # of MSG-Transformer
    )


def official_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a Swin's weights from timm, Hugging Face or OpenMMLab in their official layout; others as they are."""
    if any(".layernorm_before." in name for name in state):
        state = rename_keys(state, _HUGGING_FACE_SWIN)
        joined: dict[str, Tensor] = {}
        for name, tensor in state.items():
            part = re.search(r"\.attn\.(query|key|value)\.", name)
            new = f"{name[: part.start()]}.attn.qkv.{name[part.end() :]}" if part else name
            joined[new] = torch.cat([joined[new], tensor]) if part and new in joined else tensor  # in this order
        return joined
    if any(".attn.w_msa." in name for name in state):
        state = rename_keys(state, _OPENMMLAB_SWIN)
        # Its unfold puts the four neighbors inside each channel, and columns first.
        return {name: _channels_last(t) if ".downsample." in name else t for name, t in state.items()}
    downsample = re.compile(r"^layers\.(\d+)\.downsample\.")
    stages = {int(match[1]) for name in state if (match := downsample.match(name))}
    if stages and 0 not in stages:  # timm's downsampling belongs to the stage that it leads to
        return {downsample.sub(lambda m: f"layers.{int(m[1]) - 1}.downsample.", n): t for n, t in state.items()}
    return dict(state)


def _channels_last(tensor: Tensor) -> Tensor:
    """Reorder the last axis, 4·C numbers, from (channel, row, column) to Swin's (column, row, channel)."""
    parts = tensor.unflatten(-1, (-1, 2, 2))  # …, C, dy, dx
    return parts.movedim(-3, -1).transpose(-3, -2).flatten(-3)  # …, dx, dy, C


def resize_position_bias(table: Tensor, shape: Size) -> Tensor | None:
    """Interpolate a relative position bias table, ((2·ws-1)², heads), for another ws (bicubic), as Swin's loader does.

    None where the heads differ or a side is no whole number.
    """
    if table.ndim != 2 or len(shape) != 2 or table.shape[1] != shape[1]:
        return None
    old, new = math.isqrt(table.shape[0]), math.isqrt(shape[0])
    if old**2 != table.shape[0] or new**2 != shape[0]:
        return None
    image = table.float().T.reshape(1, -1, old, old)  # 1, heads, 2·ws-1, 2·ws-1
    image = F.interpolate(image, size=(new, new), mode="bicubic", align_corners=False)
    return image.flatten(2)[0].T.to(table.dtype).contiguous()


def resize_kernel(kernel: Tensor, shape: Size) -> Tensor | None:
    """Surround a depth-wise kernel, (channels, 1, k, k), with zeros, which computes the same, or keep its middle.

    Its places are distances in tokens, so stretching it, as one stretches a table, would move what it looks at.

    Returns:
        None where more than k differs.
    """
    if kernel.ndim != 4 or kernel.shape[:2] != shape[:2]:
        return None
    (top, odd), (left, odd_too) = (divmod(shape[i] - kernel.shape[i], 2) for i in (2, 3))
    return None if odd or odd_too else F.pad(kernel, (left, left, top, top)).contiguous()  # negative: cut off


# Gives a tensor the shape that it has for another window size; None where it cannot. By the names that families use.
RESIZERS: dict[str, Callable[[Tensor, Size], Tensor | None]] = {
    "position_bias": resize_position_bias,
    "kernel": resize_kernel,
}
