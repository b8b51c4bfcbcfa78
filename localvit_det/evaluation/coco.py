"""COCO's numbers: ground truth of exactly the images that were evaluated, who computes, and how much of AP is chance.

pycocotools computes, or faster-coco-eval (C++); what they print becomes log lines. To measure chance, images are drawn
again and again, with repetition.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from logging import Logger
from typing import Any, NamedTuple

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import MMLogger, print_log
from packaging.version import Version
from pycocotools import mask as coco_masks
from pycocotools.cocoeval import COCOeval

from ..datasets.summary import scored_content
from ..errors import DataError, RequirementError, did_you_mean
from ..requirements import require_package

_FASTER = "faster-coco-eval"
_MASKS = 250  # that are measured at a time; pycocotools raises from 256 on
_NUMBERS = 4_000_000  # of an array at a time


class _Lines(io.TextIOBase):
    """A stream whose whole lines are logged at once: an evaluation of COCO says for minutes what it is at."""

    def __init__(self, logger: Logger) -> None:
        self._logger, self._begun = logger, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            self._logger.info("%s", line)
        return len(text)


@contextlib.contextmanager
def prints_logged() -> Iterator[None]:
    """Log each line that is printed meanwhile; which of them the screen shows is up to the logger's handlers."""
    stream = _Lines(MMLogger.get_current_instance())  # made first: its handler keeps the stdout of its making
    try:
        with contextlib.redirect_stdout(stream):
            yield
    finally:
        stream.write("\n")


class GroundTruth(COCO):
    """The objects of some images and classes; ids are numbers from 1, predictions come with the ids of the file.

    Images are numbered in the order of their ids: pycocotools ranks equal scores in it.

    Args:
        content: Of a COCO-format file; it stays as it is.
        image_ids: Ids of the images in the file, None for all.
        classes: Names of the classes in the order of the labels.
        masks: Leave out objects without a usable mask, which only evaluations of masks miss.
        source: How to name the file in a sentence.

    Attributes:
        numbers: Of the images by their ids in the file.
        left_out: Counts of annotations that are not scored by their reasons.
        category_ids: Ids of the classes in the file, in the order of the labels.

    Raises:
        DataError: The file lacks a class or an image.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        image_ids: Collection[object] | None,
        classes: Sequence[str],
        masks: bool,
        source: object = "the dataset",
    ) -> None:
        super().__init__()
        names = {category["name"]: category["id"] for category in content["categories"]}
        if absent := [name for name in classes if name not in names]:
            raise DataError(
                f"The annotation file {source} has no class '{absent[0]}'{did_you_mean(absent[0], names)}: name the "
                "one that the predictions were made for."
            )
        images = [image["id"] for image in content["images"]]
        image_ids = images if image_ids is None else image_ids
        if unknown := set(image_ids) - set(images):
            raise DataError(
                f"The annotation file {source} lacks {len(unknown)} of the {len(image_ids)} images that were "
                f"evaluated (first image_id: {min(unknown, key=str)}): give the evaluator the file of its dataset."
            )
        self.category_ids = [names[name] for name in classes]
        self.numbers = {identity: number for number, identity in enumerate(_sorted(image_ids), 1)}
        self._labels = {identity: number for number, identity in enumerate(self.category_ids, 1)}
        self.dataset, self.left_out = scored_content(content, self.numbers, classes, masks)
        _index(self)

    def loadRes(self, found: Sequence[dict[str, Any]]) -> COCO:
        """Return predictions in the format of COCO's results, whose dicts are taken over: there may be millions.

        There may also be none; those of other classes are not scored.
        """
        predictions = [one for one in found if one["category_id"] in self._labels]
        masks = bool(predictions) and not predictions[0].get("bbox")
        for start in range(0, len(predictions), _MASKS):
            batch = predictions[start : start + _MASKS]
            encoded = [one["segmentation"] for one in batch] if masks else []
            boxes = coco_masks.toBbox(encoded).tolist() if masks else [one["bbox"] for one in batch]
            areas = coco_masks.area(encoded).tolist() if masks else [w * h for _, _, w, h in boxes]
            for number, (one, box, area) in enumerate(zip(batch, boxes, areas, strict=True), start + 1):
                one["image_id"], one["category_id"] = self.numbers[one["image_id"]], self._labels[one["category_id"]]
                one |= {"id": number, "bbox": box, "area": area, "iscrowd": 0}
        result = COCO()
        result.dataset = {**self.dataset, "annotations": predictions}
        _index(result)
        return result


def _index(coco: COCO) -> None:
    with prints_logged():
        coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs


def _sorted(ids: Collection[Any]) -> Collection[Any]:
    try:
        return sorted(ids)
    except TypeError:  # of several types
        return ids


# ---- who computes


def coco_evaluator(fast: bool | None = None) -> type:
    """Return an evaluator with the interface of `COCOeval`: faster-coco-eval's, by default where it can be imported."""
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
        f"pycocotools evaluates, which takes longer ({reason}): `pip install '{_FASTER}>=1.8,<2'` gives the same "
        "numbers sooner.",
        "current",
    )


def check_fast_eval() -> None:
    """Check that faster-coco-eval is there, before an inference of hours rather than after it.

    Raises:
        RequirementError: It is not installed, or cannot be used.
    """
    require_package("faster_coco_eval", "FastCocoMetric (--fast-eval)", _FASTER)
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
        raise ImportError(f"{_FASTER} {__version__} is none of {_FASTER}>=1.8,<2")

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


# ---- how much of AP is chance


class Detections(NamedTuple):
    """Those of a class in all images, by descending score; T overlaps, D detections, I images."""

    image: np.ndarray  # index of the image of each, (D,)
    right: np.ndarray  # whether it matches an object, (T, D); what matches a crowd is neither right nor wrong
    wrong: np.ndarray  # whether it matches nothing, (T, D)
    objects: np.ndarray  # count in each image, (I,)


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
    """Return COCO's AP (R,) where images count as often as (R, I) says, the mean over classes with objects; or NaN.

    Precision is averaged at recalls from 0 to 1.
    """
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    for one in found:
        objects = counts @ one.objects
        step = max(1, _NUMBERS // max(len(one.image), 1))
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
