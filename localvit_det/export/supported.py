"""Which detectors can be written as `detector` writes them: those whose steps are known one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmcv.ops import RoIAlign
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import AnchorHead, RetinaHead, RPNHead
from mmdet.models.detectors import BaseDetector, CascadeRCNN, FasterRCNN, MaskRCNN, RetinaNet
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import nn

from ..errors import ConfigError

ONE_STAGE, TWO_STAGE = (RetinaNet,), (FasterRCNN, MaskRCNN, CascadeRCNN)


def check_supported(model: BaseDetector) -> None:
    """Looks at all parts of a detector.

    Raises:
        ConfigError: One is unknown.
    """
    for fits, what in _requirements(model):
        if not fits:
            raise ConfigError(
                f"A detector with {what} cannot be exported: Faster, Mask and Cascade R-CNN and RetinaNet can, with "
                "the parts that their configs here have; export its backbone alone with --backbone."
            )


def _requirements(model: BaseDetector) -> Iterator[tuple[bool, str]]:
    """What has to hold, each with what the detector has instead."""
    kind = type(model)
    yield kind in ONE_STAGE + TWO_STAGE, f"the type {kind.__name__}"
    yield getattr(model, "neck", None) is not None, "no neck"
    yield _is(model.data_preprocessor, DetDataPreprocessor), f"a {_name(model.data_preprocessor)}"
    if kind in ONE_STAGE:
        head = model.bbox_head
        yield _is(head, RetinaHead), f"a {_name(head)}"
        yield from _dense_requirements(head)
        return
    rpn, roi = model.rpn_head, model.roi_head
    yield _is(rpn, RPNHead), f"a {_name(rpn)}"
    yield from _dense_requirements(rpn)
    yield _is(roi, StandardRoIHead, CascadeRoIHead), f"a {_name(roi)}"
    yield not roi.with_shared_head, "a shared head"
    yield roi.test_cfg.get("max_per_img", -1) > 0, "no max_per_img of its RoI head"
    yield _nms_is_plain(roi.test_cfg), f"nms={dict(roi.test_cfg.nms)}"
    for head in several(roi.bbox_head):
        yield _is(head, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead), f"a {_name(head)}"
        yield head.with_cls and head.with_reg, f"a {_name(head)} without classes or boxes"
        yield not head.custom_cls_channels and not head.custom_activation, f"the loss {_name(head.loss_cls)}"
        yield _coder_is_plain(head.bbox_coder), f"a {_name(head.bbox_coder)}"
    extractors = [*several(roi.bbox_roi_extractor), *(several(roi.mask_roi_extractor) if roi.with_mask else [])]
    for extractor in extractors:
        yield _is(extractor, SingleRoIExtractor), f"a {_name(extractor)}"
        layer = extractor.roi_layers[0]
        yield isinstance(layer, RoIAlign) and layer.pool_mode == "avg", f"a {_name(layer)}"
    for head in several(roi.mask_head) if roi.with_mask else []:
        yield _is(head, FCNMaskHead), f"a {_name(head)}"


def _dense_requirements(head: AnchorHead) -> Iterator[tuple[bool, str]]:
    yield head.use_sigmoid_cls, "softmax in its dense head"
    yield type(head.prior_generator) is AnchorGenerator, f"a {_name(head.prior_generator)}"
    yield _coder_is_plain(head.bbox_coder), f"a {_name(head.bbox_coder)}"
    for key in ("nms_pre", "max_per_img"):
        yield head.test_cfg.get(key, -1) > 0, f"no {key} of its dense head"
    yield _nms_is_plain(head.test_cfg), f"nms={dict(head.test_cfg.nms)}"


def _is(module: nn.Module, *kinds: type) -> bool:
    """Whether a module is of one of MMDetection's classes, plain or in a form of ours.

    Other subclasses of MMDetection's may compute something else.
    """
    return next((base for base in type(module).__mro__ if base.__module__.startswith("mmdet.")), None) in kinds


def _coder_is_plain(coder: BaseBBoxCoder) -> bool:
    return type(coder) is DeltaXYWHBBoxCoder and not coder.add_ctr_clamp


def _nms_is_plain(settings: Mapping[str, Any]) -> bool:
    nms = settings.get("nms") or {}
    return nms.get("type", "nms") == "nms" and nms.keys() <= {"type", "iou_threshold", "split_thr"}


def several(part: nn.Module) -> list[Any]:
    """The heads of all stages, of which Cascade R-CNN has more than one."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _name(module: object) -> str:
    return type(module).__name__
