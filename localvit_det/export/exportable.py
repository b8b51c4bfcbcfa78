"""Make one traceable module of a whole detector: from the bytes of an image to boxes, scores, labels and masks.

MMDetection's own inference cannot be exported: it passes data samples, deep-copies configs, and branches on how much it
has found. The layers here are the detector's own; what lies between them is written anew in plain operators, for those
detectors whose steps are known one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmcv.ops import RoIAlign
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import AnchorHead, RetinaHead, RPNHead
from mmdet.models.detectors import BaseDetector, CascadeRCNN, FasterRCNN, MaskRCNN, RetinaNet
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import ConfigError
from .boxes import NONE, Anchors, RoIAligner, best, decode, suppress

INPUTS = ("image", "size", "score")
OUTPUTS = ("boxes", "scores", "labels", "masks")
_ONE_STAGE, _TWO_STAGE = (RetinaNet,), (FasterRCNN, MaskRCNN, CascadeRCNN)
# Why a type of MMDetection's or MMSegmentation's has no exportable form.
_FORMLESS = {
    "RTMDet": "its masks are convolutions with kernels of each object, and an exported model has one grid a box",
    "DINO": "its queries and the places that they look at are chosen step by step in code that reads data samples",
    "Mask2Former": "its masks are of the whole image, one for each query, and an exported model has boxes",
    "PanopticFPN": "it finds regions without objects as well, which an exported model has no output for",
    "EncoderDecoder": "it is a segmentor, and an exported model has boxes",
}


class ExportableDetector(nn.Module):
    """What the exported detectors have in common.

    Args:
        model: The detector, whose layers are shared.

    Attributes:
        settings: The `test_cfg` of what finds objects in the end.
        outputs: Names of what `forward` returns.
    """

    settings: Mapping[str, Any]
    outputs: Sequence[str] = OUTPUTS[:3]
    mean: Tensor | None
    std: Tensor | None

    def __init__(self, model: BaseDetector) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck
        self.dense_head = model.bbox_head if isinstance(model, _ONE_STAGE) else model.rpn_head
        self.settings = self.dense_head.test_cfg
        self.anchors = Anchors(self.dense_head.prior_generator)
        preprocessor = model.data_preprocessor
        self.swap = preprocessor._channel_conversion
        self.fill, self.divisor = float(preprocessor.pad_value), int(preprocessor.pad_size_divisor)
        self.register_buffer("mean", preprocessor.mean if preprocessor._enable_normalize else None)
        self.register_buffer("std", preprocessor.std if preprocessor._enable_normalize else None)

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
            and, of detectors that make masks, probabilities (N, h, w) on a grid stretched over each box.
        """
        return self.detect(self.feature_maps(image, size), size, score)

    def compute_in_half(self) -> None:
        """Let layers compute in fp16; what lies between them, and computes boxes, stays in fp32."""
        parts = ("backbone", "neck", "dense_head", "box_heads", "mask_heads")
        for part in filter(None, (getattr(self, name, None) for name in parts)):
            for layers in part if isinstance(part, nn.ModuleList) else [part]:
                layers.half()
                layers.register_forward_pre_hook(lambda _, given: tree_map_only(Tensor, Tensor.half, given))
                layers.register_forward_hook(lambda _, __, found: tree_map_only(Tensor, Tensor.float, found))

    def feature_maps(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of the neck, (1, C, H_i, W_i) each."""
        x = image.to(torch.float32)
        if self.swap:
            x = x[:, [2, 1, 0]]
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        rows = torch.arange(x.shape[2], device=x.device)[:, None] < size[0]
        columns = torch.arange(x.shape[3], device=x.device)[None, :] < size[1]
        x = torch.where(rows & columns, x, self.fill)
        return tuple(self.neck(self.backbone(x)))

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
            scores = logits[0].permute(1, 2, 0).reshape(-1).sigmoid()  # A·classes,H,W -> H·W·A·classes
            if score is not None:
                scores = torch.where(scores > score, scores, NONE)
            scores, index = best(scores, settings["nms_pre"])
            prior, label = (index // classes, index % classes) if classes > 1 else (index, torch.zeros_like(index))
            deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)  # 4·A,H,W -> H·W·A,4
            group = torch.full_like(index, level) if score is None else label
            levels.append((scores, label, group, deltas[prior], priors[prior]))
        scores, labels, groups, deltas, priors = map(torch.cat, zip(*levels, strict=True))
        boxes = decode(head.bbox_coder, priors, deltas, size)
        if (least := settings.get("min_bbox_size", -1)) >= 0:
            scores = torch.where((boxes[:, 2:] - boxes[:, :2] > least).all(1), scores, NONE)
        scores, index = suppress(boxes, scores, groups, settings["nms"]["iou_threshold"], settings["max_per_img"])
        return boxes[index], scores, labels[index]

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return the objects in feature maps, as :meth:`forward` does."""
        raise NotImplementedError


class OneStage(ExportableDetector):
    """RetinaNet."""

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return what the dense head finds."""
        boxes, scores, labels = self.dense_boxes(maps, size, score)
        found = (scores > NONE).nonzero()[:, 0]
        return boxes[found], scores[found], labels[found]


class TwoStage(ExportableDetector):
    """Faster, Mask and Cascade R-CNN: one box head after the other, then the mean of all mask heads."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__(model)
        roi = model.roi_head
        self.settings = roi.test_cfg
        self.box_heads = nn.ModuleList(_several(roi.bbox_head))
        self.box_aligners = [RoIAligner(one) for one in _several(roi.bbox_roi_extractor)]
        self.mask_heads = nn.ModuleList(_several(roi.mask_head) if roi.with_mask else [])
        self.mask_aligners = [RoIAligner(one) for one in _several(roi.mask_roi_extractor)] if roi.with_mask else []
        self.outputs = OUTPUTS if roi.with_mask else OUTPUTS[:3]

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return what the RoI heads find in the proposals."""
        proposals, objectness, _ = self.dense_boxes(maps, size)
        boxes, scores = self.classify(maps, proposals, objectness > NONE, size)  # R,classes,4 and R,classes
        classes = scores.shape[1]
        labels = torch.arange(classes, device=scores.device).repeat(scores.shape[0])
        boxes, scores = boxes.reshape(-1, 4), scores.reshape(-1)  # R·classes,4 and R·classes
        scores = torch.where(scores > score, scores, NONE)
        threshold, count = self.settings["nms"]["iou_threshold"], self.settings["max_per_img"]
        scores, index = suppress(boxes, scores, labels, threshold, count)
        if not len(self.mask_heads):
            found = (scores > NONE).nonzero()[:, 0]
            return boxes[index[found]], scores[found], labels[index[found]]
        # The mask heads see a last box that is no object's, so that there is always one.
        found = torch.cat((scores > NONE, scores[:1] == scores[:1])).nonzero()[:, 0]
        scores, index = torch.cat((scores, scores[:1])), torch.cat((index, torch.zeros_like(index[:1])))
        boxes, scores, labels = boxes[index[found]], scores[found], labels[index[found]]
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


def _apply(head: BBoxHead, features: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return logits (R, classes + 1), deltas (R, kinds, 4), and kinds: 1 or the number of classes."""
    logits, deltas = head(features)
    kinds = 1 if head.reg_class_agnostic else head.num_classes
    return logits, deltas.reshape(-1, kinds, 4), kinds


def exportable(model: BaseDetector) -> ExportableDetector:
    """Return the traceable form of a detector, whose layers it shares.

    Raises:
        ConfigError: There is none, since a part of it is unknown.
    """
    if reason := _FORMLESS.get(_kind_of(model)):
        raise ConfigError(
            f"A {_kind_of(model)} cannot be exported: {reason}; export its backbone alone with --backbone."
        )
    for fits, what in _requirements(model):
        if not fits:
            raise ConfigError(
                f"A detector with {what} cannot be exported: Faster, Mask and Cascade R-CNN and RetinaNet can, with "
                "the parts that their configs here have; export its backbone alone with --backbone."
            )
    kind = OneStage if isinstance(model, _ONE_STAGE) else TwoStage
    return kind(model).eval()


def _requirements(model: BaseDetector) -> Iterator[tuple[bool, str]]:
    """Yield what has to hold, each with what the detector has instead."""
    kind = type(model)
    yield kind in _ONE_STAGE + _TWO_STAGE, f"the type {kind.__name__}"
    yield getattr(model, "neck", None) is not None, "no neck"
    yield _is(model.data_preprocessor, DetDataPreprocessor), f"a {_kind_of(model.data_preprocessor)}"
    if kind in _ONE_STAGE:
        head = model.bbox_head
        yield _is(head, RetinaHead), f"a {_kind_of(head)}"
        yield from _dense_requirements(head)
        return
    rpn, roi = model.rpn_head, model.roi_head
    yield _is(rpn, RPNHead), f"a {_kind_of(rpn)}"
    yield from _dense_requirements(rpn)
    yield _is(roi, StandardRoIHead, CascadeRoIHead), f"a {_kind_of(roi)}"
    yield not roi.with_shared_head, "a shared head"
    yield roi.test_cfg.get("max_per_img", -1) > 0, "no max_per_img of its RoI head"
    yield _nms_is_plain(roi.test_cfg), f"nms={dict(roi.test_cfg.nms)}"
    for head in _several(roi.bbox_head):
        yield _is(head, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead), f"a {_kind_of(head)}"
        yield head.with_cls and head.with_reg, f"a {_kind_of(head)} without classes or boxes"
        yield not head.custom_cls_channels and not head.custom_activation, f"the loss {_kind_of(head.loss_cls)}"
        yield _coder_is_plain(head.bbox_coder), f"a {_kind_of(head.bbox_coder)}"
    extractors = [*_several(roi.bbox_roi_extractor), *(_several(roi.mask_roi_extractor) if roi.with_mask else [])]
    for extractor in extractors:
        yield _is(extractor, SingleRoIExtractor), f"a {_kind_of(extractor)}"
        layer = extractor.roi_layers[0]
        yield isinstance(layer, RoIAlign) and layer.pool_mode == "avg", f"a {_kind_of(layer)}"
    for head in _several(roi.mask_head) if roi.with_mask else []:
        yield _is(head, FCNMaskHead), f"a {_kind_of(head)}"


def _dense_requirements(head: AnchorHead) -> Iterator[tuple[bool, str]]:
    yield head.use_sigmoid_cls, "softmax in its dense head"
    yield type(head.prior_generator) is AnchorGenerator, f"a {_kind_of(head.prior_generator)}"
    yield _coder_is_plain(head.bbox_coder), f"a {_kind_of(head.bbox_coder)}"
    for key in ("nms_pre", "max_per_img"):
        yield head.test_cfg.get(key, -1) > 0, f"no {key} of its dense head"
    yield _nms_is_plain(head.test_cfg), f"nms={dict(head.test_cfg.nms)}"


def _is(module: nn.Module, *kinds: type) -> bool:
    """Whether a module is of one of MMDetection's classes, plain or in a fused variant of ours.

    Other subclasses of MMDetection's may compute something else.
    """
    return next((base for base in type(module).__mro__ if base.__module__.startswith("mmdet.")), None) in kinds


def _coder_is_plain(coder: BaseBBoxCoder) -> bool:
    return type(coder) is DeltaXYWHBBoxCoder and not coder.add_ctr_clamp


def _nms_is_plain(settings: Mapping[str, Any]) -> bool:
    nms = settings.get("nms") or {}
    return nms.get("type", "nms") == "nms" and nms.keys() <= {"type", "iou_threshold", "split_thr"}


def _several(part: nn.Module) -> list[Any]:
    """Return the heads of all stages, of which Cascade R-CNN has more than one."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _kind_of(module: object) -> str:
    return type(module).__name__


def _mean(votes: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, votes) / len(votes)
