"""Backbones as files for other runtimes: image in, maps out."""

from __future__ import annotations

import copy
import os

import torch

from ..backbones import LocalViT
from ..errors import ExportError
from .compare import Comparison, compare, sizes_to_compare
from .formats import Program, find_format, written

INPUT = "image"


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

    The program takes ``image`` (B, 3, H, W), normalised as the backbone was trained, and returns ``map0``, … as the
    backbone does. It is for a CPU or whatever else its runtime offers.

    Args:
        model: The backbone with its weights; it is left as it is.
        path: The file; of OpenVINO the .xml, beside which its .bin is written.
        format: 'onnx', 'openvino', 'torchscript' or 'torch_export'; by default what the ending of ``path`` says.
        size: Height and width of the image, in pixels.
        dynamic: Whether the program takes any height and width; else only ``size``.
        fuse: Fold the norms into the convolutions beside them.
        batch: Images, B, which the program always takes.

    Returns:
        At which sizes the program was compared, and its errors. With ``dynamic`` these are three that windows do not
        divide, and one that they do.

    Raises:
        ExportError: A package is missing, the format cannot hold the network, or the program is not right; no file
            is left.
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
    program = Program(
        module=copy.deepcopy(model).fuse() if fuse else model,
        inputs={INPUT: torch.randn(batch, channels, *example)},
        outputs=outputs,
        dynamic={INPUT: {2: "height", 3: "width"}, **axes} if dynamic else {},
    )
    with written(program, path, kind) as run:
        return compare(run, model, sizes_to_compare(size, window) if dynamic else [example], batch, channels)
