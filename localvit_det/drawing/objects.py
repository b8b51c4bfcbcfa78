"""Draws objects into an image; the color of a class is the same in every image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

_GOLDEN = 0.6180339887  # steps of the hue that keep any number of classes apart
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MASK_OPACITY = 0.45


def class_color(label: int) -> tuple[int, int, int]:
    """The color of a class, BGR."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * _GOLDEN) % 1, 0.75, 0.95 if label % 2 else 0.8)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    texts: Sequence[str],
    masks: np.ndarray | None = None,
) -> np.ndarray:
    """Draws into `image`, the first objects on top.

    Args:
        image: H×W×3, uint8, BGR; it is changed.
        boxes: (N, 4), x1, y1, x2, y2 in pixels.
        labels: (N,), which decide the colors.
        texts: What is written at each box.
        masks: (N, H, W), bool, or None.

    Returns:
        The image itself.
    """
    order = range(len(boxes))[::-1]
    if masks is not None:
        for index in order:
            _blend(image, masks[index], class_color(int(labels[index])))
    side = max(image.shape[:2])
    thickness = max(1, round(side / 320))
    corners = np.rint(boxes).astype(int)
    for index in order:
        left, top, right, bottom = corners[index].tolist()
        color = class_color(int(labels[index]))
        cv2.rectangle(image, (left, top), (right, bottom), color, thickness, cv2.LINE_AA)
    for index in order:  # texts last: no box runs through them
        _write(image, texts[index], corners[index, :2].tolist(), class_color(int(labels[index])), side)
    return image


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


def text_height(side: int) -> int:
    """Pixels from the foot to the top of a capital letter in an image whose longer side has `side`."""
    return cv2.getTextSize("X", _FONT, *_pen(side))[0][1]


def write_line(strip: np.ndarray, text: str, color: tuple[int, int, int], side: int) -> None:
    """Writes into the middle of an empty strip, as large as `draw_objects` does in an image of `side`."""
    text = _printable(text)
    (width, height), _ = cv2.getTextSize(text, _FONT, *_pen(side))
    corner = max(0, (strip.shape[1] - width) // 2), (strip.shape[0] + height) // 2
    cv2.putText(strip, text, corner, _FONT, _pen(side)[0], color, _pen(side)[1], cv2.LINE_AA)


def _pen(side: int) -> tuple[float, int]:
    """Scale and thickness of letters."""
    return 0.35 + side / 2400, max(1, round(side / 900))


def _printable(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # OpenCV has no other letters


def _write(image: np.ndarray, text: str, corner: Sequence[int], color: tuple[int, int, int], side: int) -> None:
    """Writes above the box's left corner, inside the image in any case."""
    scale, thickness = _pen(side)
    text = _printable(text)
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    pad = baseline // 2 + 1
    left = min(max(corner[0], 0), max(0, image.shape[1] - width - 2 * pad))
    bottom = max(corner[1], height + 2 * pad)
    cv2.rectangle(image, (left, bottom - height - 2 * pad), (left + width + 2 * pad, bottom), color, cv2.FILLED)
    dark = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2] > 140
    ink = (0, 0, 0) if dark else (255, 255, 255)
    cv2.putText(image, text, (left + pad, bottom - pad), _FONT, scale, ink, thickness, cv2.LINE_AA)
