"""Whether an exported program computes what the network does: it runs, or it is not kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..layers import ceil_div
from .formats import Run

TOLERANCE = 1e-4  # of the norm of a map


@dataclass(frozen=True)
class Comparison:
    """How far a program is from the network at one size.

    Attributes:
        size: Height and width of the image, in pixels.
        error: The norm of the difference over that of the network's own map; of all maps the largest.
    """

    size: tuple[int, int]
    error: float


def compare(
    run: Run, model: nn.Module, sizes: Sequence[tuple[int, int]], batch: int = 1, channels: int = 3
) -> list[Comparison]:
    """Runs a program and a network on noise of several sizes.

    Args:
        run: The program.
        model: The network, in eval mode; its maps are what is right.
        sizes: Height and width of images.
        batch: Images.
        channels: Of an image.

    Raises:
        ExportError: The program does not run at a size, or computes something else.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for size in sizes:
        image = torch.randn(batch, channels, *size, generator=generator)
        try:
            with torch.no_grad():
                maps = run(image)
        # Runtimes raise whatever they like.
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise ExportError(
                f"The exported program does not run on an image of {_by(size)} ({text}): choose another format or a "
                "fixed size; no file was written."
            ) from error
        with torch.no_grad():
            found.append(Comparison(size, _distance(maps, model(image))))
        # Written so that NaN fails, too.
        if not found[-1].error <= TOLERANCE:
            raise ExportError(
                f"The exported program is wrong on an image of {_by(size)}: its maps differ by {found[-1].error:.1e} "
                f"(at most {TOLERANCE:.0e} is rounding); choose another format or a fixed size; no file was written."
            )
    return found


def sizes_to_compare(size: tuple[int, int], window: int) -> list[tuple[int, int]]:
    """Sizes at which a program for any size has to be right.

    Three that windows do not divide, in the image and in the map of the first stage: near ``size``, half as large and
    turned, and lower and wider; and one whose windows are whole in all stages, where the network takes another way.
    """
    height, width = size
    odd = [(height, width), (max(width // 2, 1), max(height // 2, 1)), (max(height // 3, 1), width + width // 3)]
    return [(_odd(h, window), _odd(w, window)) for h, w in odd] + [(32 * window, 64 * window)]


def _odd(side: int, window: int) -> int:
    """The next side that is no multiple of 2 or the window, nor is the map of it in the first stage."""
    while side % 2 == 0 or side % window == 0 or ceil_div(side, 4) % window == 0:
        side += 1
    return side


def _distance(maps: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    if [m.shape for m in maps] != [e.shape for e in expected]:
        return float("inf")
    return max(float((m.double() - e.double()).norm() / e.double().norm()) for m, e in zip(maps, expected, strict=True))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]} pixels"  # noqa: RUF001
