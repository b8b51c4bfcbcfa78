"""Who computes COCO's numbers, faster-coco-eval (C++) or pycocotools, and how much of AP is chance.

For the latter images are drawn again and again, with repetition.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log
from packaging.version import Version
from pycocotools.cocoeval import COCOeval

from ..errors import RequirementError
from ..requirements import require_package

_PACKAGE = "faster-coco-eval"


def coco_evaluator(fast: bool | None = None) -> type:
    """Return an evaluator with the interface of `COCOeval`.

    Args:
        fast: Whether it is faster-coco-eval's; by default where that can be imported.
    """
    if fast is False:
        return COCOeval
    try:
        return fast_evaluator()
    except ImportError as error:
        if fast:
            raise
        _report_slow(str(error))
        return COCOeval


@functools.cache
def _report_slow(reason: str) -> None:
    print_log(
        f"pycocotools evaluates, which takes longer ({reason}): `pip install '{_PACKAGE}>=1.8,<2'` gives the same "
        "numbers sooner.",
        "current",
    )


def check_fast_eval() -> None:
    """Check that faster-coco-eval is there, before an inference of hours rather than after it.

    Raises:
        RequirementError: It is not installed, or cannot be used.
    """
    require_package("faster_coco_eval", "FastCocoMetric (--fast-eval)", _PACKAGE)
    try:
        fast_evaluator()
    except ImportError as error:
        raise RequirementError(f"FastCocoMetric (--fast-eval) cannot be used: {error}.") from error


@functools.cache
def fast_evaluator() -> type:
    """Return faster-coco-eval's evaluator, with the averages of pycocotools.

    Raises:
        ImportError: It is not installed, or of another version than those that were compared.
    """
    from faster_coco_eval import COCOeval_faster, __version__

    if not Version("1.8") <= Version(__version__) < Version("2"):
        raise ImportError(f"{_PACKAGE} {__version__} is none of {_PACKAGE}>=1.8,<2")

    class Evaluator(COCOeval_faster):
        def __init__(self, coco_gt: object, coco_dt: object, iou_type: str) -> None:
            super().__init__(coco_gt, coco_dt, iou_type, print_function=print)  # as pycocotools does

        def _summarize(
            self, ap: int = 1, iouThr: float | None = None, areaRng: str = "all", maxDets: int = 100
        ) -> float:
            # pycocotools takes AP, unlike every other number, over 100 detections, whatever the largest limit is
            # (MMDetection's is 1000), and says -1 where 100 is not among the limits.
            if ap == 1 and iouThr is None and areaRng == "all":
                if 100 not in self.params.maxDets:
                    return -1.0
                maxDets = 100
            return super()._summarize(ap, iouThr, areaRng, maxDets)

    return Evaluator


_MOST = 4_000_000  # numbers of an array at a time


class Detections(NamedTuple):
    """Those of a class in all images, by descending score; T overlaps, D detections, I images.

    Attributes:
        image: Index of the image of each, (D,).
        right: Whether it matches an object, (T, D); what matches a crowd is neither right nor wrong.
        wrong: Whether it matches nothing, (T, D).
        objects: Count in each image, (I,).
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


def detections_of(evaluator: COCOeval) -> list[Detections]:
    """Return the detections of each class, of all sizes, after `evaluate()`."""
    params = evaluator.params
    images, most = len(params.imgIds), params.maxDets[-1]
    found = []
    for label in range(len(params.catIds)):
        start = label * len(params.areaRng) * images  # the first range of areas is that of all
        shown = [(i, one) for i, one in enumerate(evaluator.evalImgs[start : start + images]) if one is not None]
        objects = np.zeros(images, int)
        for index, one in shown:
            objects[index] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
        scores = np.concatenate([np.zeros(0), *(one["dtScores"][:most] for _, one in shown)])
        order = np.argsort(-scores, kind="mergesort")  # as pycocotools ranks equal scores
        nothing = np.zeros((len(params.iouThrs), 0), bool)
        matched, ignored = (
            np.concatenate([nothing, *(one[key][:, :most] != 0 for _, one in shown)], 1)[:, order]
            for key in ("dtMatches", "dtIgnore")
        )
        image = np.concatenate([np.zeros(0, int), *(np.full(len(one["dtScores"][:most]), i) for i, one in shown)])
        found.append(Detections(image[order], matched & ~ignored, ~matched & ~ignored, objects))
    return found


def draw_images(images: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each image is drawn when as many are drawn with repetition, (resamples, images)."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)


def resampled_ap(found: Sequence[Detections], counts: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return COCO's AP (R,) where each image counts several times, the mean over classes with objects; NaN without any.

    Args:
        found: Of each class.
        counts: How often each image counts, (R, I).
        recalls: At which precision is averaged, from 0 to 1.
    """
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    for one in found:
        objects = counts @ one.objects
        step = max(1, _MOST // max(len(one.image), 1))
        for start in range(0, len(counts), step):
            part = np.s_[start : start + step]
            each = counts[part][:, one.image]  # R, D
            pairs = zip(one.right, one.wrong, strict=True)
            at_overlaps = [_ap(each * right, each * wrong, objects[part], recalls) for right, wrong in pairs]
            total[part] += np.where(objects[part] > 0, np.mean(at_overlaps, 0), 0)
        classes += objects > 0
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)


def _ap(right: np.ndarray, wrong: np.ndarray, objects: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return AP (R,) from counts (R, D) of right and wrong detections by descending score, and of objects (R,)."""
    rows, width = right.shape
    right, wrong = right.cumsum(1), wrong.cumsum(1)
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    # How many have to be right for each recall, compared as pycocotools compares: count / objects with the recall.
    all_objects = np.maximum(objects, 1)[:, None]
    needed = np.ceil(recalls * all_objects)
    needed -= (needed - 1) / all_objects >= recalls
    needed += needed / all_objects < recalls
    # Rows one behind the other, each above the last, are one ascending row, in which all are looked up at once.
    above = np.arange(rows)[:, None] * (max(right.max(initial=0), int(needed.max(initial=0))) + 1)
    place = np.searchsorted((right + above).ravel(), (needed + above).ravel()).reshape(rows, len(recalls))
    place -= np.arange(rows)[:, None] * width  # `width` where it is never reached
    return np.take_along_axis(np.pad(precision, ((0, 0), (0, 1))), place, 1).mean(1)
