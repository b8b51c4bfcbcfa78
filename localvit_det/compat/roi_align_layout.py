"""RoIAlign of a compiled mmcv 2.x reads channels-last feature maps as if they were N×C×H×W in memory.

It takes the data pointer without looking at the strides, so the result is wrong without any error. Our
stand-in needs no such care.
"""

import functools
import importlib

import torch

from .requirements import has_compiled_operators


def install() -> None:
    """Makes the compiled `roi_align_forward` copy its inputs into the layout that it assumes."""
    if not has_compiled_operators():
        return
    extension = importlib.import_module("mmcv._ext")
    compiled = extension.roi_align_forward
    if hasattr(compiled, "__wrapped__"):
        return

    @functools.wraps(compiled)
    def roi_align_forward(input: torch.Tensor, rois: torch.Tensor, *args: object, **settings: object) -> None:
        compiled(input.contiguous(), rois.contiguous(), *args, **settings)

    extension.roi_align_forward = roi_align_forward
