"""Predictions against ground truth, evaluated by pycocotools: the arrays that all tables and curves are read from."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..datasets.annotations import read_annotations
from ..datasets.images import PixelRange, pixel_range_of
from ..errors import DataError
from ..evaluation.truth import GroundTruth

TASKS = {"bbox": "boxes", "segm": "masks"}
RANGES = {"AP": (None, 0), "AP50": (0.5, 0), "AP75": (0.75, 0), "APs": (None, 1), "APm": (None, 2), "APl": (None, 3)}
_LIMIT = 2  # the index of 100 detections an image, with which COCO's AP is defined


@dataclass(frozen=True)
class Evaluation:
    """What pycocotools found out.

    Attributes:
        truth: The ground truth, numbered anew.
        found: The predictions.
        classes: Name of each category id of `truth`, in the order of the labels.
        tasks: An evaluator that has accumulated for each of 'bbox' and 'segm' that there is; only its results are left.
        images: The folder of the images, if it is known.
        pixel_range: Of images with more than 8 bits, as of the config's setting.
    """

    truth: GroundTruth
    found: COCO
    classes: Mapping[int, str]
    tasks: Mapping[str, COCOeval]
    images: Path | None = None
    pixel_range: PixelRange | None = None

    @property
    def main_task(self) -> str:
        """The task whose overlaps decide what is right and wrong: masks where there are any."""
        return list(self.tasks)[-1]


def evaluate(
    annotations: str | Path,
    predictions: str | Path,
    classes: Sequence[str] | None = None,
    images: str | Path | None = None,
    image_ids: Collection[object] | None = None,
    pixel_range: Any = None,
) -> Evaluation:
    """Reads both files and evaluates boxes, and masks where both have them, as MMDetection's `CocoMetric` does.

    Args:
        annotations: Ground truth, a data set in COCO's format.
        predictions: A list in the format of COCO's results.
        classes: Names of the classes that count, in the order of the labels; by default all of the file.
        images: The folder of the images.
        image_ids: Ids of the images that were evaluated; by default all of the file.
        pixel_range: As of the config's setting.

    Raises:
        ConfigError: `pixel_range` is none.
        DataError: A file is missing, broken, or they do not belong together.
    """
    pixels = pixel_range_of(pixel_range)
    listed = read_annotations(annotations)
    truths = json.loads(Path(annotations).read_bytes())
    content = _read_predictions(predictions)
    _check_ids(content, truths, predictions)
    with_masks = bool(content) and all("segmentation" in one for one in content)
    with_masks &= listed.without_mask < listed.boxes
    names = tuple(classes or listed.categories)

    def evaluated(task: str) -> tuple[GroundTruth, COCO, COCOeval]:
        # The area of a detection is that of its box for boxes, and that of its mask for masks.
        left_out = "segmentation" if task == "bbox" else "bbox"
        truth = GroundTruth(truths, image_ids, names, masks=task == "segm", source=annotations)
        found = truth.loadRes([{k: v for k, v in one.items() if k != left_out} for one in content])
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator = COCOeval(truth, found, task)
            evaluator.evaluate()
            evaluator.accumulate()
        # Images by themselves, of no more use: gigabytes for COCO's validation set, once for each task.
        evaluator.evalImgs, evaluator.ious, evaluator._gts, evaluator._dts = [], {}, {}, {}
        evaluator.cocoDt = None
        return truth, found, evaluator

    truth, found, of_boxes = evaluated("bbox")
    tasks = {"bbox": of_boxes}
    if with_masks:
        truth, found, tasks["segm"] = evaluated("segm")
    return Evaluation(truth, found, dict(enumerate(names, 1)), tasks, Path(images) if images else None, pixels)


def _read_predictions(path: str | Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"The predictions {path} cannot be read ({reason}): name a JSON file of COCO's results."
        ) from error
    needed = {"image_id", "category_id", "score"}
    good = isinstance(content, list) and all(
        isinstance(one, dict) and needed <= one.keys() and {"bbox", "segmentation"} & one.keys() for one in content
    )
    if not good:
        raise DataError(
            f"{path} holds no predictions in the format of COCO's results, a list of objects with image_id, "
            "category_id, score and bbox or segmentation: write one with `localvit test … --report`."
        )
    return content


def _check_ids(content: list[dict], truths: dict, path: str | Path) -> None:
    for key, section, what in (("image_id", "images", "images"), ("category_id", "categories", "classes")):
        if foreign := {one[key] for one in content} - {one["id"] for one in truths[section]}:
            raise DataError(
                f"The predictions {path} name {len(foreign)} {what} that the annotations do not have (first {key}: "
                f"{min(foreign, key=str)}): name the annotations that they were made for."
            )


def average_precision(evaluator: COCOeval, column: str = "AP", label: int | None = None) -> float | None:
    """A number of COCO's table from the accumulated precisions.

    Args:
        evaluator: After `accumulate()`.
        column: Among `RANGES`.
        label: Of one class; None for the mean over all.

    Returns:
        From 0 to 1; None where there is no such object.
    """
    threshold, area = RANGES[column]
    rows = slice(None) if threshold is None else np.isclose(evaluator.params.iouThrs, threshold)
    found = evaluator.eval["precision"][rows][:, :, slice(None) if label is None else label, area, _LIMIT]
    found = found[found > -1]
    return float(found.mean()) if found.size else None


def precision_at_half(evaluator: COCOeval, label: int | None = None) -> np.ndarray | None:
    """Precision at the 101 recalls of COCO, at an overlap of 0.5: (101,), or the mean over the classes."""
    curves = evaluator.eval["precision"][0, :, :, 0, _LIMIT]  # 101, classes
    curves = curves[:, curves[0] > -1] if label is None else curves[:, [label]]
    return curves.mean(1) if curves.size and curves.min() > -1 else None


def best_score(evaluator: COCOeval, label: int) -> tuple[float, float] | None:
    """The score from which on a class has its best F1 at an overlap of 0.5, and that F1; None without objects."""
    precision = precision_at_half(evaluator, label)
    if precision is None or not precision.any():
        return None
    recall = evaluator.params.recThrs
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = int(f1.argmax())
    return float(evaluator.eval["scores"][0, best, label, 0, _LIMIT]), float(f1[best])
