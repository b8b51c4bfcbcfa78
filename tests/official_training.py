"""Small networks with recorded outputs, gradients and statistics of the official codes, and what is kept of them.

Weights and images follow from names and shapes, as in :mod:`official_outputs`; everything is computed in float64.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from official_outputs import take
from torch import Tensor, nn

FILE = Path(__file__).parent / "data/official_training.npz"
CHANNELS, DEPTHS, HEADS = 32, (2, 2, 2, 2), (1, 2, 4, 8)
WINDOWS = {"ShuffleTransformer": 3, "DWNet": 7, "DynamicDWNet": 7, "IDynamicDWNet": 7}
# Of each tensor: single values, a sum with random signs, and the largest.
_POINTS = 4

Maps = Callable[[Tensor], list[Tensor]]


class Case(NamedTuple):
    """A network in one of its forms, at one size of images."""

    kind: str
    form: str  # 'classification' or 'detection'
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.form}-{self.height}x{self.width}"


CASES = (
    # There is no official detection code of Shuffle; its classifier needs sides that windows divide.
    Case("ShuffleTransformer", "classification", 96, 96),
    Case("ShuffleTransformer", "classification", 96, 192),
    *(
        Case(kind, *form)
        for kind in ("DWNet", "DynamicDWNet", "IDynamicDWNet")
        for form in (("classification", 64, 64), ("detection", 70, 90))
    ),
)


def record(
    net: nn.Module, maps_of: Maps, case: Case, official: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Run a network in eval mode and then in train mode, with a backward pass, and keep a little of every tensor.

    Args:
        net: In float64; its running statistics change.
        maps_of: Return the feature maps of all stages.
        case: Determines the images.
        official: Official names by those of ``net``; None where they are the same.

    Returns:
        One row per tensor: single values, a sum with random signs, the largest absolute value. By group: maps of both
        modes, gradients (of the images first, then by official name), running statistics (by official name).
    """
    name_of = official or {}
    images = 1.7 * take("images", 3 * 3 * case.height * case.width).view(3, 3, case.height, case.width).double()
    net.eval()
    with torch.no_grad():
        groups = {"eval": dict(enumerate(maps_of(images)))}
    net.train()
    maps = maps_of(images.requires_grad_())
    sum(take(f"loss {i}", m.numel()).double() @ m.reshape(-1) for i, m in enumerate(maps)).backward()
    groups["train"] = dict(enumerate(maps))
    gradients = {name_of.get(n, n): p.grad for n, p in net.named_parameters() if p.grad is not None}
    groups["gradients"] = {"": images.grad} | dict(sorted(gradients.items()))
    statistics = {name_of.get(n, n): b for n, b in net.named_buffers() if "running" in n}
    groups["statistics"] = dict(sorted(statistics.items()))
    return {group: np.stack([_row(str(n), t) for n, t in tensors.items()]) for group, tensors in groups.items()}


def _row(name: str, tensor: Tensor) -> np.ndarray:
    flat = tensor.detach().contiguous().flatten()
    chosen = (take(f"points of {name}", _POINTS).double().add(1) / 2 * flat.numel()).long()
    signs = take(f"signs of {name}", flat.numel()).double()
    return torch.cat((flat[chosen], (signs @ flat / flat.numel() ** 0.5)[None], flat.abs().max()[None])).numpy()


def difference(found: np.ndarray, recorded: np.ndarray) -> float:
    """Return the largest difference of any tensor, as a share of its largest value.

    Where that is zero up to rounding (gradients of biases before a BatchNorm), it is a share of the usual tensor's.
    """
    largest = recorded[:, -1:]
    return float((np.abs(found - recorded) / np.maximum(largest, 1e-3 * np.median(largest))).max())
