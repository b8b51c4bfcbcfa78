"""Look at large images in tiles, as for aerial and medical images: small objects are as large there as in training.

Tiles overlap, so that an object smaller than the overlap lies whole in one of them; larger ones are found in the whole
image, which is looked at as well, or are joined from their parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .result import Frame, Result

OVERLAP = 0.25  # of a tile's side
_SAME = 0.5  # share of the union from which two boxes are one object, found twice
_PART = 0.5  # share of the smaller box from which it is a part of the other's object


@dataclass(frozen=True, eq=False)
class Tile(Frame):
    """A part of an image.

    Attributes:
        left: Its first column in the image.
        top: Its first row.
    """

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

    Args:
        frame: The image.
        results: Of its tiles.
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
