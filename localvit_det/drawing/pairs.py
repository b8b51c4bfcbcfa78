"""Ground truth and predictions of an image side by side; a class has the same color on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .objects import draw_objects, text_height, write_line

CAPTIONS = ("ground truth", "predictions")
_READABLE = 320  # pixels on the longer side, below which labels would hide small objects or be too small to read
_GAP = 6
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


class Objects(NamedTuple):
    """What is drawn into an image.

    Attributes:
        boxes: (N, 4), x1, y1, x2, y2 in pixels.
        labels: (N,), which decide the colors.
        texts: What is written at each box.
        masks: (N, H, W), bool, or None.
    """

    boxes: np.ndarray
    labels: np.ndarray
    texts: Sequence[str]
    masks: np.ndarray | None = None


def draw_readable(
    image: np.ndarray, objects: Objects, smallest: int = _READABLE, largest: int | None = None
) -> np.ndarray:
    """Draws objects into a copy of an image whose size lets the texts be read.

    Args:
        image: H×W×3, uint8, BGR; it stays as it is.
        objects: In pixels of the image.
        smallest: Images with fewer pixels on their longer side are drawn several times as large.
        largest: Images with more are drawn smaller.

    Returns:
        The picture, uint8, BGR.
    """
    side = max(image.shape[:2])
    factor = max(1, -(-smallest // side))
    if largest is not None and side > largest:
        factor = largest / side
    if factor == 1:
        return draw_objects(image.copy(), *objects)
    kind = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    copy = cv2.resize(image, None, fx=factor, fy=factor, interpolation=kind)
    masks = objects.masks
    if masks is not None:  # linear, so that outlines stay smooth
        resized = [cv2.resize(mask.astype(np.float32), copy.shape[1::-1]) > 0.5 for mask in masks]
        masks = np.array(resized, bool).reshape(-1, *copy.shape[:2])
    return draw_objects(copy, objects.boxes * factor, objects.labels, objects.texts, masks)


def draw_pair(
    image: np.ndarray,
    left: Objects,
    right: Objects,
    captions: Sequence[str] = CAPTIONS,
    largest: int | None = None,
) -> np.ndarray:
    """Draws two sets of objects into two copies of an image, side by side under their captions.

    Args:
        image: As of `draw_readable`, `largest` likewise.
        left: The objects of the left copy.
        right: The objects of the right copy.
        captions: What stands over the copies.
        largest: On the longer side of a copy.

    Returns:
        The picture, uint8, BGR.
    """
    first, second = (
        _captioned(draw_readable(image, objects, largest=largest), text)
        for objects, text in zip((left, right), captions, strict=True)
    )
    return np.concatenate((first, np.full((len(first), _GAP, 3), _PAPER, np.uint8), second), axis=1)


def _captioned(image: np.ndarray, text: str) -> np.ndarray:
    side = max(image.shape[:2])
    strip = np.full((round(2.2 * text_height(side)), image.shape[1], 3), _PAPER, np.uint8)
    write_line(strip, text, _INK, side)
    return np.concatenate((strip, image))
