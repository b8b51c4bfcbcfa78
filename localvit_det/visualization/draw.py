"""Draw objects into images, also ground truth and predictions side by side; a class has one color in all of them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

_GOLDEN = 0.6180339887  # steps of the hue that keep any number of classes apart
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MASK_OPACITY = 0.45
_READABLE = 480  # pixels on the longer side, below which labels would hide small objects or be too small to read
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


def class_color(label: int) -> tuple[int, int, int]:
    """Return the color of a class, BGR."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * _GOLDEN) % 1, 0.75, 0.95 if label % 2 else 0.8)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    texts: Sequence[str],
    masks: np.ndarray | None = None,
) -> np.ndarray:
    """Draw into `image`, the first objects on top.

    Texts give way to those of earlier objects; where no place is left for one, the color of its box has to do.

    Args:
        image: H×W×3, uint8, BGR; it is changed.
        boxes: As of `Objects`, like the next.
        labels: (N,).
        texts: One for each box.
        masks: (N, H, W), bool, or None.

    Returns:
        The image itself.
    """
    order = range(len(boxes))[::-1]
    colors = [class_color(int(label)) for label in labels]
    if masks is not None:
        for index in order:
            _blend(image, masks[index], colors[index])
    side = max(image.shape[:2])
    corners = np.rint(boxes).astype(int)
    for index in order:
        left, top, right, bottom = corners[index].tolist()
        cv2.rectangle(image, (left, top), (right, bottom), colors[index], max(1, round(side / 320)), cv2.LINE_AA)
    taken: list[tuple[int, int, int, int]] = []
    for index, text in enumerate(texts):  # texts last: no box runs through them
        _write_label(image, text, corners[index].tolist(), colors[index], side, taken)
    return image


def draw_readable(image: np.ndarray, objects: Objects, largest: int | None = None) -> np.ndarray:
    """Draw objects into a copy of an image whose size makes the texts legible.

    Args:
        image: H×W×3, uint8, BGR; it stays as it is.
        objects: In pixels of the image.
        largest: Images with more pixels on their longer side are drawn smaller.

    Returns:
        The picture, uint8, BGR.
    """
    side = max(image.shape[:2])
    factor = max(1, -(-_READABLE // side))
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
    captions: tuple[str, str] = ("ground truth", "predictions"),
    largest: int | None = None,
) -> np.ndarray:
    """Draw two sets of objects into two copies of an image, side by side under their captions.

    Args:
        image: As of `draw_readable`, `largest` likewise.
        left: The objects of the left copy.
        right: The objects of the right copy.
        captions: The text above each copy.
        largest: On the longer side of a copy.

    Returns:
        The picture, uint8, BGR.
    """
    first = _captioned(draw_readable(image, left, largest=largest), captions[0])
    second = _captioned(draw_readable(image, right, largest=largest), captions[1])
    return np.concatenate((first, np.full((len(first), _GAP, 3), _PAPER, np.uint8), second), axis=1)


def _captioned(image: np.ndarray, text: str) -> np.ndarray:
    """Return an image under a strip with a text in its middle, as large as labels in the image."""
    scale, thickness = _pen(max(image.shape[:2]))
    text = _printable(text)
    capital = cv2.getTextSize("X", _FONT, scale, thickness)[0][1]
    strip = np.full((round(2.2 * capital), image.shape[1], 3), _PAPER, np.uint8)
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    corner = max(0, (strip.shape[1] - width) // 2), (strip.shape[0] + height) // 2
    cv2.putText(strip, text, corner, _FONT, scale, _INK, thickness, cv2.LINE_AA)
    return np.concatenate((strip, image))


def _blend(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # objects are smaller than images
    inside, part = mask[window], image[window]
    mixed = part[inside] * (1 - _MASK_OPACITY) + np.array(color) * _MASK_OPACITY
    part[inside] = mixed.astype(np.uint8)
    outline, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = max(1, round(max(image.shape[:2]) / 500))
    cv2.drawContours(image, outline, -1, (255, 255, 255), line, cv2.LINE_AA, offset=(int(columns[0]), int(rows[0])))


def _pen(side: int) -> tuple[float, int]:
    """Return scale and thickness of letters in an image whose longer side has so many pixels."""
    return 0.35 + side / 2400, max(1, round(side / 900))


def _printable(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # OpenCV has no other letters


def _write_label(
    image: np.ndarray,
    text: str,
    box: Sequence[int],
    color: tuple[int, int, int],
    side: int,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write at a box (x1, y1, x2, y2), inside the image in any case, unless other texts have taken every place."""
    scale, thickness = _pen(side)
    text = _printable(text)
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    pad = baseline // 2 + 1
    width, height = width + 2 * pad, height + 2 * pad
    place = _free_place(image.shape[:2], (width, height), box, taken)
    if place is None:
        return
    taken.append(place)
    left, _, right, bottom = place
    cv2.rectangle(image, place[:2], (right, bottom), color, cv2.FILLED)
    dark = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2] > 140
    ink = (0, 0, 0) if dark else (255, 255, 255)
    cv2.putText(image, text, (left + pad, bottom - pad), _FONT, scale, ink, thickness, cv2.LINE_AA)


def _free_place(
    image: tuple[int, ...], label: tuple[int, int], box: Sequence[int], taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    """Return where a label (width, height) covers no other, x1, y1, x2, y2: above its box, below it, or inside."""
    (width, height), (x1, y1, x2, y2) = label, box
    for top in (y1 - height, y2, y1, y2 - height):
        for left in (x1, x2 - width):
            x = min(max(left, 0), max(0, image[1] - width))
            y = min(max(top, 0), max(0, image[0] - height))
            if not any(
                x < right and other < x + width and y < bottom and above < y + height
                for other, above, right, bottom in taken
            ):
                return x, y, x + width, y + height
    return None
