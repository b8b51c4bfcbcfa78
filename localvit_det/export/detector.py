"""Export whole detectors: write one file, run it, and keep it only if it finds what the detector finds."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import nn

from ..checkpoint.config_text import as_text, to_json
from ..checkpoint.exported import Info
from ..checkpoint.publish import versions
from ..checkpoint.safe_config import take
from ..config.pipelines import image_pipeline, prepare
from ..datasets.synthetic_shapes import CLASSES, draw_image
from ..errors import ExportError
from ..files import check_writable
from ..fused import fused_copy
from .exportable import INPUTS, ExportableDetector, exportable
from .formats import ExportSpec, export_to, find_format, running
from .runtime import ExportedDetector

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

    from ..predict.detector import Detector

# Heights and widths of the synthetic images for the comparison, and of that which exporters follow.
_SHAPES, _EXAMPLE = ((240, 320), (320, 200), (320, 320)), (250, 320)
_ENOUGH = 5  # objects in all images, fewer of which prove little
_SCORES = (0.01, 1e-3, 0.0)
_AS_BYTES = -1  # the threshold for masks that are probabilities, as MMDetection has it
# What may differ.
_BOX = 2e-5  # of the image's longer side
_SCORE, _MASK = 1e-4, 1e-2  # of probabilities; of the pixels of masks
_STEP = 8  # of 255, by which a pixel's probability may differ: a box less than a pixel wide stretches rounding
# Of the objects: two boxes whose scores or overlaps are equal up to rounding may change places, and the one that is
# kept decides which others are.
_MISMATCHES = 0.02
_HALF, _HALF_MISMATCHES = 20, 0.1  # in fp16: so many times as much, and this share of the objects


@dataclass(frozen=True)
class Agreement:
    """How far the objects in an image are from those of the detector itself.

    Attributes:
        size: Height and width of the image, in pixels.
        objects: That the detector found.
        mismatches: Of these, without an equal one; or of the exported model's, where they are more.
        box: The largest difference of the others' corners, in pixels.
        score: That of their scores.
        mask: The part of their masks' pixels whose probabilities differ; 0 where there are no masks.
    """

    size: tuple[int, int]
    objects: int
    mismatches: int
    box: float
    score: float
    mask: float

    def __str__(self) -> str:
        """Return a line for people."""
        same = self.objects - self.mismatches
        return (
            f"{self.size[0]}×{self.size[1]}: {same} of {self.objects} objects the same, corners within {self.box:.0e} "  # noqa: RUF001
            f"pixels, scores within {self.score:.0e}"
        )


def export_detector(
    detector: Detector,
    path: str | os.PathLike,
    format: str | None = None,
    size: tuple[int, int] | None = None,
    images: Sequence[np.ndarray] = (),
    half: bool = False,
) -> list[Agreement]:
    """Write a detector to a file of another runtime, run that, and compare what it finds.

    Args:
        detector: With its weights; it is left as it is. Its fused form is written.
        path: The file; of OpenVINO the .xml, next to which its .bin is written.
        format: As of `export_backbone`.
        size: Height and width, in pixels, of the images that the exported model takes; by default it takes any.
        images: To compare on, H×W×3, uint8, BGR; by default three synthetic ones.
        half: Compute layers in fp16, for ONNX; boxes, NMS and RoIAlign stay in fp32. More may differ then.

    Returns:
        How far the exported model is from the detector, for each image.

    Raises:
        ExportError: The detector or the format does not allow it, or the exported model finds something else; no file
            is left.
        OutputError: The file cannot be written.
    """
    kind = find_format(format, path)
    check_writable(path, "--out")
    module = exportable(fused_copy(copy.deepcopy(detector.model) if half else detector.model))
    if half:  # its own weights
        module.compute_in_half()
    info = _info(detector, module, size)
    pipeline = image_pipeline(detector.config, size)
    example = info.input_of(prepare(pipeline, synthetic_image(_EXAMPLE, seed=0))["inputs"])
    image_axes = {} if size else {INPUTS[0]: {2: "height", 3: "width"}}
    spec = ExportSpec(
        module=module,
        inputs=dict(zip(INPUTS, (*example, torch.tensor(info.score)), strict=True)),
        outputs=module.outputs,
        dynamic={**image_axes, **{name: {0: "objects"} for name in module.outputs}},
        note=info.to_text(),
    )
    images = images or [synthetic_image(shape, seed) for seed, shape in enumerate(_SHAPES, start=1)]
    prepared = [prepare(pipeline, image) for image in images]
    with export_to(spec, path, kind) as run:
        found = _compare_on(detector.model, ExportedDetector(run, info), prepared, _HALF if half else 1)
        check_agreement(found, _HALF_MISMATCHES if half else _MISMATCHES)
        return found


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
            f"{'choose another format or a fixed size' if allowed == _MISMATCHES else 'leave --half out'}; no file was "
            "written."
        )


def compare_objects(expected: InstanceData, found: InstanceData, size: tuple[int, int], factor: float = 1) -> Agreement:
    """Look for each expected object among those that were found; what may differ is `factor` times as much.

    Masks are probabilities as bytes: a detector that has learned little is nowhere sure on which side of 1/2 it is.
    """
    free = torch.ones(len(found), dtype=torch.bool)
    box = score = mask = 0.0
    missing = 0
    for index in range(len(expected)):
        distances = (found.bboxes - expected.bboxes[index]).abs().amax(1)
        doubts = (found.scores - expected.scores[index]).abs()
        near = (distances <= factor * _BOX * max(size)) & (doubts <= factor * _SCORE)
        alike = free & near & (found.labels == expected.labels[index])
        if not alike.any():
            missing += 1
            continue
        best = int(torch.where(alike, distances, torch.inf).argmin())
        free[best] = False
        box, score = max(box, float(distances[best])), max(score, float(doubts[best]))
        if "masks" in expected:
            ours, theirs = (one.int() for one in (found.masks[best], torch.as_tensor(expected.masks[index])))
            mask = max(
                mask, float(((ours - theirs).abs() > _STEP * min(factor, 4)).sum() / (theirs > 0).sum().clamp(min=1))
            )
    return Agreement(size, len(expected), max(missing, int(free.sum())), box, score, mask)


@torch.no_grad()
def find(model: BaseDetector, info: Info, one: dict[str, Any]) -> InstanceData:
    """Return what a detector finds in an image as `prepare` gives it, padded as its exported model sees it."""
    data = model.data_preprocessor({"inputs": [one["inputs"]], "data_samples": [copy.deepcopy(one["data_samples"])]})
    batch, fill = data["inputs"], float(model.data_preprocessor.pad_value)
    height, width = info.size or batch.shape[2:]
    batch = F.pad(batch, (0, width - batch.shape[3], 0, height - batch.shape[2]), value=fill)
    return model.predict(batch, data["data_samples"])[0].pred_instances


def synthetic_image(size: tuple[int, int], seed: int) -> np.ndarray:
    """Return an image of synthetic shapes, (height, width, 3), uint8, BGR."""
    image, _ = draw_image(np.random.default_rng(seed), max(size), CLASSES, "bright")
    return np.ascontiguousarray(image[: size[0], : size[1]])


def _compare_on(
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
    settings = model.roi_head.test_cfg if hasattr(model, "roi_head") else model.bbox_head.test_cfg
    own = dict(settings)
    found: list[InstanceData] = []
    score = info.score
    settings["mask_thr_binary"] = _AS_BYTES
    try:
        # A detector that is sure of little is compared on what it is less sure of.
        for score in (info.score, *(lower for lower in _SCORES if lower < info.score)):
            settings["score_thr"] = score
            found = [find(model, info, one) for one in prepared]
            if sum(map(len, found)) >= _ENOUGH:
                break
    finally:
        settings.clear()
        settings.update(own)
    return found, score


def _info(detector: Detector, module: ExportableDetector, size: tuple[int, int] | None) -> Info:
    """Return what the file will say about itself.

    Raises:
        ExportError: The size is no multiple of what the detector needs.
    """
    divisor = module.divisor
    if size is not None and (min(size) < divisor or any(side % divisor for side in size)):
        near = "x".join(str(max(1, round(side / divisor)) * divisor) for side in size)
        raise ExportError(f"The size {size[0]}x{size[1]} is no multiple of {divisor}: choose {near}, say.")
    mean, std = ([] if x is None else x.flatten().tolist() for x in (module.mean, module.std))
    config = detector.config.to_dict()
    try:
        text = to_json(take(config))  # what readers take without trust
    except ValueError:  # types of the user's own: the whole config, for those who trust it
        text = as_text(config)
    return Info(
        classes=tuple(detector.classes),
        config=text,
        size=None if size is None else (size[0], size[1]),
        divisor=divisor,
        score=float(module.settings.get("score_thr", 0.0)),
        mask_threshold=float(module.settings.get("mask_thr_binary", 0.5)),
        normalization={"mean": mean, "std": std, "swaps_channels": module.swap},
        versions=versions(),
    )
