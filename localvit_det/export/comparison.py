"""Compare what an exported model finds with what its model finds itself: objects, or the class of each pixel."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn

from ..checkpoint.exported import Info
from ..errors import ExportError
from .formats import running
from .module import fill_of
from .runtime import ExportedDetector

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

_ENOUGH = 5  # objects in all images, fewer of which prove little
_SCORES = (0.01, 1e-3, 0.0)
_AS_BYTES = -1  # the threshold for masks that are probabilities, as MMDetection has it
# What may differ.
_BOX = 2e-5  # of the image's longer side
_SCORE, _MASK = 1e-4, 1e-2  # of probabilities; of the pixels of masks
_LOGITS, _PIXELS = 1e-4, 1e-3  # of the norm of logits; of an image's pixels, whose class may be another
_STEP = 8  # of 255, by which a pixel's probability may differ: a box less than a pixel wide stretches rounding
# Of the objects: two boxes whose scores or overlaps are equal up to rounding may change places, and the one that is
# kept decides which others are.
_MISMATCHES = 0.02
_HALF, _HALF_MISMATCHES = 20, 0.1  # in fp16: so many times as much, and this share of the objects


@dataclass(frozen=True)
class Agreement:
    """How far the objects in an image are from those of the detector itself."""

    size: tuple[int, int]  # height and width of the image, in pixels
    objects: int  # that the detector found
    mismatches: int  # of these, without an equal one; or of the exported model's, where they are more
    box: float  # the largest difference of the others' corners, in pixels
    score: float  # that of their scores
    mask: float  # the part of their masks' pixels whose probabilities differ; 0 where there are no masks

    def __str__(self) -> str:
        same = self.objects - self.mismatches
        return (
            f"{self.size[0]}×{self.size[1]}: {same} of {self.objects} objects the same, corners within {self.box:.0e} "  # noqa: RUF001
            f"pixels, scores within {self.score:.0e}"
        )


@dataclass(frozen=True)
class PixelAgreement:
    """How far the classes of an image's pixels are from those of the segmentor itself."""

    size: tuple[int, int]  # height and width of the image, in pixels
    mismatches: float  # the part of its pixels that have another class
    error: float  # the norm of the difference of the logits over that of the segmentor's own

    def __str__(self) -> str:
        return (
            f"{self.size[0]}×{self.size[1]}: {1 - self.mismatches:.3%} of the pixels have the same class, logits "  # noqa: RUF001
            f"differ by {self.error:.0e} of their norm"
        )


def compare_on(
    model: nn.Module, exported: ExportedDetector, prepared: Sequence[dict[str, Any]], half: bool = False
) -> list[Agreement] | list[PixelAgreement]:
    """Run a model and its exported one, of which layers may compute in fp16, on images as `prepare` gives them.

    Raises:
        ExportError: It does not run on an image, or finds something else; or there is nothing to compare.
    """
    if exported.info.is_segmentor:
        pixels = [_compare_pixels(model, exported, one) for one in prepared]
        check_pixels(pixels, _HALF if half else 1)
        return pixels
    objects = _compare_objects(model, exported, prepared, _HALF if half else 1)
    check_agreement(objects, _HALF_MISMATCHES if half else _MISMATCHES)
    return objects


def check_pixels(found: Sequence[PixelAgreement], factor: float = 1) -> None:
    """Refuse a wrong exported segmentor; what may differ is `factor` times as much.

    Raises:
        ExportError: It finds other classes.
    """
    for one in found:
        # Written so that NaN fails, too.
        if not (one.error <= factor * _LOGITS and one.mismatches <= factor * _PIXELS):
            raise ExportError(
                f"The exported model finds other classes: at {one.mismatches:.2%} of the pixels of an image, and "
                f"logits differ by {one.error:.0e} of their norm; {_advice(factor > 1)}; no file was written."
            )


def check_agreement(found: Sequence[Agreement], allowed: float = _MISMATCHES) -> None:
    """Refuse a wrong exported model, of which more than a share of the objects differ.

    Raises:
        ExportError: It finds other objects, or there were none to compare.
    """
    objects, mismatches = sum(one.objects for one in found), sum(one.mismatches for one in found)
    if not objects:
        raise ExportError(
            "The detector finds nothing in the images on which its exported model is compared, so nothing is proved: "
            "name others by --images; no file was written."
        )
    mask = max(one.mask for one in found)
    if mismatches > allowed * objects or mask > _MASK:
        raise ExportError(
            f"The exported model finds other objects: {mismatches} of {objects} differ, and masks by {mask:.1%}; "
            f"{_advice(allowed > _MISMATCHES)}; no file was written."
        )


def _advice(half: bool) -> str:
    return "leave --half out" if half else "choose another format or a fixed size"


def compare_objects(expected: InstanceData, found: InstanceData, size: tuple[int, int], factor: float = 1) -> Agreement:
    """Look for each expected object among those that were found; what may differ is `factor` times as much.

    Masks in boxes are probabilities as bytes: a detector that has learned little is nowhere sure on which side of 1/2
    it is. Those of whole images come as they are, and are compared together: of a small one a pixel is a large part.
    """
    free = torch.ones(len(found), dtype=torch.bool)
    box = score = mask = 0.0
    missing = differ = area = 0
    for index in range(len(expected)):
        distances = (found.bboxes - expected.bboxes[index]).abs().amax(1)
        doubts = (found.scores - expected.scores[index]).abs()
        near = (distances <= factor * _BOX * max(size)) & (doubts <= factor * _SCORE)
        alike = free & near & (found.labels == expected.labels[index])
        if not alike.any():
            missing += 1
            continue
        # Boxes round masks are often equal: the score decides then.
        best = int(torch.where(alike, distances + doubts, torch.inf).argmin())
        free[best] = False
        box, score = max(box, float(distances[best])), max(score, float(doubts[best]))
        if "masks" in expected:
            own = torch.as_tensor(expected.masks[index])
            if own.dtype == torch.bool:
                differ, area = differ + int((found.masks[best] != own).sum()), area + int(own.sum())
                continue
            ours, theirs, step = found.masks[best].int(), own.int(), _STEP * min(factor, 4)
            mask = max(mask, float(((ours - theirs).abs() > step).sum() / (theirs > 0).sum().clamp(min=1)))
    mask = max(mask, differ / max(area, 1))
    return Agreement(size, len(expected), max(missing, int(free.sum())), box, score, mask)


@torch.no_grad()
def find(model: Any, info: Info, one: dict[str, Any]) -> BaseDataElement:
    """Return what a model finds in an image as `prepare` gives it, padded as its exported model sees it."""
    data = model.data_preprocessor({"inputs": [one["inputs"]], "data_samples": [copy.deepcopy(one["data_samples"])]})
    batch, fill = data["inputs"], fill_of(model.data_preprocessor)
    height, width = info.size or batch.shape[2:]
    right, bottom = width - batch.shape[3], height - batch.shape[2]
    batch = F.pad(batch, (0, right, 0, bottom), value=fill)
    # DINO reads how large the padded image is, and segmentors cut the padding off.
    shape = (height, width)
    padding = {"batch_input_shape": shape, "pad_shape": shape, "img_padding_size": (0, right, 0, bottom)}
    data["data_samples"][0].set_metainfo(padding)
    return model.predict(batch, data["data_samples"])[0]


def _compare_pixels(model: nn.Module, exported: ExportedDetector, one: dict[str, Any]) -> PixelAgreement:
    """Compare a segmentor and its exported model on an image as `prepare` gives it."""
    ours, size = find(model, exported.info, one).seg_logits.data, tuple(one["data_samples"].ori_shape[:2])
    with running(size):
        theirs = exported.logits(one["inputs"], one["data_samples"])
    error = float((theirs.double() - ours.double()).norm() / ours.double().norm())
    return PixelAgreement(size, float((theirs.argmax(0) != ours.argmax(0)).double().mean()), error)


def _compare_objects(
    model: nn.Module, exported: ExportedDetector, prepared: Sequence[dict[str, Any]], factor: float
) -> list[Agreement]:
    """Look for the same objects with a detector and its exported model, in images as `prepare` gives them."""
    expected, score = _expected(model, exported.info, prepared)
    found = []
    for one, ours in zip(prepared, expected, strict=True):
        size = tuple(one["data_samples"].ori_shape[:2])
        with running(size):
            theirs = exported.find(one["inputs"], one["data_samples"], score, _AS_BYTES)
        found.append(compare_objects(ours, theirs, size, factor))
    return found


def _expected(model: BaseDetector, info: Info, prepared: Sequence[dict[str, Any]]) -> tuple[list[InstanceData], float]:
    """Return what the detector finds in each image, padded as the exported model sees it, and above which score."""
    heads = ("roi_head", "bbox_head", "panoptic_fusion_head")
    settings = next(getattr(model, name) for name in heads if hasattr(model, name)).test_cfg
    own = dict(settings)
    found: list[InstanceData] = []
    score = info.score
    if "masks" in info.outputs:
        settings["mask_thr_binary"] = _AS_BYTES
    try:
        # A detector that is sure of little is compared on what it is less sure of.
        for score in (info.score, *(lower for lower in _SCORES if lower < info.score)):
            settings["score_thr"] = score
            found = [find(model, info, one).pred_instances for one in prepared]
            if sum(map(len, found)) >= _ENOUGH:
                break
    finally:
        settings.clear()
        settings.update(own)
    return found, score
