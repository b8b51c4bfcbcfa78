"""Official key layouts -> ours: pure functions over state dicts; the maps stand beside each family."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

# A sed script over names: every rule is applied in turn. A rule without replacement drops the tensor.
Rule = tuple[str, str | Callable[[re.Match], str] | None]


def rename_key(name: str, rules: Sequence[Rule]) -> str | None:
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


def rename_keys(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Rename the tensors of a state dict.

    Args:
        state: Tensors by name.
        rules: As :func:`rename_key` takes them.

    Returns:
        The tensors under their new names, in the same order, without those that a rule drops.
    """
    renamed = {rename_key(key, rules): tensor for key, tensor in state.items()}
    return {name: tensor for name, tensor in renamed.items() if name is not None}


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
