"""Export backbones: image in, feature maps out; what computes something else than the network is not kept."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..backbones import LocalViT
from ..errors import ExportError
from ..layers import ceil_div
from .formats import ExportSpec, Run, export_to, find_format, running

INPUT = "image"
TOLERANCE = 1e-4  # of the norm of a feature map


@dataclass(frozen=True)
class Comparison:
    """How far an exported model is from the network at one size."""

    size: tuple[int, int]  # height and width of the image, in pixels
    error: float  # the norm of the difference over that of the network's own feature map; of all of them the largest


def export_backbone(
    model: LocalViT,
    path: str | os.PathLike,
    format: str | None = None,
    size: tuple[int, int] = (800, 1333),
    dynamic: bool = True,
    fuse: bool = True,
    batch: int = 1,
) -> list[Comparison]:
    """Write a backbone to a file of another runtime, run that, and compare it with the backbone.

    The exported model takes ``image`` (B, 3, H, W), normalized as the backbone was trained, and returns ``map0``, … as
    the backbone does. It is for a CPU or whatever else its runtime offers.

    Args:
        model: The backbone with its weights; it is left as it is.
        path: The file; of OpenVINO the .xml, next to which its .bin is written.
        format: 'onnx', 'openvino', 'torchscript' or 'torch_export'; by default what the ending of ``path`` says.
        size: Height and width of the image, in pixels.
        dynamic: Whether the exported model takes any height and width; else only ``size``.
        fuse: Fold the norms into the convolutions next to them.
        batch: Images, B, which the exported model always takes.

    Returns:
        At which sizes the exported model was compared, and its errors. With ``dynamic`` these are three that windows
        do not divide, and one that they do.

    Raises:
        ExportError: A package is missing, the format cannot hold the network, or the exported model is not right; no
            file is left.
        OutputError: The file cannot be written.
    """
    if min(*size, batch) < 1:
        raise ExportError(f"size={tuple(size)} and batch={batch} must be numbers from 1 on.")
    kind = find_format(format, path)
    model = copy.deepcopy(model).cpu().float().eval()
    channels, window = model.in_channels, model.window_size
    # Followed at another size than all that are compared, at which each stage has more than one window along an axis:
    # exporters take a length of one for a constant.
    example = (32 * window + 35, 32 * window + 67) if dynamic else (size[0], size[1])
    outputs = [f"map{stage}" for stage in model.out_indices]
    axes = {name: {2: f"{name}_height", 3: f"{name}_width"} for name in outputs}
    spec = ExportSpec(
        module=copy.deepcopy(model).fuse() if fuse else model,
        inputs={INPUT: torch.randn(batch, channels, *example)},
        outputs=outputs,
        dynamic={INPUT: {2: "height", 3: "width"}, **axes} if dynamic else {},
    )
    with export_to(spec, path, kind) as run:
        return _compare_maps(run, model, _sizes_to_compare(size, window) if dynamic else [example], batch, channels)


def _compare_maps(
    run: Run, model: nn.Module, sizes: Sequence[tuple[int, int]], batch: int, channels: int
) -> list[Comparison]:
    """Run an exported model and its network on noise of several sizes.

    Raises:
        ExportError: The exported model does not run at a size, or computes something else.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for size in sizes:
        image = torch.randn(batch, channels, *size, generator=generator)
        with torch.no_grad():
            with running(size):
                maps = run(image)
            error = _distance(maps, model(image))
        # Written so that NaN fails, too.
        if not error <= TOLERANCE:
            raise ExportError(
                f"The exported model is wrong on an image of {size[0]}×{size[1]} pixels: its maps differ by "  # noqa: RUF001
                f"{error:.1e} (at most {TOLERANCE:.0e} is rounding); choose another format or a fixed size; no file "
                "was written."
            )
        found.append(Comparison(size, error))
    return found


def _sizes_to_compare(size: tuple[int, int], window: int) -> list[tuple[int, int]]:
    """Return sizes at which an exported model for any size has to be right.

    Three that windows do not divide, in the image and in the feature map of the first stage: near `size`, half as large
    and turned, and lower and wider; and one whose windows are whole in all stages, where the network computes
    differently.
    """
    height, width = size
    odd = [(height, width), (max(width // 2, 1), max(height // 2, 1)), (max(height // 3, 1), width + width // 3)]
    return [(_odd(h, window), _odd(w, window)) for h, w in odd] + [(32 * window, 64 * window)]


def _odd(side: int, window: int) -> int:
    """Return the next side that is no multiple of 2 or the window, nor is that of the first stage's feature map."""
    while side % 2 == 0 or side % window == 0 or ceil_div(side, 4) % window == 0:
        side += 1
    return side


def _distance(maps: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    if [m.shape for m in maps] != [e.shape for e in expected]:
        return float("inf")
    return max(float((m.double() - e.double()).norm() / e.double().norm()) for m, e in zip(maps, expected, strict=True))
