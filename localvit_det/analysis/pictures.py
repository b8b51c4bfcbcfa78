"""Images of an evaluation or a data set with their objects drawn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..datasets.images import BrokenImageError, PixelRange, decode, read_file
from ..visualization import Objects, draw_pair, draw_readable
from .coco import Evaluation
from .matching import Matches
from .page import Picture

_LARGEST = 640  # pixels on the longer side of an image in a page


def read_image(
    folder: str | os.PathLike, entry: Mapping[str, Any], pixel_range: PixelRange | None
) -> np.ndarray | None:
    """An image of a dataset as a training reads it: H×W×3, uint8, BGR; None where it cannot be used."""
    try:
        content = read_file(Path(folder, entry["file_name"]))
        return decode(content, (entry["width"], entry["height"]), pixel_range=pixel_range)
    except BrokenImageError:
        return None


def objects_of(coco: COCO, annotations: Sequence[dict], labels: Mapping[int, int], texts: Sequence[str]) -> Objects:
    """Annotations or predictions of one image for drawing.

    Args:
        coco: The data set that they are of.
        annotations: In COCO's format.
        labels: Label of each category id.
        texts: What to write at each.
    """
    boxes = np.array([_corners(one) for one in annotations], np.float32).reshape(-1, 4)
    masked = bool(annotations) and all(one.get("segmentation") for one in annotations)
    masks = np.array([coco.annToMask(one).astype(bool) for one in annotations]) if masked else None
    return Objects(boxes, np.array([labels[one["category_id"]] for one in annotations], int), texts, masks)


def _corners(one: dict) -> tuple[float, float, float, float]:
    x, y, width, height = one["bbox"]
    return x, y, x + width, y + height


def worst_pictures(evaluation: Evaluation, worst: Iterable[Matches]) -> list[Picture]:
    """Ground truth beside predictions, with what is wrong named; images that cannot be read are left out."""
    labels = {category: label for label, category in enumerate(evaluation.classes)}
    pictures = []
    for number, image in enumerate(worst, 1):
        entry = evaluation.truth.imgs[image.image_id]
        pixels = read_image(evaluation.images, entry, evaluation.pixel_range) if evaluation.images else None
        if pixels is None:
            continue
        sides = (
            objects_of(evaluation.truth, *_told(evaluation, image, truth=True, labels=labels)),
            objects_of(evaluation.found, *_told(evaluation, image, truth=False, labels=labels)),
        )
        counts: dict[str, Sized] = {
            "missed": image.missed,
            "false": image.false,
            "confused": image.confused,
            "right": image.right,
        }
        told = ", ".join(f"{len(found)} {what}" for what, found in counts.items() if found)
        drawn = draw_pair(pixels, *sides, largest=_LARGEST)
        pictures.append(Picture(f"worst_{number:02d}", drawn, f"{entry['file_name']}: {told}"))
    return pictures


def _told(
    evaluation: Evaluation, image: Matches, truth: bool, labels: Mapping[int, int]
) -> tuple[list[dict], Mapping[int, int], list[str]]:
    """The objects of one side and what is to be said about each: the wrong ones first, so that they are on top."""
    side = 0 if truth else 1
    wrong = [(one, "missed: ") for one in image.missed] if truth else [(one, "false: ") for one in image.false]
    rows = wrong + [(pair[side], "") for pair in (*image.confused, *image.right)]
    texts = []
    for one, prefix in rows:
        score = "" if truth else f" {one['score']:.2f}"
        texts.append(f"{prefix}{evaluation.classes[one['category_id']]}{score}")
    return [one for one, _ in rows], labels, texts


def browser_pictures(
    coco: COCO,
    folder: str | os.PathLike,
    image_ids: Iterable[int],
    classes: Sequence[str],
    name: str,
    pixel_range: PixelRange | None,
) -> list[Picture]:
    """Images of a data set with all their objects of some classes; those that cannot be read are left out."""
    place = {category: label for label, category in enumerate(classes)}
    labels = {identity: place[one["name"]] for identity, one in coco.cats.items() if one["name"] in place}
    pictures = []
    for image_id in image_ids:
        entry = coco.imgs[image_id]
        pixels = read_image(folder, entry, pixel_range)
        if pixels is None:
            continue
        annotations = [one for one in coco.imgToAnns.get(image_id, ()) if one["category_id"] in labels]
        names = [coco.cats[one["category_id"]]["name"] for one in annotations]
        texts = [
            f"{name} (crowd)" if one.get("iscrowd") else name for name, one in zip(names, annotations, strict=True)
        ]
        drawn = draw_readable(pixels, objects_of(coco, annotations, labels, texts), largest=_LARGEST)
        pictures.append(Picture(f"{name}_{image_id}", drawn, entry["file_name"], tuple(dict.fromkeys(names))))
    return pictures
