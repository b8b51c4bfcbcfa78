"""labelme's format: a JSON file for each image."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ...files import holds
from .base import read_text
from .listed import Entry, Listed, Shape, ellipse, flat

_ENCLOSE_NOTHING = ("point", "points", "line", "linestrip")


class Labelme(Listed):
    """The format of labelme."""

    name = "labelme"
    signs = "a .json file with shapes for each image"
    suffixes = (".json",)

    @classmethod
    def is_labels(cls, file: Path) -> bool:
        """Return whether a file names shapes and an image."""
        return holds(file, (b'"shapes"', b'"imagePath"'))

    def entries(self, file: Path) -> Iterator[Entry]:
        """Yield the one image of a file."""
        content = json.loads(read_text(file))
        size = content.get("imageWidth"), content.get("imageHeight")
        yield Entry(content["imagePath"], content["shapes"], size=None if None in size else size)

    def shapes(self, entry: Entry, size: tuple[int, int]) -> Iterator[Shape]:
        """Yield the shapes of an image."""
        for item in entry.content:
            name, group, kind = item["label"], item.get("group_id"), item.get("shape_type") or "polygon"
            points = flat(item["points"])
            if kind == "rectangle":
                yield Shape(name, "box", points)
            elif kind == "circle":
                x, y, *edge = points
                radius = float(np.hypot(edge[0] - x, edge[1] - y))
                yield Shape(name, "polygon", ellipse(x, y, radius, radius), group)
            elif kind == "mask":
                yield Shape(name, "mask", mask=_pasted(item["mask"], points, size))
            else:
                yield Shape(name, kind if kind in _ENCLOSE_NOTHING else "polygon", points, group)


def _pasted(text: str, points: list[float], size: tuple[int, int]) -> np.ndarray:
    """Return a mask of the image's size of the PNG that labelme keeps for a part of it."""
    part = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_GRAYSCALE)
    if part is None:
        raise ValueError("a mask is no image")
    left, top = round(points[0]), round(points[1])
    mask = np.zeros(size[::-1], bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part > 0
    return mask
