"""Formats of annotation tools - CVAT, labelme, VIA: files that name their images, and shapes drawn by hand."""

from __future__ import annotations

import base64
import json
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_masks

from ...errors import DataError
from ...files import holds
from ..layouts import common_end, split_of
from .base import (
    SMALLEST_POLYGON,
    WITHOUT_SPLIT,
    Converter,
    Label,
    broken_labels,
    counted,
    files_below,
    grouped,
    images_below,
    parsed_xml,
    read_text,
)

_CORNERS = 48  # of an ellipse
_LOOKED_AT = 3  # files of a folder, to recognize a format by
_ENCLOSE_NOTHING = ("point", "points", "line", "linestrip")  # shapes of labelme
_ONE_CLASS = "object"  # where regions of VIA have no attributes


class Entry(NamedTuple):
    """What a file says about one image."""

    name: str  # of the image, a path from the file or from elsewhere
    content: Any  # its shapes
    split: str | None = None  # that the file names for it
    size: tuple[int, int] | None = None  # width and height at which it was labelled, where the file has them


class Shape(NamedTuple):
    """One drawn shape; an object is one, or several polygons of the same class and group."""

    name: str  # of the class
    kind: str  # box (x1, y1, x2, y2), polygon (x and y in turns), mask, or what encloses nothing and is left out
    numbers: Sequence[float] = ()  # corners in pixels
    group: object = None  # None for an object of its own
    mask: np.ndarray | None = None  # H×W, bool


class Listed(Converter):
    """A format whose files name their images, below the root."""

    marks: ClassVar[tuple[bytes, ...]]  # what all stands in a file of labels

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._entries: dict[Path, Entry] = {}

    @abstractmethod
    def entries(self, file: Path) -> Iterator[Entry]:
        """Yield what a file of labels says about each image; any error says that it is broken."""

    @abstractmethod
    def shapes(self, entry: Entry, size: tuple[int, int]) -> Iterator[Shape]:
        """Yield the shapes of an image; any error says that they are broken."""

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether one of the first files of a folder is one of labels."""
        folders = groupby(files_below(root, cls.suffixes), lambda file: file.parent)
        return any(any(holds(file, cls.marks) for file in islice(files, _LOOKED_AT)) for _, files in folders)

    def list_images(self) -> dict[str, list[tuple[Path, Path]]]:
        """Return the images that files of labels name.

        Raises:
            DataError: A file is broken, or it is unclear which image it means.
        """
        images, absent = images_below(self.root), []
        by_name = grouped(images, lambda image: image.name.casefold())
        splits: dict[str, list[tuple[Path, Path]]] = {}
        for file in files_below(self.root, self.suffixes):
            if not holds(file, self.marks):
                continue
            with broken_labels(file):
                entries = list(self.entries(file))
            for entry in entries:
                image = self._meant(file, entry.name.replace("\\", "/"), by_name)
                if image is None:
                    absent.append(entry.name)
                    continue
                if image in self._entries:
                    raise DataError(f"{self.root.absolute()} has labels of {image} twice, once in {file}: remove one.")
                self._entries[image] = entry
                split = entry.split or self.split_of(file) or self.split_of(image) or WITHOUT_SPLIT
                splits.setdefault(split, []).append((image, file))
        rest = [image.relative_to(self.root).as_posix() for image in images if image not in self._entries]
        for what, names in (("Images that are named, but not there", absent), ("Images that no file names", rest)):
            if names:
                self.notes.append(f"{what}, left out: {counted(names)}")
        return splits

    def read_labels(self, file: Path, size: tuple[int, int], image: Path) -> Iterator[Label]:
        """Yield the objects of an image."""
        entry = self._entries[image]
        if entry.size not in (None, size):
            raise ValueError(f"{entry.name} was labelled at {entry.size[0]} x {entry.size[1]} pixels, and has {size}")
        groups: dict[object, list[Shape]] = {}
        for number, shape in enumerate(self.shapes(entry, size)):
            if shape.kind not in ("box", "polygon", "mask"):
                self.left_out[shape.kind] += 1
                continue
            if shape.kind == "polygon" and len(shape.numbers) < SMALLEST_POLYGON:
                raise ValueError(f"a polygon of {entry.name} has {len(shape.numbers) // 2} points")
            together = shape.group is not None and shape.kind == "polygon"
            groups.setdefault((shape.name, shape.group) if together else number, []).append(shape)
        yield from map(_label, groups.values())

    def _meant(self, file: Path, name: str, by_name: dict[str, list[Path]]) -> Path | None:
        """Return the image that a file means by a name: there, or else the one below the root that fits best.

        Raises:
            DataError: Several fit as well.
        """
        base = name.rpartition("/")[2].casefold()
        there = (file.parent / name).resolve()
        candidates = [image for image in by_name.get(base, ()) if image.resolve() == there] or by_name.get(base, [])
        ranked = sorted(candidates, key=lambda image: -common_end(image.parts, name.split("/")))
        fitness = [common_end(image.parts, name.split("/")) for image in ranked[:2]]
        if len(ranked) > 1 and fitness[0] == fitness[1]:
            raise DataError(f"{file} names {name}, which {ranked[0]} and {ranked[1]} both may be: rename one.")
        return ranked[0] if ranked else None


class Cvat(Listed):
    """The format "CVAT for images 1.1"."""

    name = "CVAT"
    signs = "annotations.xml"
    suffixes = (".xml",)
    marks = (b"<annotations",)  # of many images

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
                around = _turned((x1, y1, x2, y1, x2, y2, x1, y2), degrees)
                yield Shape(name, "polygon", around) if degrees else Shape(name, "box", (x1, y1, x2, y2))
            elif kind == "ellipse":
                x, y, rx, ry = _numbers(item, "cx", "cy", "rx", "ry")
                yield Shape(name, "polygon", _ellipse(x, y, rx, ry, degrees), group)
            elif kind == "polygon":
                points = _flat(tuple(map(float, point.split(","))) for point in item.get("points").split(";"))
                yield Shape(name, kind, points, group)
            elif kind == "mask":
                left, top, width, height = map(int, _numbers(item, "left", "top", "width", "height"))
                counts = [int(count) for count in item.get("rle").split(",")]  # of 0 and 1 in turns, row by row
                part = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width)
                yield Shape(name, kind, mask=_pasted(part, left, top, size))
            elif kind != "tag":
                yield Shape(name, kind)


def _numbers(item: Any, *names: str) -> list[float]:
    return [float(item.get(name)) for name in names]


class Labelme(Listed):
    """The format of labelme."""

    name = "labelme"
    signs = "a .json file with shapes for each image"
    suffixes = (".json",)
    marks = (b'"shapes"', b'"imagePath"')

    def entries(self, file: Path) -> Iterator[Entry]:
        """Yield the one image of a file."""
        content = json.loads(read_text(file))
        size = content.get("imageWidth"), content.get("imageHeight")
        yield Entry(content["imagePath"], content["shapes"], size=None if None in size else size)

    def shapes(self, entry: Entry, size: tuple[int, int]) -> Iterator[Shape]:
        """Yield the shapes of an image."""
        for item in entry.content:
            name, group, kind = item["label"], item.get("group_id"), item.get("shape_type") or "polygon"
            points = _flat(item["points"])
            if kind == "rectangle":
                yield Shape(name, "box", points)
            elif kind == "circle":
                x, y, *edge = points
                radius = math.hypot(edge[0] - x, edge[1] - y)
                yield Shape(name, "polygon", _ellipse(x, y, radius, radius), group)
            elif kind == "mask":
                data = np.frombuffer(base64.b64decode(item["mask"]), np.uint8)  # a PNG of a part of the image
                if (part := cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)) is None:
                    raise ValueError("a mask is no image")
                yield Shape(name, "mask", mask=_pasted(part > 0, round(points[0]), round(points[1]), size))
            else:
                yield Shape(name, kind if kind in _ENCLOSE_NOTHING else "polygon", points, group)


class Via(Listed):
    """The format of the VGG Image Annotator 2."""

    name = "VIA"
    signs = "a .json file with regions of files"
    suffixes = (".json",)
    marks = (b'"regions"', b'"filename"')

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
                corners = _ellipse(item["cx"], item["cy"], rx, ry, math.degrees(item.get("theta", 0)))
                yield Shape(name, "polygon", corners)
            elif kind == "polygon":
                yield Shape(name, "polygon", _flat(zip(item["all_points_x"], item["all_points_y"], strict=True)))
            else:
                yield Shape(name, kind)


def _regions(image: dict[str, Any]) -> list[dict[str, Any]]:
    regions = image["regions"]
    return list(regions.values()) if isinstance(regions, dict) else regions  # the former in VIA 1


def _attributes(region: dict[str, Any]) -> dict[str, str]:
    """Return the attributes that may name a class: those of check boxes hold several."""
    found = region.get("region_attributes") or {}
    return {key: value.strip() for key, value in found.items() if isinstance(value, str)}


def _label(shapes: Sequence[Shape]) -> Label:
    first = shapes[0]
    if first.mask is not None:
        encoded = coco_masks.encode(np.asfortranarray(first.mask, np.uint8))
        x, y, w, h = coco_masks.toBbox(encoded).tolist()
        rle = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
        return Label(first.name, (x, y, x + w, y + h), rle=rle)
    x, y = ([value for shape in shapes for value in shape.numbers[start::2]] for start in (0, 1))
    box = min(x), min(y), max(x), max(y)
    return Label(first.name, box, [list(shape.numbers) for shape in shapes] if first.kind == "polygon" else ())


def _pasted(part: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    """Return a mask of the image's size from a part of it, both height × width."""
    mask = np.zeros(size[::-1], bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return mask


def _flat(points: Iterable[Sequence[float]]) -> list[float]:
    """Return x and y of points in turns."""
    return [float(value) for x, y in points for value in (x, y)]


def _ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> list[float]:
    """Return the corners of a polygon of the ellipse's area: x and y in turns."""
    angles = 2 * np.pi * np.arange(_CORNERS) / _CORNERS
    grown = np.sqrt(2 * np.pi / _CORNERS / np.sin(2 * np.pi / _CORNERS))
    return _turned(_flat(zip(x + rx * grown * np.cos(angles), y + ry * grown * np.sin(angles), strict=True)), degrees)


def _turned(numbers: Sequence[float], degrees: float) -> list[float]:
    """Return corners turned about their middle, clockwise as images are seen: x and y in turns."""
    points = np.reshape(numbers, (-1, 2))  # corners, 2
    middle, angle = (points.min(0) + points.max(0)) / 2, np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((points - middle) @ rotation.T + middle).ravel().tolist()
