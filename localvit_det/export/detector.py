"""A whole detector as one traceable module: from the bytes of an image to boxes, scores, labels and masks.

MMDetection's own inference cannot be exported: it passes data samples, deep-copies configs, and branches on how much it
has found. The layers here are the detector's own; what lies between them is written anew in plain operators.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector, FasterRCNN, RetinaNet
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import Tensor, nn

from .boxes import NONE, align, anchors, best, decode, large_enough, suppress
from .supported import ONE_STAGE, check_supported, several

INPUTS = ("image", "size", "score")
OUTPUTS = ("boxes", "scores", "labels", "masks")


class ExportableDetector(nn.Module):
    """What the exported detectors have in common.

    Args:
        model: The detector, whose layers are shared.

    Attributes:
        settings: The `test_cfg` of what finds objects in the end.
        makes_masks: Whether there are masks among the outputs.
    """

    settings: dict[str, Any]
    makes_masks = False
    mean: Tensor | None
    std: Tensor | None

    def __init__(self, model: BaseDetector) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck
        preprocessor = model.data_preprocessor
        self.swap = preprocessor._channel_conversion
        self.fill, self.divisor = float(preprocessor.pad_value), int(preprocessor.pad_size_divisor)
        self.register_buffer("mean", preprocessor.mean if preprocessor._enable_normalize else None)
        self.register_buffer("std", preprocessor.std if preprocessor._enable_normalize else None)

    def forward(self, image: Tensor, size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Finds objects in one image.

        Args:
            image: (1, 3, H, W), uint8, the channels in the order in which the test pipeline reads them (BGR); H and W
                are multiples of the detector's divisor.
            size: Height and width of the image's own part, which begins at the left top corner, (2,), int64. What
                lies beyond is padding of any value.
            score: Objects have larger scores than this, (), float32.

        Returns:
            Boxes (N, 4), x1, y1, x2, y2 in pixels of ``image``; scores (N,), the surest first; labels (N,), int64;
            and, of detectors that make masks, probabilities (N, h, w) on a grid stretched over each box.
        """
        return self.detect(self.maps(image, size), size, score)

    def maps(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """The pyramid of features, (1, C, H_i, W_i) each."""
        x = image.to(torch.float32)
        if self.swap:
            x = x[:, [2, 1, 0]]
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        rows = torch.arange(x.shape[2], device=x.device)[:, None] < size[0]
        columns = torch.arange(x.shape[3], device=x.device)[None, :] < size[1]
        x = torch.where(rows & columns, x, self.fill)
        return tuple(self.neck(self.backbone(x)))

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Objects from the pyramid, as :meth:`forward` returns them."""
        raise NotImplementedError


class OneStage(ExportableDetector):
    """RetinaNet."""

    def __init__(self, model: RetinaNet) -> None:
        super().__init__(model)
        self.head, self.settings = model.bbox_head, dict(model.bbox_head.test_cfg)
        self.priors = _Anchors(self.head.prior_generator)

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Objects from the pyramid."""
        levels: list[tuple[Tensor, ...]] = []
        for logits, deltas, priors in zip(*self.head(maps), self.priors(maps), strict=True):
            classes = self.head.cls_out_channels
            scores = logits[0].permute(1, 2, 0).reshape(-1).sigmoid()  # C,H,W -> H·W·A·classes
            scores, index = best(torch.where(scores > score, scores, NONE), self.settings["nms_pre"])
            prior = index // classes
            deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)  # C,H,W -> H·W·A,4
            levels.append((scores, index % classes, deltas[prior], priors[prior]))
        scores, labels, deltas, priors = map(torch.cat, zip(*levels, strict=True))
        boxes = decode(self.head.bbox_coder, priors, deltas, size)
        scores = torch.where(large_enough(boxes, self.settings.get("min_bbox_size", -1)), scores, NONE)
        threshold, count = _overlap(self.settings), self.settings["max_per_img"]
        scores, index = suppress(boxes, scores, labels, threshold, count)
        found = (scores > NONE).nonzero()[:, 0]
        rows = index[found]
        return boxes[rows], scores[found], labels[rows]


class TwoStage(ExportableDetector):
    """Faster, Mask and Cascade R-CNN: one box head after the other, then the mean of all mask heads."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__(model)
        self.rpn, roi = model.rpn_head, model.roi_head
        self.proposing, self.settings = dict(self.rpn.test_cfg), dict(roi.test_cfg)
        self.priors = _Anchors(self.rpn.prior_generator)
        self.box_heads = nn.ModuleList(several(roi.bbox_head))
        self.box_extractors = [_Extractor(one) for one in several(roi.bbox_roi_extractor)]
        self.mask_heads = nn.ModuleList(several(roi.mask_head) if roi.with_mask else [])
        self.makes_masks = roi.with_mask
        self.mask_extractors = [_Extractor(one) for one in several(roi.mask_roi_extractor)] if roi.with_mask else []

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Objects from the pyramid."""
        boxes, scores = self.classify(maps, *self.propose(maps, size), size)  # R,classes,4 and R,classes
        classes = scores.shape[1]
        labels = torch.arange(classes, device=scores.device).repeat(scores.shape[0])
        boxes, scores = boxes.reshape(-1, 4), scores.reshape(-1)  # R·classes,4 and R·classes
        scores = torch.where(scores > score, scores, NONE)
        scores, index = suppress(boxes, scores, labels, _overlap(self.settings), self.settings["max_per_img"])
        if not len(self.mask_heads):
            found = (scores > NONE).nonzero()[:, 0]
            return boxes[index[found]], scores[found], labels[index[found]]
        # The mask heads see a last box that is nobody's, so that there is always one.
        found = torch.cat((scores > NONE, scores[:1] == scores[:1])).nonzero()[:, 0]
        scores, index = torch.cat((scores, scores[:1])), torch.cat((index, torch.zeros_like(index[:1])))
        boxes, scores, labels = boxes[index[found]], scores[found], labels[index[found]]
        return boxes[:-1], scores[:-1], labels[:-1], self.masks(maps, boxes, labels)[:-1]

    def propose(self, maps: tuple[Tensor, ...], size: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes that may hold objects, (R, 4) for a fixed R, and which of them are proposed, (R,)."""
        levels: list[tuple[Tensor, ...]] = []
        for level, (logits, deltas, priors) in enumerate(zip(*self.rpn(maps), self.priors(maps), strict=True)):
            scores = logits[0].permute(1, 2, 0).reshape(-1).sigmoid()  # A,H,W -> H·W·A
            scores, index = best(scores, self.proposing["nms_pre"])
            deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)  # 4·A,H,W -> H·W·A,4
            levels.append((scores, torch.full_like(index, level), deltas[index], priors[index]))
        scores, groups, deltas, priors = map(torch.cat, zip(*levels, strict=True))
        boxes = decode(self.rpn.bbox_coder, priors, deltas, size)
        scores = torch.where(large_enough(boxes, self.proposing.get("min_bbox_size", -1)), scores, NONE)
        scores, index = suppress(boxes, scores, groups, _overlap(self.proposing), self.proposing["max_per_img"])
        return boxes[index], scores > NONE

    def classify(self, maps: tuple[Tensor, ...], rois: Tensor, valid: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (R, classes, 4) and scores (R, classes) of proposals (R, 4); scores of those not valid are 0."""
        stages: list[tuple[BBoxHead, _Extractor]] = list(zip(self.box_heads, self.box_extractors, strict=True))
        *earlier, (head, extractor) = stages
        votes: list[Tensor] = []
        for one, its_extractor in earlier:
            logits, deltas, kinds = _apply(one, its_extractor(maps, rois))
            votes.append(logits)
            surest = logits[:, :-1].argmax(1) if kinds > 1 else torch.zeros_like(logits[:, 0], dtype=torch.long)
            chosen = deltas.gather(1, surest[:, None, None].expand(-1, 1, 4))[:, 0]  # R,4
            rois = decode(one.bbox_coder, rois, chosen, size)
        logits, deltas, kinds = _apply(head, extractor(maps, rois))
        priors = rois[:, None].expand(-1, kinds, 4).reshape(-1, 4)
        boxes = decode(head.bbox_coder, priors, deltas.reshape(-1, 4), size).reshape(-1, kinds, 4)
        scores = _mean([*votes, logits]).softmax(1)[:, :-1]
        return boxes.expand(-1, head.num_classes, 4), torch.where(valid[:, None], scores, NONE)

    def masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (R, h, w) that a place in a box (R, 4) belongs to an object of its class (R,)."""
        votes: list[Tensor] = []
        for head, extractor in zip(self.mask_heads, self.mask_extractors, strict=True):
            logits = head(extractor(maps, boxes))  # R,classes,h,w
            kind = torch.zeros_like(labels) if head.class_agnostic else labels
            kind = kind[:, None, None, None].expand(-1, 1, logits.shape[2], logits.shape[3])
            votes.append(logits.gather(1, kind)[:, 0].sigmoid())
        return _mean(votes)


def _apply(head: BBoxHead, features: Tensor) -> tuple[Tensor, Tensor, int]:
    """Logits (R, classes + 1), deltas (R, kinds, 4), and kinds: 1 or the number of classes."""
    logits, deltas = head(features)
    kinds = 1 if head.reg_class_agnostic else head.num_classes
    return logits, deltas.reshape(-1, kinds, 4), kinds


def _mean(votes: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, votes) / len(votes)


class _Anchors(nn.Module):
    """The anchors of each map."""

    def __init__(self, generator: AnchorGenerator) -> None:
        super().__init__()
        self.strides = [(int(down), int(right)) for down, right in generator.strides]
        for level, base in enumerate(generator.base_anchors):
            self.register_buffer(f"base{level}", base.detach().float())

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Maps (1, C, H_i, W_i) -> boxes (H_i·W_i·A, 4)."""
        return [anchors(getattr(self, f"base{i}"), self.strides[i], one) for i, one in enumerate(maps)]


class _Extractor:
    """The settings of a RoI extractor, which cuts features out of a pyramid."""

    def __init__(self, extractor: SingleRoIExtractor) -> None:
        layer = extractor.roi_layers[0]
        self.strides = [1 / one.spatial_scale for one in extractor.roi_layers]
        self.size, self.finest = tuple(layer.output_size), extractor.finest_scale
        self.sampling_ratio, self.aligned = layer.sampling_ratio, layer.aligned

    def __call__(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """Maps (1, C, H_i, W_i), boxes (R, 4) -> (R, C, h, w)."""
        maps = maps[: len(self.strides)]
        return align(maps, boxes, self.strides, self.size, self.finest, self.sampling_ratio, self.aligned)


def exportable(model: BaseDetector) -> ExportableDetector:
    """The traceable form of a detector, whose layers it shares.

    Raises:
        ConfigError: There is none for such a detector.
    """
    check_supported(model)
    kind = OneStage if isinstance(model, ONE_STAGE) else TwoStage
    return kind(model).eval()


def _overlap(settings: Mapping[str, Any]) -> float:
    # MMCV compares in float32.
    return float(torch.tensor(settings["nms"]["iou_threshold"], dtype=torch.float32))
