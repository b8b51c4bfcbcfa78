"""The format of the VGG Image Annotator 2: JSON files of projects or of annotations, each with many images."""

import json
from collections import Counter
from collections.abc import Iterator
from math import degrees
from pathlib import Path
from typing import Any

from ...files import holds
from .base import read_text
from .listed import Entry, Listed, Shape, ellipse, flat

_ONE_CLASS = "object"  # where regions have no attributes


class Via(Listed):
    """The format of the VGG Image Annotator 2."""

    name = "VIA"
    signs = "a .json file with regions of files"
    suffixes = (".json",)

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
