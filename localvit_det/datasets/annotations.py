"""One pass over a COCO-format annotation file: what the checks need, and nothing that stays large in memory.

The rules for boxes mirror `CocoDataset.parse_data_info` of MMDetection, which drops what it cannot use
without a word; those of evaluations stand in `scored`.
"""

import gc
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import DataError, shortened
from ..files import what_is_there
from .scored import MASKLESS, NO_CATEGORY, NO_IMAGE, OUTSIDE, readable_mask, unscorable
from .segmentations import FAR, PLAIN, mask_fault, without_plain_polygons

EDGE_TOLERANCE = 2  # pixels: rounding in annotation tools is no mistake
MAX_PIXELS = 100_000_000  # 300 MB when decoded; more is a slip in a size, or an attack

# What MMDetection drops without a word ...
DEGENERATE = "are smaller than one pixel"
IGNORED = "are marked with ignore"
NEGATIVE = "have an area below 0"
# ... and what it would break on, or learn nonsense from.
NOT_NUMBERS = "have something else than numbers in bbox or area"
NOT_FINITE = "have NaN or infinity in bbox or area"
TOO_FAR = f"reach more than {FAR} sizes of their image beyond it"
NOT_CROWD = "have an iscrowd other than 0 and 1"

COPY_OF = "copy_of"  # name of the file that a normalized copy is of, which a user knows

_NAMED = 5  # ids that a sentence names

_NEEDED = {
    "images": "id, file_name, width and height",
    "categories": "id and name",
    "annotations": "id, image_id, category_id, bbox [x, y, width, height] and area",
}


class Faults(dict):
    """Ids of annotations by what is wrong with them."""

    def add(self, reason: str, identity: object) -> None:
        """Note one annotation."""
        self.setdefault(reason, []).append(identity)

    def count(self) -> int:
        """Return how many there are."""
        return sum(map(len, self.values()))

    def summary(self) -> str:
        """Return `3 have NaN … (ids 4, 7, 9), 1 …`, the most frequent reason first."""
        rows = sorted(self.items(), key=lambda row: -len(row[1]))
        return ", ".join(f"{len(ids)} {reason} ({_ids(ids)})" for reason, ids in rows)


@dataclass
class Annotations:
    """Summary of one COCO-format file.

    Attributes:
        categories: Names in the order of the file, which is the order of MMDetection's labels.
        images: (file name, width, height) by image id.
        annotated: For each category name the ids of the images with at least one usable box that is no crowd.
        named: Likewise for any annotation, good or not: what MMDetection takes for an image with objects.
        boxes: Number of annotations.
        crowds: Number of usable ones that mark a crowd, from which nothing is learnt.
        faults: Annotations that MMDetection's training drops.
        unscored: Annotations that are left out of scoring.
        neutral: Annotations that count neither as found nor as missed.
        errors: Annotations that a training breaks on.
        mask_faults: Annotations whose masks, or parts of them, MMDetection drops.
        mask_unscored: Annotations that are left out of scoring masks.
        mask_errors: Annotations whose masks a training or an evaluation breaks on.
        over_edge: Boxes that run over the edge of their image.
        like_corners: Boxes that would be good ones as [x1, y1, x2, y2].
        like_fractions: Boxes inside the unit square.
        without_mask: Usable boxes without a segmentation.
        without_iscrowd: Annotations without the key that pycocotools needs for the evaluation.
        without_area: Annotations without the key that MMDetection and pycocotools need.
        rle: Usable ones, no crowds, whose masks are run lengths.
        same_files: Names of image files that stand under several ids.
    """

    path: Path
    categories: tuple[str, ...] = ()
    images: dict = field(default_factory=dict)
    annotated: dict[str, set] = field(default_factory=dict)
    named: dict[str, set] = field(default_factory=dict)
    boxes: int = 0
    crowds: int = 0
    faults: Faults = field(default_factory=Faults)
    unscored: Faults = field(default_factory=Faults)
    neutral: Faults = field(default_factory=Faults)
    errors: Faults = field(default_factory=Faults)
    mask_faults: Faults = field(default_factory=Faults)
    mask_unscored: Faults = field(default_factory=Faults)
    mask_errors: Faults = field(default_factory=Faults)
    over_edge: int = 0
    like_corners: int = 0
    like_fractions: int = 0
    without_mask: int = 0
    without_iscrowd: int = 0
    without_area: int = 0
    rle: int = 0
    same_files: list[str] = field(default_factory=list)


def read_annotations(path: str | Path) -> Annotations:
    """Read and summarize a file, once in a process as long as it does not change.

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


def forget_annotations() -> None:
    """Free what `read_annotations` keeps."""
    _read.cache_clear()


@lru_cache(maxsize=8)
def _read(path: Path, mtime_ns: int, size: int) -> Annotations:
    content = _parsed(path, size)
    found = Annotations(Path(content[COPY_OF]) if isinstance(content, dict) and COPY_OF in content else path)
    path = found.path
    section = "images"
    item: Any = None  # of JSON
    try:
        # COCO's files of test images have no annotations
        content.setdefault("annotations", [])
        _read_images(content["images"], found)
        section = "categories"
        names: dict[Any, str] = {}
        for item in content["categories"]:
            if item["name"] in names.values() or item["id"] in names:
                raise DataError(f"The annotation file {path} has the category {item} twice: remove one.")
            if not isinstance(item["name"], str):
                raise TypeError(f"the name {item['name']!r} is no text")
            names[item["id"]] = item["name"]
        found.categories = tuple(names.values())
        found.annotated = {name: set() for name in found.categories}
        found.named = {name: set() for name in found.categories}
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


def _parsed(path: Path, size: int) -> dict:
    """Return the content without its plain polygons, in a form that the tools that come later can read, too."""
    if size > _memory() / 2:
        raise DataError(
            f"The annotation file {path} has {size / 1e9:.1f} GB, which this machine's memory cannot hold when it is "
            "read: split it, or use a machine with more memory."
        )
    try:
        content = path.read_bytes()
        if content.startswith(b"\xef\xbb\xbf") or json.detect_encoding(content[:4]) != "utf-8":
            kind = "begins with a byte order mark" if content[:1] == b"\xef" else "is written in UTF-16 or UTF-32"
            raise DataError(
                f"The annotation file {path} {kind}, which MMDetection cannot read: save it as UTF-8 without a "
                "byte order mark."
            )
        return json.loads(without_plain_polygons(content))
    except UnicodeDecodeError as error:
        raise DataError(
            f"The annotation file {path} is not written in UTF-8 (byte {error.start} of it): save it as UTF-8."
        ) from error
    except ValueError as error:
        raise DataError(f"The annotation file {path} is not JSON ({error}): give a COCO-format file.") from error
    except RecursionError as error:
        raise DataError(
            f"The annotation file {path} is nested deeper than any COCO-format file: give another one."
        ) from error
    except OSError as error:
        raise DataError(
            f"The annotation file {path} cannot be read ({error.strerror}): check its permissions."
        ) from error


def _memory() -> float:
    """Return the bytes of memory of this machine; infinity where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return float("inf")


def _read_images(items: list, found: Annotations) -> None:
    seen = set()
    for item in items:
        name, width, height, identity = item["file_name"], item["width"], item["height"], item["id"]
        here = f"The annotation file {found.path} has the image id {identity}"
        if identity in found.images:
            raise DataError(f"{here} twice: renumber it.")
        if not isinstance(name, str) or not name:
            raise DataError(f"{here} with the file_name {name!r:.80}: give the name of its file.")
        if type(width) is not int or type(height) is not int or min(width, height) < 1:
            raise DataError(
                f"{here} ({name}) with the size {width!r:.40} x {height!r:.40}: width and height have to be whole "
                "numbers of pixels."
            )
        found.images[identity] = (name, width, height)
        if name in seen:
            found.same_files.append(name)
        seen.add(name)


def _add(annotation: dict, names: dict, found: Annotations) -> None:
    identity, category, image = (annotation[key] for key in ("id", "category_id", "image_id"))
    x, y, w, h = annotation["bbox"]
    area = annotation.get("area", w)
    found.without_area += "area" not in annotation
    found.boxes += 1
    if category in names:
        found.named[names[category]].add(image)
    crowd = annotation.get("iscrowd")
    if crowd not in (0, 1):
        if crowd is not None:
            found.errors.add(NOT_CROWD, identity)
            return
        found.without_iscrowd += 1
    try:
        total = x + y + w + h + area
        if total - total != 0:
            found.errors.add(NOT_FINITE, identity)
            return
    except (TypeError, OverflowError):
        found.errors.add(NOT_NUMBERS, identity)
        return
    found.like_fractions += min(w, h) > 0 and max(x + w, y + h) <= 1
    if image not in found.images:
        found.faults.add(NO_IMAGE, identity)
        found.unscored.add(NO_IMAGE, identity)
        return
    _, width, height = found.images[image]
    right, bottom = width + EDGE_TOLERANCE, height + EDGE_TOLERANCE
    if x < -EDGE_TOLERANCE or y < -EDGE_TOLERANCE or x + w > right or y + h > bottom:
        found.over_edge += 1
        if max(abs(x) + abs(w), abs(y) + abs(h)) > FAR * (width + height):
            found.errors.add(TOO_FAR, identity)
            return
    found.like_corners += x < w <= right and y < h <= bottom
    reason = unscorable(annotation["bbox"], width, height) if category in names else NO_CATEGORY
    if reason:
        found.unscored.add(reason, identity)
    elif area < 0 or annotation.get("ignore"):
        found.neutral.add(IGNORED if annotation.get("ignore") else NEGATIVE, identity)
    mask = annotation.get("segmentation")
    if category not in names:
        found.faults.add(NO_CATEGORY, identity)
    elif w < 1 or h < 1 or area <= 0:
        found.faults.add(DEGENERATE, identity)
    elif reason == OUTSIDE:
        found.faults.add(OUTSIDE, identity)
    elif annotation.get("ignore"):
        found.faults.add(IGNORED, identity)
    else:
        if crowd:
            found.crowds += 1
        else:
            found.annotated[names[category]].add(image)
        found.rle += isinstance(mask, dict) and not crowd
        found.without_mask += not mask
        fault = mask_fault(mask, width, height)
        if fault:
            (found.mask_errors if fault[1] else found.mask_faults).add(fault[0], identity)
            if fault[1]:
                return
    if not reason and mask != PLAIN and not readable_mask(mask, width, height):
        found.mask_unscored.add(MASKLESS, identity)


def _ids(ids: list) -> str:
    return f"id{'s' * (len(ids) > 1)} {shortened(list(map(str, ids)), _NAMED)}"
