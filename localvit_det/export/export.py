"""Writes a whole detector into one file, runs that, and compares it with the detector."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
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
from ..config.test_pipeline import image_pipeline, prepare
from ..datasets.synthetic_shapes import CLASSES, draw_image
from ..errors import ExportError, first_line
from ..files import check_writable
from ..fused import fused_copy
from .agreement import MASK, STRAYS, Agreement, compare_objects
from .detector import INPUTS, OUTPUTS, ExportableDetector, exportable
from .formats import Program, find_format, written
from .runtime import ExportedDetector

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

    from ..predict.detector import Detector

# Heights and widths of the images that are drawn for the comparison, and of that which exporters follow.
_SHAPES, _EXAMPLE = ((240, 320), (320, 200), (320, 320)), (250, 320)
_ENOUGH = 5  # objects in all images, fewer of which prove little
_SCORES = (0.01, 1e-3, 0.0)
_BYTES = -1  # the threshold for masks that are probabilities, as MMDetection has it


def export_detector(
    detector: Detector,
    path: str | os.PathLike,
    format: str | None = None,
    size: tuple[int, int] | None = None,
    images: Sequence[np.ndarray] = (),
) -> list[Agreement]:
    """Write a detector to a file of another runtime, run that, and compare what it finds.

    Args:
        detector: With its weights; it is left as it is. Its fused form is written.
        path: The file; of OpenVINO the .xml, beside which its .bin is written.
        format: As of `export_backbone`.
        size: Height and width, in pixels, of the images that the program takes; by default it takes any.
        images: To compare on, H×W×3, uint8, BGR; by default three drawn ones.

    Returns:
        How far the program is from the detector, for each image.

    Raises:
        ExportError: The detector or the format does not allow it, or the program finds something else; no file is
            left.
        OutputError: The file cannot be written.
    """
    kind = find_format(format, path)
    check_writable(path, "--out")
    module = exportable(fused_copy(detector.model))
    info = info_of(detector, module, size)
    pipeline = image_pipeline(detector.config, size)
    example = info.input_of(prepare(pipeline, drawn_image(_EXAMPLE, seed=0))["inputs"])
    program = Program(
        module=module,
        inputs=dict(zip(INPUTS, (*example, torch.tensor(info.score)), strict=True)),
        outputs=OUTPUTS[: 4 if module.makes_masks else 3],
        dynamic=_axes(info, module.makes_masks),
        note=info.to_text(),
    )
    images = images or [drawn_image(shape, seed) for seed, shape in enumerate(_SHAPES, start=1)]
    prepared = [prepare(pipeline, image) for image in images]
    with written(program, path, kind) as run:
        found = compare(detector.model, ExportedDetector(run, info), prepared)
        check(found)
        return found


def compare(model: nn.Module, exported: ExportedDetector, prepared: Sequence[dict[str, Any]]) -> list[Agreement]:
    """Looks for the same objects with a detector and its program, in images as `prepare` gives them.

    Raises:
        ExportError: The program does not run.
    """
    expected, score = _expected(model, exported.info, prepared)
    found = []
    for one, ours in zip(prepared, expected, strict=True):
        size = tuple(one["data_samples"].ori_shape[:2])
        try:
            theirs = exported.find(one["inputs"], one["data_samples"], score, _BYTES)
        # Runtimes raise whatever they like.
        except Exception as error:
            raise ExportError(
                f"The exported program does not run on an image of {size[0]}×{size[1]} ({first_line(error)}): choose "  # noqa: RUF001
                "another format or a fixed size; no file was written."
            ) from error
        found.append(compare_objects(ours, theirs, size))
    return found


def check(found: Sequence[Agreement]) -> None:
    """Says no where a program is wrong.

    Raises:
        ExportError: It finds other objects, or there were none to compare.
    """
    objects, strays = sum(one.objects for one in found), sum(one.strays for one in found)
    if not objects:
        raise ExportError(
            "The detector finds nothing in the images on which its program is compared, so nothing is proved: name "
            "others by --images; no file was written."
        )
    if strays > STRAYS * objects or any(one.mask > MASK for one in found):
        mask = max(one.mask for one in found)
        raise ExportError(
            f"The exported program finds other objects: {strays} of {objects} differ, and masks by {mask:.1%}; choose "
            "another format or a fixed size; no file was written."
        )


def _expected(model: BaseDetector, info: Info, prepared: Sequence[dict[str, Any]]) -> tuple[list[InstanceData], float]:
    """What the detector finds in each image, padded as the program sees it, and above which score."""
    settings = model.roi_head.test_cfg if hasattr(model, "roi_head") else model.bbox_head.test_cfg
    own = dict(settings)
    found: list[InstanceData] = []
    score = info.score
    settings["mask_thr_binary"] = _BYTES
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


@torch.no_grad()
def find(model: BaseDetector, info: Info, one: dict[str, Any]) -> InstanceData:
    """Objects that a detector finds in an image as `prepare` gives it, padded as its program sees it."""
    data = model.data_preprocessor({"inputs": [one["inputs"]], "data_samples": [copy.deepcopy(one["data_samples"])]})
    batch, fill = data["inputs"], float(model.data_preprocessor.pad_value)
    height, width = info.size or batch.shape[2:]
    batch = F.pad(batch, (0, width - batch.shape[3], 0, height - batch.shape[2]), value=fill)
    return model.predict(batch, data["data_samples"])[0].pred_instances


def drawn_image(size: tuple[int, int], seed: int) -> np.ndarray:
    """An image with drawn shapes, (height, width, 3), uint8, BGR."""
    image, _ = draw_image(np.random.default_rng(seed), max(size), CLASSES, "bright")
    return np.ascontiguousarray(image[: size[0], : size[1]])


def _axes(info: Info, masks: bool) -> dict[str, dict[int, str]]:
    image = {} if info.size else {INPUTS[0]: {2: "height", 3: "width"}}
    return {**image, **{name: {0: "objects"} for name in OUTPUTS[: 4 if masks else 3]}}


def info_of(detector: Detector, module: ExportableDetector, size: tuple[int, int] | None) -> Info:
    """What the file will say about itself.

    Raises:
        ExportError: The size is no multiple of what the detector needs.
    """
    divisor = module.divisor
    if size is not None and (min(size) < divisor or any(side % divisor for side in size)):
        near = "x".join(str(max(1, round(side / divisor)) * divisor) for side in size)
        raise ExportError(f"The size {size[0]}x{size[1]} is no multiple of {divisor}: choose {near}, say.")
    mean, std = ([] if x is None else x.flatten().tolist() for x in (module.mean, module.std))
    return Info(
        classes=tuple(detector.classes),
        config=_config_text(detector.config.to_dict()),
        size=None if size is None else (size[0], size[1]),
        divisor=divisor,
        score=float(module.settings.get("score_thr", 0.0)),
        mask_threshold=float(module.settings.get("mask_thr_binary", 0.5)),
        normalization={"mean": mean, "std": std, "swaps_channels": module.swap},
        versions=versions(),
    )


def _config_text(config: dict[str, Any]) -> str:
    """Return what readers take without trust; with types of the user's own the whole config, for those who trust it."""
    try:
        return to_json(take(config))
    except ValueError:
        return as_text(config)
