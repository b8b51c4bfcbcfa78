"""Export segmentors of MMSegmentation: a class at every pixel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..fused import fused_copy
from .module import INPUTS, ExportableModel, Requirements, kind_of

_HEADS = ("UPerHead", "FPNHead")


class Segmentor(ExportableModel):
    """An encoder and a decode head, over the whole image at once."""

    inputs = INPUTS[:2]
    outputs = {  # noqa: RUF012 - read-only
        "logits": {1: "logits_height", 2: "logits_width"},
        "classes": {0: "height", 1: "width"},
    }
    parts = ("backbone", "neck", "decode_head")

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.settings = {}
        self.align_corners = model.align_corners
        self.decode_head = fused_copy(model.decode_head)  # in which modules are replaced
        _replace(self.decode_head)

    @classmethod
    def requirements(cls, model: Any) -> Requirements:
        head, given = model.decode_head, model.data_preprocessor
        yield kind_of(given) == "SegDataPreProcessor" and not given.test_cfg, f"test_cfg of its {kind_of(given)}"
        yield model.test_cfg.get("mode", "whole") == "whole", f"test_cfg.mode={model.test_cfg.get('mode')!r}"
        yield kind_of(head) in _HEADS and type(head).__module__.startswith("mmseg."), f"a {kind_of(head)}"
        yield model.out_channels > 1, "a single channel for its classes"

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Find the class of each pixel of an image as of detectors.

        Returns:
            Logits (classes, h, w) as the head makes them, on a grid stretched over ``image``; and the class of each
            pixel of ``image``, (H, W), int64, which means nothing in its padding.
        """
        logits = self.decode_head(self.feature_maps(image, size))
        whole = F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=self.align_corners)
        return logits[0], whole[0].argmax(0)


class AveragePooling(nn.Module):
    """Adaptive average pooling to `size` as products with constants: ONNX has none for images of any size."""

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = _pair(size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the means (B, C, h, w) of the cells of a feature map (B, C, H, W)."""
        rows, columns = (self.means(x, axis, count) for axis, count in zip((2, 3), self.size, strict=True))
        return rows @ x @ columns.transpose(0, 1)

    def means(self, x: Tensor, axis: int, count: int) -> Tensor:
        """Return weights (count, length) with which an axis is averaged."""
        length = x.shape[axis]
        cell, place = torch.arange(count, device=x.device)[:, None], torch.arange(length, device=x.device)
        # From floor(i·length/count) to ceil((i+1)·length/count).
        weights = ((place >= cell * length // count) & (place * count < (cell + 1) * length)).to(x.dtype)
        return weights / weights.sum(1, keepdim=True)


class Doubling(nn.Module):
    """Upsampling to twice the size, which MMSegmentation's own writes as numbers into a trace."""

    def __init__(self, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.mode, self.align_corners = mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Return a feature map (B, C, 2·H, 2·W)."""
        size = (2 * x.shape[2], 2 * x.shape[3])
        return F.interpolate(x, size=size, mode=self.mode, align_corners=self.align_corners)


def _replace(module: nn.Module) -> None:
    """Put operators that every exporter knows in place of two that are followed for one size only."""
    part: Any
    for name, part in module.named_children():
        if kind_of(part) == "AdaptiveAvgPool2d":
            module._modules[name] = AveragePooling(part.output_size)
        elif kind_of(part) == "Upsample" and getattr(part, "scale_factor", None) == 2:
            module._modules[name] = Doubling(part.mode, part.align_corners)
        else:
            _replace(part)
