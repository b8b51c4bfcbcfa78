"""Initial weights, and where they are made."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_LIMIT = 5.0  # standard deviations


def trunc_normal_(tensor: Tensor, std: float = 0.02) -> Tensor:
    """Fill a tensor with normal numbers of mean 0, none beyond five standard deviations.

    The official codes cut at an absolute 2.0. With such wide limits the inverse distribution function, which MMEngine
    and older versions of PyTorch use, gives exactly -2.0, 100 standard deviations, for one number in 2^24.

    Args:
        tensor: Filled in place, and returned.
        std: Standard deviation.
    """
    if tensor.is_meta:  # without numbers; PyTorch takes a quarter of a second for a tiny network
        return tensor
    with torch.no_grad():
        # Cut off, not drawn again: one number in 1.7 million, and nothing asks whether there is one, for which a GPU
        # would have to be waited for.
        return tensor.normal_(std=std).clamp_(-_LIMIT * std, _LIMIT * std)


def init_trunc_normal(*layers: nn.Conv2d) -> None:
    """Initialise layers with `trunc_normal_` weights and biases of 0."""
    for layer in layers:
        trunc_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def built_on(device: torch.device | str | None) -> AbstractContextManager[Any]:
    """Return a context in which modules are built on a device, on the current default for None."""
    return nullcontext() if device is None else torch.device(device)
