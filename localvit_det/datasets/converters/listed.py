"""What the formats of annotation tools share: files that name their images, and shapes drawn by hand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_masks

from ...errors import DataError
from ..layouts import common_end
from .base import SMALLEST_POLYGON, WITHOUT_SPLIT, Converter, Label, counted, files_below, grouped, images_below

_CORNERS = 48  # of an ellipse
_LOOKED_AT = 3  # files of a folder, to recognize a format by


class Entry(NamedTuple):
    """What a file says about one image.

    Attributes:
        name: Of the image, a path from the file or from elsewhere.
        content: Its shapes.
        split: That the file names for it.
        size: Width and height of the image at which it was labelled, where the file has them.
    """

    name: str
    content: Any
    split: str | None = None
    size: tuple[int, int] | None = None


class Shape(NamedTuple):
    """One drawn shape; an object is one, or several of the same group.

    Attributes:
        name: Of the class.
        kind: `box` (x1, y1, x2, y2), `polygon` (x and y in turns), `mask`, or what encloses nothing and is left out.
        numbers: Corners in pixels.
        group: Shapes of one class and group are one object; None for an object of its own.
        mask: H×W, bool.
    """

    name: str
    kind: str
    numbers: Sequence[float] = ()
    group: object = None
    mask: np.ndarray | None = None


class Listed(Converter):
    """A format whose files name their images, below the root."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._entries: dict[Path, Entry] = {}

    @classmethod
    @abstractmethod
    def is_labels(cls, file: Path) -> bool:
        """Return whether a file is one of labels, by a look that does not parse it."""

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
        return any(any(map(cls.is_labels, islice(files, _LOOKED_AT))) for _, files in folders)

    def list_images(self) -> dict[str, list[tuple[Path, Path]]]:
        """Return the images that files of labels name.

        Raises:
            DataError: A file is broken, or it is unclear which image it means.
        """
        images, absent = images_below(self.root), []
        by_name = grouped(images, lambda image: image.name.casefold())
        splits: dict[str, list[tuple[Path, Path]]] = {}
        for file in filter(self.is_labels, files_below(self.root, self.suffixes)):
            try:
                entries = list(self.entries(file))
            except DataError:
                raise
            except Exception as error:  # of a file that somebody has edited, anything
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise DataError(f"The labels {file} cannot be read ({reason}): correct them.") from error
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


def flat(points: Iterable[Sequence[float]]) -> list[float]:
    """Return x and y of points in turns."""
    return [float(value) for x, y in points for value in (x, y)]


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> list[float]:
    """Return the corners of a polygon of the ellipse's area: x and y in turns."""
    angles = 2 * np.pi * np.arange(_CORNERS) / _CORNERS
    grown = np.sqrt(2 * np.pi / _CORNERS / np.sin(2 * np.pi / _CORNERS))
    return turned(flat(zip(x + rx * grown * np.cos(angles), y + ry * grown * np.sin(angles), strict=True)), degrees)


def turned(numbers: Sequence[float], degrees: float) -> list[float]:
    """Return corners turned about their middle, clockwise as images are seen: x and y in turns."""
    points = np.reshape(numbers, (-1, 2))  # corners, 2
    middle, angle = (points.min(0) + points.max(0)) / 2, np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((points - middle) @ rotation.T + middle).ravel().tolist()
