"""One pass over a COCO-format annotation file: what the checks need, and nothing that stays large in memory.

The rules for boxes mirror `CocoDataset.parse_data_info` of MMDetection, which drops what it cannot use
without a word.
"""

import gc
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .errors import DataError

EDGE_TOLERANCE = 2  # pixels: rounding in annotation tools is no mistake

DEGENERATE = "are smaller than one pixel"
OUTSIDE = "lie outside their image"
NO_CATEGORY = "have a category_id that is not among the categories"
NO_IMAGE = "have an image_id that is not among the images"

# Polygons are most of a file and none of the checks' business: without them COCO is parsed in 6 s instead of
# 15 s, in a third of the memory.
_POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[[\[\]\d\s.,eE+-]+\]')

_NEEDED = {
    "images": "id, file_name, width and height",
    "categories": "id and name",
    "annotations": "id, image_id, category_id, bbox [x, y, width, height] and area",
}


@dataclass
class Annotations:
    """Summary of one COCO-format file.

    Attributes:
        categories: Names in the order of the file, which is the order of MMDetection's labels.
        images: (file name, width, height) by image id.
        annotated: For each category name the ids of the images with at least one usable box.
        boxes: Number of annotations.
        faults: Number of annotations that MMDetection drops, by reason.
        over_edge: Boxes that run over the edge of their image.
        like_corners: Boxes that would be good ones as [x1, y1, x2, y2].
        like_fractions: Boxes inside the unit square.
        without_mask: Usable boxes without a segmentation.
        without_iscrowd: Annotations without the key that pycocotools needs for the evaluation.
    """

    path: Path
    categories: tuple[str, ...] = ()
    images: dict = field(default_factory=dict)
    annotated: dict[str, set] = field(default_factory=dict)
    boxes: int = 0
    faults: Counter = field(default_factory=Counter)
    over_edge: int = 0
    like_corners: int = 0
    like_fractions: int = 0
    without_mask: int = 0
    without_iscrowd: int = 0


def read_annotations(path: str | Path) -> Annotations:
    """Reads and summarises a file, once in a process as long as it does not change.

    Raises:
        DataError: The file is missing, not JSON, not in COCO format or uses an id twice.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise DataError(f"The annotation file {path} does not exist: {what_is_there(path)}; set data_root.")
    stat = path.stat()
    collecting = gc.isenabled()
    gc.disable()  # looking for cycles among millions of new dicts, which have none, takes a third of the time
    try:
        return _read(path, stat.st_mtime_ns, stat.st_size)
    finally:
        if collecting:
            gc.enable()


def what_is_there(path: Path) -> str:
    """Says for a missing path which part of it exists and what lies there."""
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    names = sorted(entry.name + "/" * entry.is_dir() for entry in parent.iterdir())
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"{parent} holds {listed or 'nothing'}"


def forget_annotations() -> None:
    """Frees what `read_annotations` keeps."""
    _read.cache_clear()


@lru_cache(maxsize=8)
def _read(path: Path, mtime_ns: int, size: int) -> Annotations:
    try:
        content = json.loads(_POLYGONS.sub(b'"segmentation":[[0]]', path.read_bytes()))
    except ValueError as error:
        raise DataError(f"The annotation file {path} is not JSON ({error}): give a COCO-format file.") from error
    found = Annotations(path)
    section = "images"
    item: object = None
    try:
        # COCO's files of test images have no annotations
        content.setdefault("annotations", [])
        for item in content["images"]:
            image = (str(item["file_name"]), float(item["width"]), float(item["height"]))
            if item["id"] in found.images:
                raise DataError(f"The annotation file {path} has the image id {item['id']} twice: renumber it.")
            found.images[item["id"]] = image
        section = "categories"
        names = {}
        for item in content["categories"]:
            if item["name"] in names.values() or item["id"] in names:
                raise DataError(f"The annotation file {path} has the category {item} twice: remove one.")
            names[item["id"]] = str(item["name"])
        found.categories = tuple(names.values())
        found.annotated = {name: set() for name in found.categories}
        section = "annotations"
        ids = set()
        for item in content["annotations"]:
            if item["id"] in ids:
                raise DataError(f"The annotation file {path} has the annotation id {item['id']} twice: renumber it.")
            ids.add(item["id"])
            _add(item, names, found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        where = f"{section}, near {str(item)[:80]}" if isinstance(item, dict) else section
        raise DataError(
            f"The annotation file {path} is not in COCO format ({reason} in {where}): it has to be an object "
            f"with images, annotations and categories, where {section} have {_NEEDED[section]}."
        ) from error
    return found


def _add(annotation: dict, names: dict, found: Annotations) -> None:
    x, y, w, h = map(float, annotation["bbox"])
    area, category, image = annotation["area"], annotation["category_id"], annotation["image_id"]
    found.boxes += 1
    found.without_iscrowd += "iscrowd" not in annotation
    found.like_fractions += min(w, h) > 0 and max(x + w, y + h) <= 1
    if image not in found.images:
        found.faults[NO_IMAGE] += 1
        return
    _, width, height = found.images[image]
    right, bottom = width + EDGE_TOLERANCE, height + EDGE_TOLERANCE
    found.over_edge += min(x, y) < -EDGE_TOLERANCE or x + w > right or y + h > bottom
    found.like_corners += x < w <= right and y < h <= bottom
    if category not in names:
        found.faults[NO_CATEGORY] += 1
    elif w < 1 or h < 1 or area <= 0:
        found.faults[DEGENERATE] += 1
    elif x + w <= 0 or y + h <= 0 or x >= width or y >= height:
        found.faults[OUTSIDE] += 1
    elif not annotation.get("ignore"):
        found.annotated[names[category]].add(image)
        found.without_mask += not annotation.get("segmentation")
