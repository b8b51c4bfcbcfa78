"""Ground truth of exactly the images that were evaluated, as pycocotools can use it, whose prints become log lines."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from logging import Logger
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import MMLogger
from pycocotools import mask as coco_masks

from ..datasets.summary import scored_content
from ..errors import DataError, did_you_mean


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


_MANY = 250  # masks that are measured at a time; pycocotools raises from 256 on


class GroundTruth(COCO):
    """The objects of some images and classes; ids are numbers from 1, predictions come with the ids of the file.

    Images are numbered in the order of their ids: pycocotools ranks equal scores in it.

    Args:
        content: The content of a COCO-format file, which stays as it is.
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
        """Return predictions in the format of COCO's results, also if there is none; those of other classes are not
        scored.

        Args:
            found: Their dicts are taken over: there may be millions.
        """
        predictions = [one for one in found if one["category_id"] in self._labels]
        masks = bool(predictions) and not predictions[0].get("bbox")
        for start in range(0, len(predictions), _MANY):
            batch = predictions[start : start + _MANY]
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
