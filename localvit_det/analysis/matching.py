"""Which prediction is which object: at one overlap and from one score on, as a user sees the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from .coco import Evaluation

BACKGROUND = "background"
# How images are ranked, the worst first.
MEASURES = {
    "mistakes": "missed, false and confused objects together",
    "missed": "objects that were not found",
    "false": "predictions where nothing is",
    "confused": "objects found with the name of another class",
    "f1": "the lowest F1, 2·right / (2·right + missed + false + 2·confused)",
}

Object = dict[str, Any]  # an annotation or a prediction in COCO's format


@dataclass(frozen=True)
class Matches:
    """The objects and predictions of one image.

    Attributes:
        right: Pairs of an object and a prediction of the same class.
        confused: Pairs of different classes.
        missed: Objects without a prediction.
        false: Predictions without an object.
    """

    image_id: int
    right: list[tuple[Object, Object]] = field(default_factory=list)
    confused: list[tuple[Object, Object]] = field(default_factory=list)
    missed: list[Object] = field(default_factory=list)
    false: list[Object] = field(default_factory=list)

    @property
    def f1(self) -> float:
        """1 where all is right, also where nothing is there and nothing was found."""
        wrong = len(self.missed) + len(self.false) + 2 * len(self.confused)
        return 1.0 if not wrong else 2 * len(self.right) / (2 * len(self.right) + wrong)

    def badness(self, measure: str) -> float:
        """How bad the image is by one of `MEASURES`."""
        if measure == "f1":
            return 1 - self.f1
        if measure == "mistakes":
            return len(self.missed) + len(self.false) + len(self.confused)
        return len(getattr(self, measure))


def match(evaluation: Evaluation, overlap: float = 0.5, score: float = 0.3) -> list[Matches]:
    """Matches all images, in the order of their ids.

    Predictions choose in the order of their scores, each the free object of its class that it overlaps most; those
    that are left then choose among the objects of other classes. What lies in a crowd is neither right nor wrong.

    Args:
        overlap: Least intersection over union of a pair; of masks where there are masks, else of boxes.
        score: Least score of a prediction.
    """
    truth, found = evaluation.truth, evaluation.found
    matches = []
    for image_id in sorted(truth.imgs):
        objects = [one for one in truth.imgToAnns.get(image_id, ()) if one["category_id"] in evaluation.classes]
        predictions = [one for one in found.imgToAnns.get(image_id, ()) if one["score"] >= score]
        predictions = [one for one in predictions if one["category_id"] in evaluation.classes]
        predictions.sort(key=lambda one: -one["score"])
        matches.append(_match_image(evaluation, image_id, objects, predictions, overlap))
    return matches


def _match_image(
    evaluation: Evaluation, image_id: int, objects: list[Object], predictions: list[Object], overlap: float
) -> Matches:
    result = Matches(image_id)
    crowd = np.array([bool(one["iscrowd"]) for one in objects], bool)
    free = [index for index, one in enumerate(objects) if not one["iscrowd"]]
    overlaps = _overlaps(evaluation, predictions, objects)  # predictions, objects
    left = list(range(len(predictions)))
    for same in (True, False):
        pairs = result.right if same else result.confused
        for index in list(left):
            category = predictions[index]["category_id"]
            near = [
                other
                for other in free
                if overlaps[index, other] >= overlap and (objects[other]["category_id"] == category) is same
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
    """Intersection over union; of a crowd over the prediction alone: (predictions, objects)."""
    if not predictions or not objects:
        return np.zeros((len(predictions), len(objects)))
    crowd = [int(one["iscrowd"]) for one in objects]
    if evaluation.main_task == "bbox":
        return coco_masks.iou([one["bbox"] for one in predictions], [one["bbox"] for one in objects], crowd)
    found, truth = evaluation.found, evaluation.truth
    return coco_masks.iou([found.annToRLE(one) for one in predictions], [truth.annToRLE(one) for one in objects], crowd)


def confusion_matrix(matches: Iterable[Matches], categories: Sequence[int]) -> np.ndarray:
    """Counts of objects: row = what it is, column = what it was taken for; the last of each is the background.

    Returns:
        (classes + 1, classes + 1), int; the corner of background and background is 0.
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


def worst(matches: Iterable[Matches], measure: str, count: int) -> list[Matches]:
    """The worst images by one of `MEASURES`, the worst first; images without any mistake are none of them."""
    bad = [image for image in matches if image.badness(measure) > 0]
    return sorted(bad, key=lambda image: (-image.badness(measure), image.f1, image.image_id))[:count]
