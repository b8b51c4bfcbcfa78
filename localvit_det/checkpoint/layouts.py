"""The forms that weights have in files: where they stand, what they are called, and their shapes.

Pure functions over state dicts; the maps from official names to ours stand beside each family.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Size, Tensor

if TYPE_CHECKING:  # read before there are any operators to import backbones with
    from ..backbones.base import Parting, Rename

# MMEngine's own key, and the one of the official classification codes.
_KEYS = ("state_dict", "model")


def weights_in(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
    """The state dict in a checkpoint or the checkpoint itself where it is one; None without any tensors."""
    for content in (*(checkpoint.get(key) for key in _KEYS), checkpoint):
        if isinstance(content, Mapping) and any(isinstance(value, Tensor) for value in content.values()):
            return content
    return None


def rename_key(name: str, rules: Sequence[Rename]) -> str | None:
    """Rename one tensor.

    Args:
        name: Its name.
        rules: Regular expression and replacement (None: drop the tensor), applied in turn.

    Returns:
        The new name, None where a rule drops the tensor.
    """
    for pattern, replacement in rules:
        if replacement is not None:
            name = re.sub(pattern, replacement, name)
        elif re.search(pattern, name):
            return None
    return name


def rename_keys(state: Mapping[str, Tensor], rules: Sequence[Rename]) -> dict[str, Tensor]:
    """Rename the tensors of a state dict.

    Args:
        state: Tensors by name.
        rules: As :func:`rename_key` takes them.

    Returns:
        The tensors under their new names, in the same order, without those that a rule drops.
    """
    renamed = {rename_key(key, rules): tensor for key, tensor in state.items()}
    return {name: tensor for name, tensor in renamed.items() if name is not None}


def part_joint(state: Mapping[str, Tensor], partings: Sequence[Parting]) -> dict[str, Tensor]:
    """Part tensors that other layouts keep as one, such as the projections to queries, keys and values.

    Args:
        state: Tensors by name.
        partings: Regular expression, and the parts: a replacement of the name and its shares of the rows.

    Returns:
        The tensors with the parts in place of what they were; one that cannot be cut into equal shares stays whole.
    """
    parted = {}
    for name, tensor in state.items():
        pattern, parts = next((p for p in partings if re.search(p[0], name)), (None, ()))
        shares = sum(share for _, share in parts)
        if pattern is None or not tensor.ndim or len(tensor) % shares:
            parted[name] = tensor
            continue
        rows = tensor.split([len(tensor) // shares * share for _, share in parts])
        parted |= {re.sub(pattern, new, name): part for (new, _), part in zip(parts, rows, strict=True)}
    return parted


def plain_names(state: Mapping[str, Tensor], backbone_alone: bool) -> dict[str, Tensor]:
    """Names without the prefix of parallel training, and without the one of a classifier around a backbone.

    Args:
        state: Tensors by name.
        backbone_alone: Whether a backbone is wanted. MMPretrain's classifiers keep theirs under `backbone.`, beside
            nothing but `head.`; whole detectors have more parts and stay as they are.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if backbone_alone and {name.partition(".")[0] for name in plain} in ({"backbone"}, {"backbone", "head"}):
        return {name.removeprefix("backbone."): tensor for name, tensor in plain.items()}
    return plain


def fit_shapes(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the shape of their target where the same numbers are only laid out otherwise.

    A Linear's weight (out, in) is a 1×1 convolution's weight (out, in, 1, 1).

    Args:
        state: Tensors by name.
        target: Tensors with the wanted shapes.

    Returns:
        The tensors of ``state``; those that differ from their target in more than ones stay as they are.
    """
    fitted = {}
    for key, tensor in state.items():
        wanted = target.get(key)
        is_linear = wanted is not None and tensor.ndim == 2 and wanted.shape == (*tensor.shape, 1, 1)
        fitted[key] = tensor[..., None, None] if is_linear else tensor
    return fitted


def resize_position_bias(table: Tensor, shape: Size) -> Tensor | None:
    """Interpolate a relative position bias table (bicubic), as Swin's loader does.

    Args:
        table: Of shape ((2·ws-1)², heads).
        shape: The wanted one, for another ws.

    Returns:
        The new table, None where the heads differ or a side is no whole number.
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
    """Surround a depth-wise kernel with zeros, which computes the same, or keep its middle.

    Its places are distances in tokens, so stretching it, as one stretches a table, would move what it looks at.

    Args:
        kernel: Of shape (channels, 1, k, k), k odd.
        shape: The wanted one, for another k.

    Returns:
        The new kernel, None where more than k differs.
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
