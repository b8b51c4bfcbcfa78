"""What the traceable forms of whole models have in common: they read the bytes of an image, padded, and its size.

MMDetection's own inference cannot be exported: it passes data samples, deep-copies configs, and branches on how much it
has found. The layers here are the model's own; what lies between them is written anew in plain operators, for those
models whose steps are known one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

INPUTS = ("image", "size", "score")
Axes = Mapping[str, Mapping[int, str]]
OBJECTS = "objects"
BOXES: Axes = {name: {0: OBJECTS} for name in ("boxes", "scores", "labels")}
MASKS: Axes = {**BOXES, "masks": {0: OBJECTS}}
IMAGE_MASKS: Axes = {**BOXES, "mask_logits": {0: OBJECTS, 1: "mask_height", 2: "mask_width"}}
Requirement = tuple[bool, str]  # whether it holds, and what the model has instead
Requirements = Iterator[Requirement]


class ExportableModel(nn.Module):
    """A model from an image to what it finds, which shares its layers."""

    inputs: Sequence[str] = INPUTS  # names of what `forward` takes
    outputs: Axes  # names of what it returns, with the axes whose lengths may differ and a name for each
    settings: Mapping[str, Any]  # the `test_cfg` of what finds objects in the end
    parts: ClassVar[tuple[str, ...]] = ("backbone", "neck")  # attributes that are layers, not what lies between them
    divisor: int  # of both sides of an image
    mean: Tensor | None
    std: Tensor | None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = model.backbone
        self.neck: Any = getattr(model, "neck", None)
        given: Any = model.data_preprocessor
        if isinstance(given, DetDataPreprocessor):
            self.swap, self.divisor = given._channel_conversion, int(given.pad_size_divisor)
        else:  # MMSegmentation's, which pads nothing in tests
            self.swap, self.divisor = given.channel_conversion, 1
        self.fill = fill_of(given)
        self.register_buffer("mean", given.mean if given._enable_normalize else None)
        self.register_buffer("std", given.std if given._enable_normalize else None)

    @classmethod
    def requirements(cls, model: nn.Module) -> Requirements:
        """Yield what has to hold for a model; here what has to for all detectors of MMDetection."""
        yield getattr(model, "neck", None) is not None, "no neck"
        yield plain(model.data_preprocessor, DetDataPreprocessor)

    def forward(self, image: Tensor, size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Find objects in one image.

        Args:
            image: (1, 3, H, W), uint8, the channels in the order in which the test pipeline reads them (BGR); H and W
                are multiples of the detector's divisor.
            size: Height and width of the image's own part, which begins at the left top corner, (2,), int64. What
                lies beyond is padding of any value.
            score: Objects have larger scores than this, (), float32.

        Returns:
            Boxes (N, 4), x1, y1, x2, y2 in pixels of ``image``; scores (N,), in descending order; labels (N,), int64;
            and, of detectors that make masks, either probabilities (N, h, w) on a grid stretched over each box, or
            logits (N, h, w) on one stretched over ``image``.
        """
        return self.detect(self.feature_maps(image, size), size, score)

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return the objects in feature maps, as :meth:`forward` does."""
        raise NotImplementedError

    def compute_in_half(self) -> None:
        """Let layers compute in fp16; what lies between them, and computes boxes, stays in fp32."""
        for part in filter(None, (getattr(self, name, None) for name in self.parts)):
            for layers in part if isinstance(part, nn.ModuleList) else [part]:
                layers.half()
                layers.register_forward_pre_hook(lambda _, given: tree_map_only(Tensor, Tensor.half, given))
                layers.register_forward_hook(lambda _, __, found: tree_map_only(Tensor, Tensor.float, found))

    def feature_maps(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of the neck, or of the backbone where there is none, (1, C, H_i, W_i) each."""
        x = image.to(torch.float32)
        if self.swap:
            x = x[:, [2, 1, 0]]
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        rows = torch.arange(x.shape[2], device=x.device)[:, None] < size[0]
        columns = torch.arange(x.shape[3], device=x.device)[None, :] < size[1]
        x = torch.where(rows & columns, x, self.fill)
        maps = self.backbone(x)
        return tuple(self.neck(maps) if self.neck is not None else maps)


def fill_of(preprocessor: Any) -> float:
    """Return the value of the padding that a preprocessor of MMDetection or MMSegmentation adds."""
    return float(preprocessor.pad_value if hasattr(preprocessor, "pad_value") else preprocessor.pad_val)


def plain(part: object, *kinds: type) -> Requirement:
    """Require that a part is of one of MMDetection's classes, plain or in a fused variant of ours.

    Other subclasses of MMDetection's may compute something else.
    """
    known = (base for base in type(part).__mro__ if base.__module__.startswith("mmdet."))
    return next(known, None) in kinds, f"a {kind_of(part)}"


def kind_of(module: object) -> str:
    """Return the name of a module's type."""
    return type(module).__name__
