"""CVAT's own format for images: an XML file with all of a task."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..layouts import split_of
from .base import parsed_xml
from .listed import Entry, Listed, Shape, ellipse, flat, turned


class Cvat(Listed):
    """The format "CVAT for images 1.1"."""

    name = "CVAT"
    signs = "annotations.xml"
    suffixes = (".xml",)

    @classmethod
    def is_labels(cls, file: Path) -> bool:
        """Return whether a file begins with annotations of many images."""
        with open(file, "rb") as stream:
            return b"<annotations" in stream.read(2000)

    def entries(self, file: Path) -> Iterator[Entry]:
        """Yield the images of a task.

        Raises:
            DataError: It is one of a video, whose frames are not named.
        """
        root = parsed_xml(file)
        if root.find("track") is not None:
            raise DataError(f"{file.absolute()} has tracks of a video: export the task from CVAT as COCO 1.0.")
        for image in root.iter("image"):
            size = int(image.get("width")), int(image.get("height"))
            yield Entry(image.get("name"), list(image), split_of(image.get("subset") or ""), size)

    def shapes(self, entry: Entry, size: tuple[int, int]) -> Iterator[Shape]:
        """Yield the shapes of an image; tags of the whole image are none."""
        for item in entry.content:
            name, group, kind = item.get("label"), item.get("group_id"), item.tag
            group, degrees = None if group in (None, "0") else group, float(item.get("rotation") or 0)
            if kind == "box":
                x1, y1, x2, y2 = _numbers(item, "xtl", "ytl", "xbr", "ybr")
                around = turned((x1, y1, x2, y1, x2, y2, x1, y2), degrees)
                yield Shape(name, "polygon", around) if degrees else Shape(name, "box", (x1, y1, x2, y2))
            elif kind == "ellipse":
                x, y, rx, ry = _numbers(item, "cx", "cy", "rx", "ry")
                yield Shape(name, "polygon", ellipse(x, y, rx, ry, degrees), group)
            elif kind == "polygon":
                points = flat(tuple(map(float, point.split(","))) for point in item.get("points").split(";"))
                yield Shape(name, kind, points, group)
            elif kind == "mask":
                yield Shape(name, kind, mask=_mask(item, size))
            elif kind != "tag":
                yield Shape(name, kind)


def _numbers(item: Any, *names: str) -> list[float]:
    return [float(item.get(name)) for name in names]


def _mask(item: Any, size: tuple[int, int]) -> np.ndarray:
    """Return a mask of the image's size: CVAT has counts of 0 and 1 in turns, row by row of a part of it."""
    left, top, width, height = map(int, _numbers(item, "left", "top", "width", "height"))
    counts = [int(count) for count in item.get("rle").split(",")]
    part = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width)  # height, width
    mask = np.zeros(size[::-1], bool)
    mask[top : top + height, left : left + width] = part
    return mask
