"""Predictions against ground truth: the arrays of COCO's evaluation, for all tables and curves, and matches.

A match tells which prediction is which object at one overlap and from one score on, as a user sees the result; what
COCO's evaluation matches, at ten overlaps and for all scores, does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from ..datasets.annotations import read_annotations
from ..datasets.images import BrokenImageError, PixelRange, decode, pixel_range_of, read_file
from ..datasets.json_stream import read_content
from ..errors import DataError
from ..evaluation.coco import Detections, GroundTruth, coco_evaluator, detections_of, prints_logged
from ..visualization import Objects

TASKS = {"bbox": "boxes", "segm": "masks"}
RANGES = {"AP": (None, 0), "AP50": (0.5, 0), "AP75": (0.75, 0), "APs": (None, 1), "APm": (None, 2), "APl": (None, 3)}
# How images are ranked, the worst first.
MEASURES = {
    "mistakes": "missed, false and confused objects together",
    "missed": "objects that were not found",
    "false": "predictions where nothing is",
    "confused": "objects found with the name of another class",
    "f1": "the lowest F1, 2·right / (2·right + missed + false + 2·confused)",
}
_LIMIT = 2  # the index of 100 detections an image, with which COCO's AP is defined

Object = dict[str, Any]  # an annotation or a prediction in COCO's format


class Accumulated(NamedTuple):
    """What an evaluator has found, by its names: settings, arrays such as `precision`, detections of each class."""

    params: Params
    eval: Mapping[str, np.ndarray]
    detections: Sequence[Detections] = ()


@dataclass(frozen=True)
class Evaluation:
    """What was evaluated as COCO does it."""

    truth: GroundTruth  # the ground truth, numbered anew
    found: COCO  # the predictions
    classes: Mapping[int, str]  # name of each category id of `truth`, in the order of the labels
    tasks: Mapping[str, Accumulated]  # the results of each of 'bbox' and 'segm' that there is
    images: Path | None = None  # the folder of the images, if it is known
    pixel_range: PixelRange | None = None  # of images with more than 8 bits, as of the config's setting

    @property
    def main_task(self) -> str:
        """The task whose overlaps decide what is right and wrong: masks where there are any."""
        return list(self.tasks)[-1]

    def metrics(self) -> dict[str, float]:
        """Return COCO's AP of each task by MMDetection's names, as `coco/bbox_mAP`; -1 where there are no objects."""
        names = dict(zip(RANGES, ("", "_50", "_75", "_s", "_m", "_l"), strict=True))
        found = {(task, name): average_precision(one, name) for task, one in self.tasks.items() for name in RANGES}
        return {f"coco/{task}_mAP{names[name]}": -1.0 if ap is None else ap for (task, name), ap in found.items()}


def evaluate(
    annotations: str | Path,
    predictions: str | Path,
    classes: Sequence[str] | None = None,
    images: str | Path | None = None,
    image_ids: Collection[object] | None = None,
    pixel_range: Any = None,
    by_image: bool = False,
) -> Evaluation:
    """Read both files and evaluate boxes, and masks where both have them, as MMDetection's `CocoMetric` does.

    Args:
        annotations: Ground truth, a dataset in COCO's format.
        predictions: A list in the format of COCO's results.
        classes: Names of the classes that count, in the order of the labels; by default all of the file.
        images: The folder of the images.
        image_ids: Ids of the images that were evaluated; by default all of the file.
        pixel_range: As of the config's setting.
        by_image: Keep what was found image by image, for `evaluation.coco.resampled_ap`.

    Raises:
        ConfigError: `pixel_range` is none.
        DataError: A file is missing, broken, or they do not belong together.
    """
    pixels = pixel_range_of(pixel_range)
    listed = read_annotations(annotations)
    content = _read_predictions(predictions)
    with_masks = bool(content) and all("segmentation" in one for one in content)
    with_masks &= listed.without_mask < listed.boxes
    truths = read_content(Path(annotations))
    _check_ids(content, truths, predictions)
    names = tuple(classes or listed.categories)

    def evaluated(task: str) -> tuple[GroundTruth, COCO, Accumulated]:
        # The area of a detection is that of its box for boxes, and that of its mask for masks.
        left_out = "segmentation" if task == "bbox" else "bbox"
        truth = GroundTruth(truths, image_ids, names, masks=task == "segm", source=annotations)
        found = truth.loadRes([{k: v for k, v in one.items() if k != left_out} for one in content])
        with prints_logged():
            evaluator = (COCOeval if by_image else coco_evaluator())(truth, found, task)
            evaluator.evaluate()
            evaluator.accumulate()
        # Not the evaluator: it holds gigabytes of images by themselves for COCO's validation set.
        return truth, found, Accumulated(evaluator.params, evaluator.eval, detections_of(evaluator) if by_image else ())

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
            "category_id, score and bbox or segmentation: `localvit test … --report` writes one, and `localvit "
            "predict` with --json and --annotations."
        )
    return content


def _check_ids(content: list[dict], truths: dict, path: str | Path) -> None:
    for key, section, what in (("image_id", "images", "images"), ("category_id", "categories", "classes")):
        if unknown := {one[key] for one in content} - {one["id"] for one in truths[section]}:
            raise DataError(
                f"The predictions {path} name {len(unknown)} {what} that the annotations do not have (first {key}: "
                f"{min(unknown, key=str)}): name the annotations that they were made for."
            )


def average_precision(evaluator: Accumulated, column: str = "AP", label: int | None = None) -> float | None:
    """Return a number of COCO's table, from 0 to 1, from accumulated precisions; None where there is no such object.

    `column` is among `RANGES`; the number is that of one class, or the mean over all where `label` is None.
    """
    threshold, area = RANGES[column]
    rows = slice(None) if threshold is None else np.isclose(evaluator.params.iouThrs, threshold)
    # The class first: a choice of rows copies what it is taken from, for a thousand classes ten megabytes each time.
    found = evaluator.eval["precision"][:, :, slice(None) if label is None else label, area, _LIMIT][rows]
    found = found[found > -1]
    return float(found.mean()) if found.size else None


def precision_at_half(evaluator: Accumulated, label: int | None = None) -> np.ndarray | None:
    """Return precision at the 101 recalls of COCO, at an overlap of 0.5: (101,), of a class or the mean of all."""
    curves = evaluator.eval["precision"][0, :, :, 0, _LIMIT]  # 101, classes
    curves = curves[:, curves[0] > -1] if label is None else curves[:, [label]]
    return curves.mean(1) if curves.size and curves.min() > -1 else None


def best_score(evaluator: Accumulated, label: int) -> tuple[float, float] | None:
    """Return the score with the best F1 of a class at an overlap of 0.5, and that F1; None without objects."""
    precision = precision_at_half(evaluator, label)
    if precision is None or not precision.any():
        return None
    recall = evaluator.params.recThrs
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = int(f1.argmax())
    return float(evaluator.eval["scores"][0, best, label, 0, _LIMIT]), float(f1[best])


# ---- matches


@dataclass(frozen=True)
class Matches:
    """The objects and predictions of one image."""

    image_id: int
    # Pairs of an object and a prediction of the same class.
    right: list[tuple[Object, Object]] = field(default_factory=list)
    confused: list[tuple[Object, Object]] = field(default_factory=list)  # pairs of different classes
    missed: list[Object] = field(default_factory=list)  # objects without a prediction
    false: list[Object] = field(default_factory=list)  # predictions without an object

    @property
    def f1(self) -> float:
        """1 where all is right, also where nothing is there and nothing was found."""
        wrong = len(self.missed) + len(self.false) + 2 * len(self.confused)
        return 1.0 if not wrong else 2 * len(self.right) / (2 * len(self.right) + wrong)

    def badness(self, measure: str) -> float:
        """Return how bad the image is by one of `MEASURES`."""
        if measure == "f1":
            return 1 - self.f1
        if measure == "mistakes":
            return len(self.missed) + len(self.false) + len(self.confused)
        return len(getattr(self, measure))


def match(evaluation: Evaluation, overlap: float = 0.5, score: float = 0.3) -> list[Matches]:
    """Match all images, in the order of their ids.

    Predictions choose in the order of their scores, each the free object of its class that it overlaps most; those
    that are left then choose among the objects of other classes. What lies in a crowd is neither right nor wrong.

    Args:
        overlap: Least intersection over union of a pair; of masks where there are masks, else of boxes.
        score: Least score of a prediction.
    """
    truth, found = evaluation.truth, evaluation.found
    matches = []
    for image_id in sorted(truth.imgs):
        predictions = [one for one in found.imgToAnns.get(image_id, ()) if one["score"] >= score]
        predictions.sort(key=lambda one: -one["score"])
        objects = list(truth.imgToAnns.get(image_id, ()))
        matches.append(_match_image(evaluation, image_id, objects, predictions, overlap))
    return matches


def _match_image(
    evaluation: Evaluation, image_id: int, objects: list[Object], predictions: list[Object], overlap: float
) -> Matches:
    result = Matches(image_id)
    crowd = np.array([bool(one["iscrowd"]) for one in objects], bool)
    free = [index for index, one in enumerate(objects) if not one["iscrowd"]]
    overlaps = _overlaps(evaluation, predictions, objects)  # predictions, objects
    near_by: dict[int, list[int]] = {}  # objects that overlap enough, by prediction: few
    for index, other in np.argwhere(overlaps >= overlap).tolist():
        near_by.setdefault(index, []).append(other)
    left = list(range(len(predictions)))
    for same in (True, False):
        pairs = result.right if same else result.confused
        for index in [one for one in left if one in near_by]:
            category = predictions[index]["category_id"]
            near = [
                other
                for other in near_by[index]
                if other in free and (objects[other]["category_id"] == category) is same
            ]
            if near:
                best = max(near, key=lambda other: overlaps[index, other])
                pairs.append((objects[best], predictions[index]))
                free.remove(best)
                left.remove(index)
    result.missed.extend(objects[index] for index in free)
    result.false.extend(predictions[index] for index in left if not (overlaps[index, crowd] >= overlap).any())
    return result


def _overlaps(evaluation: Evaluation, predictions: Sequence[Object], objects: Sequence[Object]) -> np.ndarray:
    """Return intersection over union, with a crowd over the prediction alone: (predictions, objects)."""
    if not predictions or not objects:
        return np.zeros((len(predictions), len(objects)))
    crowd = [int(one["iscrowd"]) for one in objects]
    if evaluation.main_task == "bbox":
        return coco_masks.iou([one["bbox"] for one in predictions], [one["bbox"] for one in objects], crowd)
    found, truth = evaluation.found, evaluation.truth
    return coco_masks.iou([found.annToRLE(one) for one in predictions], [truth.annToRLE(one) for one in objects], crowd)


def confusion_matrix(matches: Iterable[Matches], categories: Sequence[int]) -> np.ndarray:
    """Return counts of objects, (classes + 1, classes + 1), int, by what they are and what they were taken for.

    The last row and column are the background; their corner is 0.
    """
    place = {category: index for index, category in enumerate(categories)}
    counts = np.zeros((len(place) + 1, len(place) + 1), int)
    for image in matches:
        for truth, found in (*image.right, *image.confused):
            counts[place[truth["category_id"]], place[found["category_id"]]] += 1
        for truth in image.missed:
            counts[place[truth["category_id"]], -1] += 1
        for found in image.false:
            counts[-1, place[found["category_id"]]] += 1
    return counts


def most_confused(counts: np.ndarray, names: Sequence[str], most: int) -> tuple[np.ndarray, list[str]]:
    """Return a confusion matrix that can be read: of many classes those that are confused most, the others together.

    Returns:
        The counts, (most + 2, most + 2) with the others and the background last, and the names of all but that.
    """
    if len(names) <= most:
        return counts, list(names)
    mistakes = counts[:-1, :-1] - np.diag(counts.diagonal()[:-1])
    order = np.argsort(-(mistakes.sum(0) + mistakes.sum(1)), kind="stable")
    kept = np.sort(order[:most])
    place = np.full(len(counts), most)
    place[kept], place[-1] = np.arange(most), most + 1
    merged = np.zeros((most + 2, most + 2), int)
    np.add.at(merged, (place[:, None], place[None, :]), counts)
    return merged, [*(names[index] for index in kept), f"{len(names) - most:,} others"]


def worst(matches: Iterable[Matches], measure: str, count: int) -> list[Matches]:
    """Return the worst images by one of `MEASURES`, the worst first; images without any mistake are left out."""
    bad = [image for image in matches if image.badness(measure) > 0]
    return sorted(bad, key=lambda image: (-image.badness(measure), image.f1, image.image_id))[:count]


# ---- pictures


def read_image(
    folder: str | os.PathLike, entry: Mapping[str, Any], pixel_range: PixelRange | None
) -> np.ndarray | None:
    """Return an image of a dataset as a training reads it: H×W×3, uint8, BGR; None where it cannot be used."""
    try:
        content = read_file(Path(folder, entry["file_name"]))
        return decode(content, (entry["width"], entry["height"]), pixel_range=pixel_range)
    except BrokenImageError:
        return None


def objects_of(coco: COCO, annotations: Sequence[dict], labels: Mapping[int, int], texts: Sequence[str]) -> Objects:
    """Return annotations or predictions of one image, of a dataset in COCO's format, for drawing with these texts.

    `labels` has the label of each category id.
    """
    boxes = np.array([one["bbox"] for one in annotations], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masked = bool(annotations) and all(one.get("segmentation") for one in annotations)
    masks = np.array([coco.annToMask(one).astype(bool) for one in annotations]) if masked else None
    return Objects(
        boxes.astype(np.float32), np.array([labels[one["category_id"]] for one in annotations], int), texts, masks
    )
