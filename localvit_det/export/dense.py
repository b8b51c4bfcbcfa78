"""Export detectors with a dense head: anchors or points, NMS and RoIAlign between the detector's own layers.

They are RetinaNet, the R-CNNs, and RTMDet and RTMDet-Ins, whose masks are convolutions with kernels of each object.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import (
    AnchorHead,
    RetinaHead,
    RPNHead,
    RTMDetInsHead,
    RTMDetInsSepBNHead,
    RTMDetSepBNHead,
)
from mmdet.models.detectors import BaseDetector, FasterRCNN, RetinaNet, RTMDet
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator
from torch import Tensor, nn

from .boxes import (
    NONE,
    Anchors,
    RoIAligner,
    and_one_more,
    candidates,
    clip,
    corners_of_cells,
    decode,
    of_priors,
    suppress,
    without_small,
)
from .module import BOXES, IMAGE_MASKS, MASKS, ExportableModel, Requirement, Requirements, kind_of, plain


class AnchorDetector(ExportableModel):
    """What detectors with anchors have in common."""

    outputs = BOXES
    parts = ("backbone", "neck", "dense_head", "box_heads", "mask_heads")

    def __init__(self, model: BaseDetector, dense_head: AnchorHead) -> None:
        super().__init__(model)
        self.dense_head = dense_head
        self.settings = dense_head.test_cfg
        self.anchors = Anchors(dense_head.prior_generator)

    def dense_boxes(
        self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (R, 4), scores (R,), NONE where there is no box, and labels (R,), for a fixed R.

        Args:
            score: Boxes have larger scores; without one they are proposals, which are suppressed inside each level
                instead of each class.
        """
        head, settings = self.dense_head, self.dense_head.test_cfg
        classes = head.cls_out_channels
        levels: list[tuple[Tensor, ...]] = []
        for level, (logits, deltas, priors) in enumerate(zip(*head(maps), self.anchors(maps), strict=True)):
            scores, prior, label = candidates(logits, classes, settings["nms_pre"], score)
            group = torch.full_like(label, level) if score is None else label
            levels.append((scores, label, group, of_priors(deltas, 4)[prior], priors[prior]))
        scores, labels, groups, deltas, priors = map(torch.cat, zip(*levels, strict=True))
        boxes = decode(head.bbox_coder, priors, deltas, size)
        scores, index = suppress(boxes, without_small(boxes, scores, settings), groups, settings)
        return boxes[index], scores, labels[index]


class OneStage(AnchorDetector):
    """RetinaNet."""

    def __init__(self, model: RetinaNet) -> None:
        super().__init__(model, model.bbox_head)

    @classmethod
    def requirements(cls, model: RetinaNet) -> Requirements:
        yield from super().requirements(model)
        yield plain(model.bbox_head, RetinaHead)
        yield from _of_anchors(model.bbox_head)

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return what the dense head finds."""
        boxes, scores, labels = self.dense_boxes(maps, size, score)
        found = (scores > NONE).nonzero()[:, 0]
        return boxes[found], scores[found], labels[found]


class TwoStage(AnchorDetector):
    """Faster, Mask and Cascade R-CNN: one box head after the other, then the mean of all mask heads."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__(model, model.rpn_head)
        roi = model.roi_head
        self.settings = roi.test_cfg
        self.box_heads = nn.ModuleList(_several(roi.bbox_head))
        self.box_aligners = [RoIAligner(one) for one in _several(roi.bbox_roi_extractor)]
        self.mask_heads = nn.ModuleList(_several(roi.mask_head) if roi.with_mask else [])
        self.mask_aligners = [RoIAligner(one) for one in _several(roi.mask_roi_extractor)] if roi.with_mask else []
        self.outputs = MASKS if roi.with_mask else BOXES

    @classmethod
    def requirements(cls, model: FasterRCNN) -> Requirements:
        rpn, roi = model.rpn_head, model.roi_head
        yield from super().requirements(model)
        yield plain(rpn, RPNHead)
        yield from _of_anchors(rpn)
        yield plain(roi, StandardRoIHead, CascadeRoIHead)
        yield not roi.with_shared_head, "a shared head"
        yield roi.test_cfg.get("max_per_img", -1) > 0, "no max_per_img of its RoI head"
        yield _nms_is_plain(roi.test_cfg)
        for head in _several(roi.bbox_head):
            yield plain(head, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead)
            yield head.with_cls and head.with_reg, f"a {kind_of(head)} without classes or boxes"
            yield not head.custom_cls_channels and not head.custom_activation, f"the loss {kind_of(head.loss_cls)}"
            yield _coder_is_plain(head.bbox_coder)
        extractors = [*_several(roi.bbox_roi_extractor), *(_several(roi.mask_roi_extractor) if roi.with_mask else [])]
        for extractor in extractors:
            yield plain(extractor, SingleRoIExtractor)
            layer = extractor.roi_layers[0]
            yield isinstance(layer, RoIAlign) and layer.pool_mode == "avg", f"a {kind_of(layer)}"
        for head in _several(roi.mask_head) if roi.with_mask else []:
            yield plain(head, FCNMaskHead)

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return what the RoI heads find in the proposals."""
        proposals, objectness, _ = self.dense_boxes(maps, size)
        boxes, scores = self.classify(maps, proposals, objectness > NONE, size)  # R,classes,4 and R,classes
        classes = scores.shape[1]
        labels = torch.arange(classes, device=scores.device).repeat(scores.shape[0])
        boxes, scores = boxes.reshape(-1, 4), scores.reshape(-1)  # R·classes,4 and R·classes
        scores = torch.where(scores > score, scores, NONE)
        scores, index = suppress(boxes, scores, labels, self.settings)
        if not len(self.mask_heads):
            found = (scores > NONE).nonzero()[:, 0]
            return boxes[index[found]], scores[found], labels[index[found]]
        scores, index = and_one_more(scores, index)  # which the mask heads see
        boxes, labels = boxes[index], labels[index]
        return boxes[:-1], scores[:-1], labels[:-1], self.masks(maps, boxes, labels)[:-1]

    def classify(self, maps: tuple[Tensor, ...], rois: Tensor, valid: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (R, classes, 4) and scores (R, classes), NONE where a proposal (R, 4) is not valid."""
        stages: list[tuple[BBoxHead, RoIAligner]] = list(zip(self.box_heads, self.box_aligners, strict=True))
        *earlier, (head, aligner) = stages
        votes: list[Tensor] = []
        for one, its_aligner in earlier:
            logits, deltas, kinds = _apply(one, its_aligner(maps, rois))
            votes.append(logits)
            likeliest = logits[:, :-1].argmax(1) if kinds > 1 else torch.zeros_like(logits[:, 0], dtype=torch.long)
            chosen = deltas.gather(1, likeliest[:, None, None].expand(-1, 1, 4))[:, 0]  # R,4
            rois = decode(one.bbox_coder, rois, chosen, size)
        logits, deltas, kinds = _apply(head, aligner(maps, rois))
        priors = rois[:, None].expand(-1, kinds, 4).reshape(-1, 4)
        boxes = decode(head.bbox_coder, priors, deltas.reshape(-1, 4), size).reshape(-1, kinds, 4)
        scores = _mean([*votes, logits]).softmax(1)[:, :-1]
        return boxes.expand(-1, head.num_classes, 4), torch.where(valid[:, None], scores, NONE)

    def masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Return probabilities (R, h, w) that a place in a box (R, 4) belongs to an object of its class (R,)."""
        votes: list[Tensor] = []
        for head, aligner in zip(self.mask_heads, self.mask_aligners, strict=True):
            logits = head(aligner(maps, boxes))  # R,classes,h,w
            kind = torch.zeros_like(labels) if head.class_agnostic else labels
            kind = kind[:, None, None, None].expand(-1, 1, logits.shape[2], logits.shape[3])
            votes.append(logits.gather(1, kind)[:, 0].sigmoid())
        return _mean(votes)


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
        head, priors = model.bbox_head, model.bbox_head.prior_generator
        yield from super().requirements(model)
        yield plain(head, RTMDetSepBNHead, RTMDetInsSepBNHead)
        yield type(priors) is MlvlPointGenerator and priors.offset == 0, f"the points of its {kind_of(priors)}"
        yield type(head.bbox_coder) is DistancePointBBoxCoder, f"a {kind_of(head.bbox_coder)}"
        yield from _of_dense(head)

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return the objects that are left by NMS."""
        head, settings = self.dense_head, self.settings
        classes = head.cls_out_channels
        logits, distances, *others = head(maps)
        kernels, prototypes = others if others else (distances, None)
        levels: list[tuple[Tensor, ...]] = []
        for stride, *found in zip(self.strides, logits, distances, kernels, strict=True):
            scores, prior, label = candidates(found[0], classes, settings["nms_pre"], score)
            points = corners_of_cells(found[0], stride)[prior]
            lengths = of_priors(found[1], 4)[prior]
            own = of_priors(found[2], found[2].shape[1])[prior]
            levels.append((scores, label, points, lengths, own, torch.full_like(scores, stride[0])))
        scores, labels, points, lengths, own, strides = map(torch.cat, zip(*levels, strict=True))
        boxes = torch.cat((points - lengths[:, :2], points + lengths[:, 2:]), 1)
        if head.bbox_coder.clip_border:
            boxes = clip(boxes, size)
        scores, index = suppress(boxes, without_small(boxes, scores, settings), labels, settings)
        if prototypes is None:
            kept = (scores > NONE).nonzero()[:, 0]
            return boxes[index[kept]], scores[kept], labels[index[kept]]
        scores, index = and_one_more(scores, index)  # there are always masks
        masks = self.masks(prototypes, own[index], points[index], strides[index])
        return boxes[index[:-1]], scores[:-1], labels[index[:-1]], masks[:-1]

    def masks(self, prototypes: Tensor, kernels: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Return logits (N, h, w) on the grid of the prototypes (1, C, h, w).

        Args:
            kernels: Weights of all layers, then biases of all layers, (N, K).
            points: Where the objects were found, (N, 2), on feature maps with these strides (N,).
        """
        head, (height, width) = self.dense_head, prototypes.shape[2:]
        places = corners_of_cells(prototypes, self.strides[0])  # P,2
        relative = (points[:, None] - places[None]).transpose(1, 2) / (strides[:, None, None] * 8)  # N,2,P
        x = torch.cat((relative, prototypes.flatten(2) + torch.zeros_like(relative[:, :1])), 1)  # N,2+C,P
        count = len(head.weight_nums)
        parts = kernels.split([*head.weight_nums, *head.bias_nums], 1)
        for layer, (weight, bias) in enumerate(zip(parts[:count], parts[count:], strict=True)):
            x = weight.reshape(-1, bias.shape[1], weight.shape[1] // bias.shape[1]) @ x + bias[:, :, None]
            if layer < count - 1:
                x = x.relu()
        return x.reshape(-1, height, width)


def _apply(head: BBoxHead, features: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return logits (R, classes + 1), deltas (R, kinds, 4), and kinds: 1 or the number of classes."""
    logits, deltas = head(features)
    kinds = 1 if head.reg_class_agnostic else head.num_classes
    return logits, deltas.reshape(-1, kinds, 4), kinds


def _of_anchors(head: AnchorHead) -> Requirements:
    yield from _of_dense(head)
    yield type(head.prior_generator) is AnchorGenerator, f"a {kind_of(head.prior_generator)}"
    yield _coder_is_plain(head.bbox_coder)


def _of_dense(head: AnchorHead) -> Requirements:
    yield head.use_sigmoid_cls, "softmax in its dense head"
    for key in ("nms_pre", "max_per_img"):
        yield head.test_cfg.get(key, -1) > 0, f"no {key} of its dense head"
    yield _nms_is_plain(head.test_cfg)


def _coder_is_plain(coder: BaseBBoxCoder) -> Requirement:
    return type(coder) is DeltaXYWHBBoxCoder and not coder.add_ctr_clamp, f"a {kind_of(coder)}"


def _nms_is_plain(settings: Mapping[str, Any]) -> Requirement:
    nms = settings.get("nms") or {}
    known = nms.get("type", "nms") == "nms" and nms.keys() <= {"type", "iou_threshold", "split_thr"}
    return known, f"nms={dict(nms)}"


def _several(part: nn.Module) -> list[Any]:
    """Return the heads of all stages, of which Cascade R-CNN has more than one."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _mean(votes: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, votes) / len(votes)
