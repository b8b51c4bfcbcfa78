"""Networks, weights and images with which outputs of official code were recorded, and what is kept of them.

Everything follows from names and shapes by formulas, so that no weights need to be stored.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FILE = Path(__file__).parent / "data/official_outputs.npz"
# Random numbers in [-1, 1), the same on every machine; a prime many, so that rows of no matrix repeat.
_NUMBERS = np.random.RandomState(0).random_sample(1_000_003).astype(np.float32) * 2 - 1
_POINTS, _SUMS = 48, 8


class Case(NamedTuple):
    """A network at one size of image."""

    kind: str
    arch: str
    height: int
    width: int
    form: str  # MSG: windows per side of a region, by stage; Twins: 'classification' or 'detection'

    def __str__(self) -> str:
        return f"{self.kind}-{self.arch}-{self.height}x{self.width}-{self.form}"


def cases() -> Iterator[Case]:
    """All that were recorded: each form of the smallest networks; the larger ones differ from them in numbers alone."""
    forms = ((224, 224, "4421"), (224, 448, "4421"), (448, 448, "4421"), (448, 448, "4442"))
    yield from (Case("MSGTransformer", "tiny", *form) for form in forms)
    yield from (Case("MSGTransformer", arch, *forms[0]) for arch in ("small", "base"))
    forms = tuple((*size, form) for form in ("detection", "classification") for size in ((224, 224), (256, 320)))
    for kind in ("TwinsPCPVT", "TwinsSVT"):
        yield from (Case(kind, "small", *form) for form in forms)
        yield from (Case(kind, arch, *forms[0]) for arch in ("base", "large"))


def weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values for all parameters of a network in its official layout.

    Args:
        state: Its state dict; only names and shapes are read, and integers stay.
    """
    return {name: _values(name, tensor) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _values(name: str, tensor: Tensor) -> Tensor:
    numbers = take(name, tensor.numel()).view(tensor.shape)
    if tensor.dim() == 1 and name.endswith(("weight", "running_var")):  # of norms
        return 0.2 * numbers + 1.0
    if "norm" in name and tensor.dim() == 1:
        return 0.2 * numbers
    if tensor.dim() < 2 or "relative_position" in name or "msg" in name:  # biases, tables, messengers
        return 0.3 * numbers
    return numbers * (3 / tensor[0].numel()) ** 0.5  # of unit gain


def image(height: int, width: int) -> Tensor:
    """(1, 3, H, W)."""
    return 1.7 * take("image", 3 * height * width).view(1, 3, height, width)


def take(name: str, count: int) -> Tensor:
    """Return ``count`` numbers in [-1, 1) that follow from a name."""
    start = zlib.crc32(name.encode()) % len(_NUMBERS)
    return torch.from_numpy(np.resize(np.roll(_NUMBERS, -start), count))


def digest(maps: Sequence[Tensor]) -> np.ndarray:
    """What is kept of the maps of all stages, (stages, points + sums + 1).

    Single values of each map, sums of it with random signs (as a share of how large they would be expected to be), and
    its largest value.
    """
    rows = []
    for stage, x in enumerate(maps):
        flat = x.detach().double().contiguous().flatten()
        chosen = (take(f"points of {stage}", _POINTS).double().add(1) / 2 * flat.numel()).long()
        signs = torch.stack([take(f"sum {i} of {stage}", flat.numel()).double() for i in range(_SUMS)])
        rows.append(torch.cat((flat[chosen], signs @ flat / flat.numel() ** 0.5, flat.abs().max()[None])))
    return torch.stack(rows).numpy()


def difference(found: np.ndarray, recorded: np.ndarray) -> float:
    """The largest of any stage, as a share of the stage's largest value."""
    return float((np.abs(found - recorded) / recorded[:, -1:]).max())
