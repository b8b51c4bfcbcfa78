"""Formats of tools for drawing: labelme (JSON for each image), VGG Image Annotator 2 (JSON), CVAT for images (XML)."""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from math import degrees
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import DataError
from ...files import holds
from ..layouts import split_of
from .base import parsed_xml, read_text
from .listed import Entry, Listed, Shape, ellipse, flat, turned

_ENCLOSE_NOTHING = ("point", "points", "line", "linestrip")


class Labelme(Listed):
    """The format of labelme."""

    name = "labelme"
    signs = "a .json file with shapes for each image"
    suffix = ".json"

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


_ONE_CLASS = "object"  # where regions have no attributes


class Via(Listed):
    """The format of the VGG Image Annotator 2."""

    name = "VIA"
    signs = "a .json file with regions of files"
    suffix = ".json"

    @classmethod
    def is_labels(cls, file: Path) -> bool:
        """Return whether a file names regions of files."""
        return holds(file, (b'"regions"', b'"filename"'))

    def entries(self, file: Path) -> Iterator[Entry]:
        """Yield the images of a project, or of exported annotations; the class is the attribute most regions have."""
        content = json.loads(read_text(file))
        images = list(content.get("_via_img_metadata", content).values())
        regions = [region for image in images for region in _regions(image)]
        used = Counter(key for region in regions for key, value in _attributes(region).items() if value)
        key = used.most_common(1)[0][0] if used else ""
        if len(used) > 1:
            others = ", ".join(name for name in used if name != key)
            self.notes.append(f"{file.name}: the class is the attribute {key} (others: {others})")
        if without := len(regions) - used[key]:
            self.notes.append(f"{file.name}: {without} regions without a class are of the class {_ONE_CLASS}")
        for image in images:
            shapes = [(_attributes(one).get(key) or _ONE_CLASS, one["shape_attributes"]) for one in _regions(image)]
            yield Entry(image["filename"], shapes)

    def shapes(self, entry: Entry, size: tuple[int, int]) -> Iterator[Shape]:
        """Yield the shapes of an image."""
        for name, item in entry.content:
            kind = item["name"]
            if kind == "rect":
                x, y = item["x"], item["y"]
                yield Shape(name, "box", (x, y, x + item["width"], y + item["height"]))
            elif kind in ("circle", "ellipse"):
                rx, ry = (item["r"], item["r"]) if kind == "circle" else (item["rx"], item["ry"])
                yield Shape(name, "polygon", ellipse(item["cx"], item["cy"], rx, ry, degrees(item.get("theta", 0))))
            elif kind == "polygon":
                yield Shape(name, "polygon", flat(zip(item["all_points_x"], item["all_points_y"], strict=True)))
            else:
                yield Shape(name, kind)


def _regions(image: dict[str, Any]) -> list[dict[str, Any]]:
    regions = image["regions"]
    return list(regions.values()) if isinstance(regions, dict) else regions  # the former in VIA 1


def _attributes(region: dict[str, Any]) -> dict[str, str]:
    """Return the attributes that may name a class: those of check boxes hold several."""
    found = region.get("region_attributes") or {}
    return {key: value.strip() for key, value in found.items() if isinstance(value, str)}


class Cvat(Listed):
    """The format "CVAT for images 1.1"."""

    name = "CVAT"
    signs = "annotations.xml"
    suffix = ".xml"

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
