"""Hold one image, and what was found in it: boxes, scores, classes, masks; look at large images in tiles.

Tiles overlap, so that an object smaller than the overlap lies whole in one of them; larger ones are found in the whole
image, which is looked at as well, or are joined from their parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from ..visualization import Objects, draw_readable


@dataclass(frozen=True, eq=False)
class Frame:
    """An image on its way to the detector."""

    image: np.ndarray  # H×W×3, uint8, BGR
    source: str  # the file or address; empty for an array
    name: str  # a relative path that no other source of the run has
    index: int = 0  # in its video
    rate: float | None = None  # frames a second of its video; None for an image


@dataclass(frozen=True, eq=False)
class Result:
    """Objects in one image, by descending score; all arrays are NumPy's.

    Attributes:
        frame: Where the image comes from.
        boxes: (N, 4), float32: x1, y1, x2, y2 in pixels of the image.
        scores: (N,), float32, from 0 to 1.
        labels: (N,), int64: indices of `classes`.
        masks: (N, H, W), bool; None where the detector finds boxes only.
        classes: Names of all classes that the detector knows.
    """

    frame: Frame
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    classes: Sequence[str]

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.scores)

    @property
    def image(self) -> np.ndarray:
        """The image, H×W×3, uint8, BGR."""
        return self.frame.image

    @property
    def path(self) -> str:
        """The file or address of the image or its video; empty for an array."""
        return self.frame.source

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [self.classes[label] for label in self.labels]

    def keep(self, labels: Sequence[int] | None = None, count: int | None = None) -> Result:
        """Return the result with the first `count` objects of some classes only; None for all."""
        chosen = np.flatnonzero(np.isin(self.labels, labels) if labels is not None else self.labels >= 0)[:count]
        masks = None if self.masks is None else self.masks[chosen]
        return replace(
            self, boxes=self.boxes[chosen], scores=self.scores[chosen], labels=self.labels[chosen], masks=masks
        )

    def plot(self) -> np.ndarray:
        """Draw masks, boxes, classes and scores on a copy of the image: H×W×3, uint8, BGR.

        The copy of a small image is several times as large, so that texts do not hide the objects.
        """
        texts = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        return draw_readable(self.image, Objects(self.boxes, self.labels, texts, self.masks))

    def to_yolo(self) -> str:
        """Return the lines of a label file of YOLO: class and box, or the outline where there are masks.

        Numbers are shares of the image. An object in several parts has the outline of the largest.
        """
        height, width = self.image.shape[:2]
        lines = []
        for index, label in enumerate(self.labels.tolist()):
            x1, y1, x2, y2 = self.boxes[index].tolist()
            numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            if self.masks is not None and (outline := _outline(self.masks[index])) is not None:
                numbers = tuple((outline / (width, height)).ravel().tolist())
            lines.append(f"{label} " + " ".join(f"{min(max(number, 0), 1):.6g}" for number in numbers) + "\n")
        return "".join(lines)

    def crops(self) -> list[np.ndarray]:
        """Return what lies in each box, as views of the image; at least one pixel of each."""
        height, width = self.image.shape[:2]
        corners = np.column_stack((np.floor(self.boxes[:, :2]), np.ceil(self.boxes[:, 2:]))).astype(int)
        found = []
        for left, top, right, bottom in corners.tolist():
            left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
            found.append(self.image[top : max(bottom, top + 1), left : max(right, left + 1)])
        return found

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Return a dict for each object as in COCO's results: boxes as x, y, width, height, masks as RLE.

        The `category_id` is the label plus 1, as in `categories`.

        Args:
            image_id: The id of the image in your dataset.
        """
        from pycocotools import mask as coco_masks

        found = []
        for index, (x1, y1, x2, y2) in enumerate(self.boxes.tolist()):
            one = {
                "image_id": image_id,
                "category_id": int(self.labels[index]) + 1,
                "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(float(self.scores[index]), 5),
            }
            if self.masks is not None:
                encoded = coco_masks.encode(np.asfortranarray(self.masks[index], dtype=np.uint8))
                one["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
            found.append(one)
        return found


def _outline(mask: np.ndarray) -> np.ndarray | None:
    """Return the corners around the largest part of a mask, (N, 2), x and y in pixels; None without three of them."""
    parts, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max(parts, key=cv2.contourArea, default=np.empty((0, 1, 2)))
    return largest[:, 0] + 0.5 if len(largest) > 2 else None  # of pixels' middles


def categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return COCO's list of categories for the ids that `to_coco` gives."""
    return [{"id": index + 1, "name": name} for index, name in enumerate(classes)]


OVERLAP = 0.25  # of a tile's side
_SAME = 0.5  # share of the union from which two boxes are one object, found twice
_PART = 0.5  # share of the smaller box from which it is a part of the other's object


@dataclass(frozen=True, eq=False)
class Tile(Frame):
    """A part of an image: its first column and row there."""

    left: int = 0
    top: int = 0


def cut(frame: Frame, size: int) -> Iterator[Tile]:
    """Yield the whole image, and the tiles that cover it if it is larger than one.

    Args:
        size: Pixels of a tile's sides; tiles at the borders are as large, as far as the image is.
    """
    height, width = frame.image.shape[:2]
    lefts, tops = _starts(width, size), _starts(height, size)
    places = [(0, 0, width, height)]
    if len(lefts) * len(tops) > 1:
        places += [(left, top, size, size) for top in tops for left in lefts]
    for left, top, columns, rows in places:
        image = frame.image[top : top + rows, left : left + columns]
        yield Tile(image, frame.source, frame.name, frame.index, frame.rate, left, top)


def _starts(length: int, size: int) -> list[int]:
    """Return where tiles begin along a side: spread evenly, with `OVERLAP` or more in common."""
    if length <= size:
        return [0]
    count = int(np.ceil((length - size) / (size * (1 - OVERLAP)))) + 1
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def join(frame: Frame, results: Sequence[Result]) -> Result:
    """Return what was found in the tiles of an image as its one result.

    By descending score each object takes over those of its class that other tiles have found at its place: one that
    overlaps with it as a whole is the same object and goes, as in NMS; one that lies mostly inside of it, or the other
    way round, is a part of it, and both become one box and one mask.
    """
    owners = np.repeat(np.arange(len(results)), [len(one) for one in results])
    inner = np.concatenate([np.arange(len(one)) for one in results])
    corners = [(one.frame.left, one.frame.top) if isinstance(one.frame, Tile) else (0, 0) for one in results]
    shifts = np.array(corners, np.float32)[owners]
    boxes = np.concatenate([one.boxes for one in results]) + np.concatenate((shifts, shifts), axis=1)
    scores, labels = (np.concatenate([getattr(one, name) for one in results]) for name in ("scores", "labels"))
    order = np.argsort(-scores, kind="stable")
    taken = np.zeros(len(scores), bool)
    kept: list[list[int]] = []  # objects, each with its parts
    for index in order.tolist():
        if taken[index]:
            continue
        taken[index] = True
        members, of_others = [index], (labels == labels[index]) & (owners != owners[index])
        while True:  # what has grown may reach others
            near = of_others & ~taken
            same, part = _overlaps(boxes[index], boxes[near])
            candidates, grows = np.flatnonzero(near), (part >= _PART) & (same < _SAME)
            parts = candidates[grows]
            taken[candidates[(same >= _SAME) | grows]] = True
            if not len(parts):
                break
            members += parts.tolist()
            found = boxes[[index, *parts]]
            boxes[index] = (*found[:, :2].min(0), *found[:, 2:].max(0))
        kept.append(members)
    firsts = [members[0] for members in kept]
    masks = None
    if all(one.masks is not None for one in results):
        masks = np.zeros((len(kept), *frame.image.shape[:2]), bool)
        for mask, members in zip(masks, kept, strict=True):
            for member in members:
                (left, top), found = corners[owners[member]], results[owners[member]].masks[inner[member]]
                mask[top : top + found.shape[0], left : left + found.shape[1]] |= found
    return Result(frame, boxes[firsts], scores[firsts], labels[firsts], masks, results[0].classes)


def _overlaps(box: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what a box has in common with each of others, as shares of their union and of the smaller one."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(1)
    own, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1)
    smallest = 1e-9  # boxes may be empty
    return common / (own + areas - common).clip(smallest), common / np.minimum(own, areas).clip(smallest)
