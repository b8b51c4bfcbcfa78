"""Export RTMDet and RTMDet-Ins: distances from points, NMS, and masks by convolutions with kernels of each object."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import RTMDetInsHead, RTMDetInsSepBNHead, RTMDetSepBNHead
from mmdet.models.detectors import RTMDet
from mmdet.models.task_modules.coders import DistancePointBBoxCoder
from mmdet.models.task_modules.prior_generators import MlvlPointGenerator
from torch import Tensor

from .attention import grid_of
from .boxes import NONE, and_one_more, candidates, of_priors, suppress
from .module import BOXES, IMAGE_MASKS, ExportableModel, Requirements, is_plain, kind_of, nms_is_plain, of_detectors


class ExportableRTMDet(ExportableModel):
    """RTMDet, with masks or without."""

    parts = ("backbone", "neck", "dense_head")

    def __init__(self, model: RTMDet) -> None:
        super().__init__(model)
        self.dense_head = model.bbox_head
        self.settings = self.dense_head.test_cfg
        self.strides = [(int(x), int(y)) for x, y in self.dense_head.prior_generator.strides]
        self.divisor = max(self.divisor, *map(max, self.strides))  # its neck doubles and halves, and never rounds
        self.outputs = IMAGE_MASKS if isinstance(self.dense_head, RTMDetInsHead) else BOXES

    @classmethod
    def requirements(cls, model: RTMDet) -> Requirements:
        """Yield what has to hold."""
        head, priors = model.bbox_head, model.bbox_head.prior_generator
        yield from of_detectors(model)
        yield is_plain(head, RTMDetSepBNHead, RTMDetInsSepBNHead), f"a {kind_of(head)}"
        yield head.use_sigmoid_cls, "softmax in its head"
        yield type(priors) is MlvlPointGenerator and priors.offset == 0, f"the points of its {kind_of(priors)}"
        yield type(head.bbox_coder) is DistancePointBBoxCoder, f"a {kind_of(head.bbox_coder)}"
        for key in ("nms_pre", "max_per_img"):
            yield head.test_cfg.get(key, -1) > 0, f"no {key} of its head"
        yield nms_is_plain(head.test_cfg), f"nms={dict(head.test_cfg.nms)}"

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return the objects that are left by NMS."""
        head, settings = self.dense_head, self.settings
        classes = head.cls_out_channels
        logits, distances, *others = head(maps)
        kernels, prototypes = others if others else (distances, None)
        levels: list[tuple[Tensor, ...]] = []
        for stride, *found in zip(self.strides, logits, distances, kernels, strict=True):
            scores, prior, label = candidates(found[0], classes, settings["nms_pre"], score)
            points = _points(found[0], stride)[prior]
            lengths = of_priors(found[1], 4)[prior]
            own = of_priors(found[2], found[2].shape[1])[prior]
            levels.append((scores, label, points, lengths, own, torch.full_like(scores, stride[0])))
        scores, labels, points, lengths, own, strides = map(torch.cat, zip(*levels, strict=True))
        boxes = torch.cat((points - lengths[:, :2], points + lengths[:, 2:]), 1)
        if head.bbox_coder.clip_border:
            height, width = size.to(boxes.dtype).unbind()
            boxes = torch.minimum(boxes.clamp(min=0), torch.stack((width, height, width, height)))
        if (least := settings.get("min_bbox_size", -1)) >= 0:
            scores = torch.where((boxes[:, 2:] - boxes[:, :2] > least).all(1), scores, NONE)
        scores, index = suppress(boxes, scores, labels, settings["nms"]["iou_threshold"], settings["max_per_img"])
        if prototypes is None:
            kept = (scores > NONE).nonzero()[:, 0]
            return boxes[index[kept]], scores[kept], labels[index[kept]]
        scores, index = and_one_more(scores, index)  # there are always masks
        masks = self.masks(prototypes, own[index], points[index], strides[index])
        return boxes[index[:-1]], scores[:-1], labels[index[:-1]], masks[:-1]

    def masks(self, prototypes: Tensor, kernels: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Return logits (N, h, w) on the grid of the prototypes (1, C, h, w).

        Args:
            prototypes: What is convolved.
            kernels: Weights of all layers, then biases of all layers, (N, K).
            points: Where the objects were found, (N, 2).
            strides: Of the feature maps there, (N,).
        """
        head, (height, width) = self.dense_head, prototypes.shape[2:]
        places = _points(prototypes, self.strides[0])  # P,2
        relative = (points[:, None] - places[None]).transpose(1, 2) / (strides[:, None, None] * 8)  # N,2,P
        x = torch.cat((relative, prototypes.flatten(2) + torch.zeros_like(relative[:, :1])), 1)  # N,2+C,P
        count = len(head.weight_nums)
        parts = kernels.split([*head.weight_nums, *head.bias_nums], 1)
        for layer, (weight, bias) in enumerate(zip(parts[:count], parts[count:], strict=True)):
            x = weight.reshape(-1, bias.shape[1], weight.shape[1] // bias.shape[1]) @ x + bias[:, :, None]
            if layer < count - 1:
                x = x.relu()
        return x.reshape(-1, height, width)


def _points(features: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return the points x, y (H·W, 2) of the cells of a feature map (1, C, H, W), in pixels of the image."""
    x, y = (
        torch.arange(features.shape[axis], device=features.device).float() * step
        for axis, step in ((3, stride[0]), (2, stride[1]))
    )
    return grid_of(x, y)
