"""Quantize exported detectors to INT8 by OpenVINO's NNCF, after training."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision.ops import box_iou

from ..checkpoint.exported import NOTE, read_info
from ..config.pipelines import SCORE, image_pipeline, prepare
from ..errors import ConfigError, DataError, ExportError
from ..files import check_writable, move_with_parts
from ..requirements import require_package
from .comparison import find
from .dense import AnchorDetector
from .detector import export_detector, exportable
from .formats import find_format
from .runtime import ExportedDetector

if TYPE_CHECKING:
    import openvino

    from ..predict.detector import Detector
    from ..predict.result import Frame

IMAGES = 300  # as many as NNCF looks at by default
_EXACT, _COMPARED = 3, 20  # of these, on which the exported model is compared before and after rounding
_LEAST = 0.5  # of the objects have to be found again
# What stays in fp32, by the names that exporters give operators, which are those of their layers.
# Operators outside of layers compute boxes: a place in an image would be off by several pixels.
_OUTSIDE_LAYERS = r"^(?!/?(backbone|neck|dense_head|box_heads\.\d+|mask_heads\.\d+)/).*"
# Downsampling between stages has few products, and a few channels far larger than all others before its norms: with it
# in INT8 GG lost 84 of 120 objects, without it none.
DOWNSAMPLING = r"^/?(backbone/)?stages\.\d+/downsample/.*"
# The inhomogeneous convolution, sums of 49 products, and the layer after it: with them in INT8 52 of 117 objects
# were lost. Other families' layers of these names lose none.
_INHOMOGENEOUS = r"^/?backbone/stages\.\d+/blocks\.\d+/conv/Add_8$"  # no other has as many sums
_OF_INHOMOGENEOUS = r"^/?backbone/stages\.\d+/blocks\.\d+/(conv/(Mul|Add|MatMul|generate/)|project/).*"


@dataclass(frozen=True)
class Quantized:
    """What was found in INT8."""

    images: int  # that the exported model was calibrated on
    objects: int  # that the detector found in some of these, with scores that count
    again: int  # of these, found by the exported model: the same class, boxes that overlap by half


def quantize(
    detector: Detector,
    path: str | os.PathLike,
    calibration: Iterable[Frame],
    size: tuple[int, int] | None = None,
) -> Quantized:
    """Write a detector for OpenVINO with its products in INT8.

    Args:
        detector: As of `export_detector`.
        path: The .xml.
        calibration: Images like those that it will see; of more than 300 the first 300 are taken.
        size: As of `export_detector`.

    Raises:
        RequirementError: NNCF is missing.
        ConfigError: The model is of another kind.
        DataError: None of the images can be read.
        ExportError: As of `export_detector`; or the exported model loses half of what the detector finds.
    """
    require_package("nncf", "--int8")
    import openvino

    if not isinstance(exportable(detector.model), AnchorDetector):  # refused before images are read
        raise ConfigError(
            f"--int8 is for R-CNNs and RetinaNet, and the model is a {type(detector.model).__name__}, of which INT8 "
            "has not been measured: leave --int8 out."
        )
    pipeline = image_pipeline(detector.config, size)
    images = [frame.image for frame in islice(calibration, IMAGES)]
    if not images:
        raise DataError("--calibration holds no image that can be read: name others.")
    path = Path(os.path.realpath(path))
    check_writable(path, "--out")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        draft = Path(folder, path.name)
        export_detector(detector, draft, "openvino", size, images[:_EXACT])  # checked before anything is rounded
        info = replace(read_info(draft), int8=True)

        def inputs(image: np.ndarray) -> tuple[np.ndarray, ...]:
            padded, extent = info.input_of(prepare(pipeline, image)["inputs"])
            return padded.numpy(), extent.numpy(), np.float32(info.score)

        model = openvino.Core().read_model(os.fspath(draft))
        quantized = to_int8(model, images, inputs, outside=_outside(model))
        quantized.set_rt_info(info.to_text(), NOTE)
        whole = Path(folder, "int8", path.name)
        openvino.save_model(quantized, os.fspath(whole), compress_to_fp16=False)
        run = find_format("openvino", whole).open(whole)
        exported = ExportedDetector(run, info)
        prepared = [prepare(pipeline, image) for image in images[:_COMPARED]]
        objects, again = _count_found(detector, exported, prepared)
        del run, exported
        check_found_again(objects, again)
        move_with_parts(whole, path)
    return Quantized(len(images), objects, again)


def _outside(model: openvino.Model) -> str:
    """Return a pattern of the names of operators that stay as they are."""
    found = any(re.match(_INHOMOGENEOUS, operator.get_friendly_name()) for operator in model.get_ops())
    return "|".join((_OUTSIDE_LAYERS, DOWNSAMPLING, *([_OF_INHOMOGENEOUS] if found else [])))


def check_found_again(objects: int, again: int) -> None:
    """Refuse an exported model that finds too few of the objects again that the detector is sure of.

    Raises:
        ExportError: Half of them are lost, or there are none.
    """
    if not objects:
        raise ExportError(
            "The detector is sure of no object in the images of --calibration, so nothing is proved: name images with "
            "objects that it was trained for; no file was written."
        )
    if again < _LEAST * objects:
        raise ExportError(
            f"In INT8 the exported model finds {again} of {objects} objects again: give more images, and such as the "
            "detector was trained for; no file was written."
        )


def _count_found(detector: Detector, exported: ExportedDetector, prepared: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Count the objects that the detector is sure of, and those of them that the exported model finds."""
    objects = again = 0
    for one in prepared:
        ours = find(detector.model, exported.info, one).pred_instances
        ours = ours[ours.scores >= SCORE]
        # What is nearly as sure counts: scores move a little.
        theirs = exported.find(one["inputs"], one["data_samples"], exported.info.score)
        objects += len(ours)
        if len(ours) and len(theirs):
            same = ours.labels[:, None] == theirs.labels[None]
            overlaps = torch.where(same, box_iou(ours.bboxes, theirs.bboxes), 0.0)
            again += int((overlaps.amax(1) > 0.5).sum())
    return objects, again


def to_int8(
    model: openvino.Model,
    items: Sequence[Any],
    inputs: Callable[[Any], Any] | None = None,
    outside: str | None = None,
) -> openvino.Model:
    """Return a model of OpenVINO with its products in INT8.

    Args:
        items: Examples of what it will see, of which `inputs` makes the model's inputs; by default they are that.
        outside: A pattern of names of operators that stay as they are.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    ignored = nncf.IgnoredScope(patterns=[outside], validate=False) if outside else None
    data = nncf.Dataset(items, inputs) if inputs else nncf.Dataset(items)
    return nncf.quantize(model, data, subset_size=len(items), ignored_scope=ignored)
