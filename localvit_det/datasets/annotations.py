"""One pass over a COCO-format annotation file: what the checks need, and nothing that stays large in memory.

The rules for boxes mirror `CocoDataset.parse_data_info` of MMDetection, which drops what it cannot use
without a word; those of evaluations stand in `scored`.
"""

import contextlib
import gc
import json
import pickle
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import what_is_there, write_text
from ..memory import give_back_memory, memory_left
from .json_stream import STREAMED, Columns, Content, Part, distinct, packed, parts_of, read_parts, repeated, text_of
from .segmentations import FAR, PLAIN, mask_fault
from .summary import MASKLESS, NO_CATEGORY, NO_IMAGE, OUTSIDE, Annotations, kept_verdict, readable_mask, unscorable

_TIMES = 2  # the size of a large file that reading it takes at most; `benchmarks.scale` measures it
EDGE_TOLERANCE = 2  # pixels: rounding in annotation tools is no mistake
_WIDEST = 2**50  # pixels of a side that are compared many at a time
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

_NEEDED = {
    "images": "id, file_name, width and height",
    "categories": "id and name",
    "annotations": "id, image_id, category_id, bbox [x, y, width, height] and area",
}


def read_annotations(path: str | Path) -> Annotations:
    """Return the summary of a good file, read once as long as the file does not change.

    Raises:
        DataError: The file is missing, not JSON, not in COCO format or uses an id twice.
    """
    found = summarize(path)
    if found.mistake:
        raise DataError(found.mistake)
    return found


def summarize(path: str | Path, content: Content | None = None) -> Annotations:
    """Return the summary of a file, also of one with a `mistake` that a normalized copy may be free of.

    Args:
        content: Gets what the file holds, if it has to be parsed.

    Raises:
        DataError: As `read_annotations`, for all other mistakes.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise DataError(f"The annotation file {path} does not exist: {what_is_there(path)}; set data_root.")
    kept = _kept(path, path.stat().st_mtime_ns, path.stat().st_size)
    if not kept:
        kept.append(_read(path, content))
    return kept[0]


def write_annotations(path: Path, values: dict[str, Any]) -> None:
    """Write a file, and keep its summary, so that it need not be parsed."""
    write_text(path, text_of(values))
    # What is wrong with it is said where it is read.
    with contextlib.suppress(DataError), _parsing(path), kept_verdict(path) as verdict:
        verdict.found = _Reader(path).read(parts_of(values))
        _kept(path, path.stat().st_mtime_ns, path.stat().st_size)[:] = [verdict.found]


def forget_annotations() -> None:
    """Free what `read_annotations` keeps, and give its memory back to the system."""
    _kept.cache_clear()
    give_back_memory()


@lru_cache(maxsize=8)
def _kept(path: Path, mtime_ns: int, size: int) -> list[Annotations]:
    """Return where the summary of a file is kept, once there is one."""
    return []


def _read(path: Path, content: Content | None) -> Annotations:
    if _TIMES * (size := path.stat().st_size) > (left := memory_left()):
        raise DataError(
            f"The annotation file {path} has {size / 1e9:.1f} GB, and reading it takes up to {_TIMES} times as much, "
            f"more than the {max(left, 0) / 1e9:.1f} GB of memory that are left to this process: split it, or use a "
            "machine or a job with more memory."
        )
    with _parsing(path), kept_verdict(path) as verdict:
        if verdict.found is None:
            whole = content.parts(path) if content else read_parts(path, STREAMED, plain_polygons=True)
            verdict.found = _Reader(path).read(whole)
        return verdict.found


@contextlib.contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Let errors of reading a file end in sentences; look for no cycles meanwhile.

    Raises:
        DataError: For each of them.
    """
    collecting = gc.isenabled()
    gc.disable()  # among millions of new dicts, which have none, it takes a third of the time
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        if start.startswith(b"\xef\xbb\xbf") or json.detect_encoding(start) != "utf-8":
            kind = "begins with a byte order mark" if start[:1] == b"\xef" else "is written in UTF-16 or UTF-32"
            raise DataError(
                f"The annotation file {path} {kind}, which MMDetection cannot read: save it as UTF-8 without a "
                "byte order mark."
            )
        yield
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
    finally:
        if collecting:
            gc.enable()


class _Reader:
    """Reads a file in parts, and checks its annotations as soon as images and categories are known."""

    def __init__(self, path: Path) -> None:
        self.found = Annotations(path)
        self.section = "images"  # what is looked at
        self.item: Any = None
        self.names: dict[Any, str] = {}  # of categories by their ids
        self._labels: dict[str, int] = {}
        self._categories: list = []
        self._used: set = set()  # ids of categories
        self._places: dict[Any, int] = {}  # of images by their ids
        self._seen: set[str] = set()
        self._files: set[str] = set()
        self._waiting: list[Columns | bytes] = []
        self._ids: list[np.ndarray | list] = []
        self._codes: dict[str, list[np.ndarray]] = {"annotated": [], "named": []}

    def read(self, parts: Iterable[Part]) -> Annotations:
        """Return what is found.

        Raises:
            DataError: It is not in COCO's format.
            ValueError: It is not JSON.
        """
        for key, value, first in parts:
            with self._explained():
                self._take(key, value, first)
        with self._explained():
            return self._finished()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            where = f"{self.section}, near {str(self.item)[:80]}" if isinstance(self.item, dict) else self.section
            raise DataError(
                f"The annotation file {self.found.path} is not in COCO format ({reason} in {where}): it has to be an "
                f"object with images, annotations and categories, where {self.section} have {_NEEDED[self.section]}."
            ) from error

    def _take(self, key: str | None, value: Any, first: bool) -> None:
        if key is None:
            raise TypeError(f"it is {type(value).__name__}, no object")
        if key == COPY_OF:
            self.found.path = Path(value)
        if key not in _NEEDED:
            return
        if first and key in self._seen:
            raise DataError(f"The annotation file {self.found.path} has the key {key} twice: leave one out.")
        self._seen.add(key)
        self.section, self.item = key, None
        if key == "images":
            self._read_images(value)
        elif key == "categories":
            self._categories = value
            self._read_categories(value)
        else:
            self._read_annotations(value)

    def _read_images(self, items: list) -> None:
        found = self.found
        for item in items:
            self.item = item
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
            if name in self._files:
                found.same_files.append(name)
            self._files.add(name)

    def _read_categories(self, items: list) -> None:
        for item in items:
            self.item = item
            if item["name"] in self._labels or item["id"] in self.names:
                path = self.found.path
                self.found.mistake = f"The annotation file {path} has the category {item} twice: remove one."
            if not isinstance(item["name"], str):
                raise TypeError(f"the name {item['name']!r} is no text")
            self.names[item["id"]] = item["name"]
            self._labels.setdefault(item["name"], len(self._labels))

    def _read_annotations(self, items: list) -> None:
        columns = Columns.of(items) if items else None
        if columns is None:
            for self.item in items:
                for key in ("id", "image_id", "category_id"):
                    hash(self.item[key])
                _, _, _, _ = self.item["bbox"]
        self._ids.append(packed([item["id"] for item in items]) if columns is None else columns.ids)
        self._waiting.append(pickle.dumps(items) if columns is None else columns)
        if self._seen >= _NEEDED.keys():
            self._check_waiting()

    def _check_waiting(self) -> None:
        """Check the annotations that are read, now that all images and categories are."""
        if not self._places:
            self._places = {identity: place for place, identity in enumerate(self.found.images)}
            sizes = [(min(width, _WIDEST), min(height, _WIDEST)) for _, width, height in self.found.images.values()]
            self._sizes = np.array([*sizes, (0, 0)], np.float64)
        while self._waiting:
            columns = self._waiting.pop(0)
            items = pickle.loads(columns) if isinstance(columns, bytes) else columns.items(self._check_good(columns))
            loose: dict[str, list[int]] = {kind: [] for kind in self._codes}
            for self.item in items:
                self._used.add(self.item["category_id"])
                self._check(self.item, loose)
            for kind, codes in loose.items():
                self._codes[kind].append(distinct(np.array(codes, np.int64)))

    def _check_good(self, columns: Columns) -> np.ndarray:
        """Count the annotations that have nothing to be noted, all at once; return the places of the others."""
        found, beyond = self.found, len(self._places)
        listed = [one.tolist() if isinstance(one, np.ndarray) else one for one in (columns.images, columns.categories)]
        self._used.update(listed[1])
        image = np.array([self._places.get(one, beyond) for one in listed[0]])
        label = np.array([self._labels[self.names[one]] if one in self.names else -1 for one in listed[1]])
        masks = pickle.loads(columns.masks)
        none, plain = np.array([one is None for one in masks]), np.array([one == PLAIN for one in masks])
        (x, y, w, h), (width, height) = columns.boxes.T, self._sizes[image].T
        area = w if columns.areas is None else columns.areas
        right, bottom = width + EDGE_TOLERANCE, height + EDGE_TOLERANCE
        with np.errstate(all="ignore"):
            good = np.isfinite(x + y + w + h + area) & (image < beyond) & (label >= 0) & (none | plain)
            good &= (x >= -EDGE_TOLERANCE) & (y >= -EDGE_TOLERANCE) & (x + w <= right) & (y + h <= bottom)
            good &= (w >= 1) & (h >= 1) & (area > 0) & (x < width) & (y < height) & (x + w > 0) & (y + h > 0)
            found.like_fractions += int((good & (x + w <= 1) & (y + h <= 1)).sum())
            found.like_corners += int((good & (x < w) & (w <= right) & (y < h) & (h <= bottom)).sum())
        count, maskless = int(good.sum()), good & none
        found.boxes += count
        found.without_area += count * (columns.areas is None)
        found.without_iscrowd += count * (columns.crowds is None)
        found.without_mask += int(maskless.sum())
        if maskless.any():
            found.mask_unscored.add(MASKLESS, *np.array(columns.ids, object)[maskless])
        single = good if columns.crowds is None else good & (columns.crowds == 0)
        found.crowds += count - int(single.sum())
        codes = label * (beyond + 1) + image
        self._codes["named"].append(distinct(codes[good]))
        self._codes["annotated"].append(distinct(codes[single]))
        return np.flatnonzero(~good)

    def _finished(self) -> Annotations:
        for key in ("images", "categories"):
            if key not in self._seen:
                self.section, self.item = key, None
                raise KeyError(key)
        self.section, found = "annotations", self.found
        self._check_waiting()
        found.categories = tuple(self._labels)
        span = len(found.images) + 1
        for kind, parts in self._codes.items():
            codes = distinct(np.concatenate([*parts, np.zeros(0, np.int64)]))
            ends = np.searchsorted(codes, np.arange(1, len(found.categories)) * span)
            setattr(found, kind, dict(zip(found.categories, np.split(codes % span, ends), strict=False)))
        found.same_ids, first = repeated(self._ids)
        if found.same_ids:
            found.mistake = f"The annotation file {found.path} has the annotation id {first} twice: renumber it."
        parent, *others = self._categories or [{}]
        found.empty_parent = bool(others) and parent["id"] not in self._used
        found.empty_parent &= all(one.get("supercategory") == parent["name"] for one in others)
        return found

    def _check(self, annotation: dict, loose: dict[str, list[int]]) -> None:
        """Note what is wrong with an annotation; codes of image and class go to `loose`."""
        found, names = self.found, self.names
        identity, category, image = (annotation[key] for key in ("id", "category_id", "image_id"))
        x, y, w, h = annotation["bbox"]
        area = annotation.get("area", w)
        found.without_area += "area" not in annotation
        found.boxes += 1
        if category in names:
            code = self._labels[names[category]] * (len(self._places) + 1) + self._places.get(image, len(self._places))
            loose["named"].append(code)
        else:
            code = -1
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
        fault = mask_fault(mask, width, height)
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
                loose["annotated"].append(code)
            found.rle += isinstance(mask, dict) and not crowd
            found.without_mask += not mask
            if fault:
                (found.mask_errors if fault[1] else found.mask_faults).add(fault[0], identity)
                if fault[1]:
                    return
        if not reason and mask != PLAIN and not readable_mask(mask, fault):
            found.mask_unscored.add(MASKLESS, identity)
