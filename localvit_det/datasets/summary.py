"""What is known of a COCO-format annotation file: counts, images, which of them have objects, what is scored.

Of large files it is kept from one start to the next; processes wait for the one that reads.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from ..files import atomic_file, cache_folder, locked
from .segmentations import mask_fault

Stored = tuple[dict[str, Any], dict[str, np.ndarray]]

_VERSION = 1  # raise it with every change of the checks, and of what is kept
_SMALL = 1_000_000  # bytes of a file that is read again at every start, in a hundredth of a second
_END = 65536  # bytes at either end that are compared
_NAMED, _KEPT = 5, 1000  # ids that a sentence names, and that are kept
_PAIRS = ("annotated", "named")


class Faults(dict):
    """Ids of annotations by what is wrong with them: the first ones, since there may be millions."""

    def __init__(self, ids: Mapping[str, list] | None = None, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(ids or {})
        self.counts = Counter(counts or {})

    def add(self, reason: str, *identities: object) -> None:
        """Note annotations."""
        kept = self.setdefault(reason, [])
        kept += identities[: _KEPT - len(kept)]
        self.counts[reason] += len(identities)

    def count(self) -> int:
        """Return how many there are."""
        return self.counts.total()

    def summary(self) -> str:
        """Return `3 have NaN … (ids 4, 7, 9), 1 …`, the most frequent reason first."""
        return ", ".join(f"{count} {reason} ({self._ids(reason)})" for reason, count in self.counts.most_common())

    def _ids(self, reason: str) -> str:
        names, more = list(map(str, self[reason][:_NAMED])), self.counts[reason] - _NAMED
        return f"id{'s' * (len(names) > 1)} {', '.join(names)}" + (f" and {more} more" if more > 0 else "")


@dataclass
class Annotations:
    """Summary of one COCO-format file."""

    path: Path
    categories: tuple[str, ...] = ()  # names in the order of the file, which is the order of MMDetection's labels
    images: dict = field(default_factory=dict)  # (file name, width, height) by image id
    # For each category name the images with at least one usable box that is no crowd, as places in `images`, sorted;
    annotated: dict[str, np.ndarray] = field(default_factory=dict)
    # likewise for any annotation, good or not: what MMDetection takes for an image with objects. Images that are not
    # listed stand behind all others.
    named: dict[str, np.ndarray] = field(default_factory=dict)
    boxes: int = 0  # annotations
    crowds: int = 0  # usable ones that mark a crowd, from which nothing is learnt
    faults: Faults = field(default_factory=Faults)  # what MMDetection's training drops
    unscored: Faults = field(default_factory=Faults)  # what is left out of scoring
    neutral: Faults = field(default_factory=Faults)  # what counts neither as found nor as missed
    errors: Faults = field(default_factory=Faults)  # what a training breaks on
    mask_faults: Faults = field(default_factory=Faults)  # masks, or parts of them, that MMDetection drops
    mask_unscored: Faults = field(default_factory=Faults)  # what is left out of scoring masks
    mask_errors: Faults = field(default_factory=Faults)  # masks that a training or an evaluation breaks on
    over_edge: int = 0  # boxes that run over the edge of their image
    like_corners: int = 0  # boxes that would be good ones as [x1, y1, x2, y2]
    like_fractions: int = 0  # boxes inside the unit square
    without_mask: int = 0  # usable boxes without a segmentation
    without_iscrowd: int = 0  # annotations without the key that pycocotools needs for the evaluation
    without_area: int = 0  # annotations without the key that MMDetection and pycocotools need
    rle: int = 0  # usable ones, no crowds, whose masks are run lengths
    same_files: list[str] = field(default_factory=list)  # names of image files that stand under several ids
    empty_parent: bool = False  # a first category has no annotation and stands above all others
    same_ids: int = 0  # annotations with the id of another one
    mistake: str | None = None  # what only a normalized copy may be free of

    def with_objects(self, classes: Iterable[str], usable: bool = True) -> np.ndarray:
        """Return whether each image has an annotation of the classes, bool (images,).

        Args:
            usable: Count only `annotated`, else `named`.
        """
        marked = np.zeros(len(self.images) + 1, bool)
        for name in classes:
            marked[(self.annotated if usable else self.named).get(name, [])] = True
        return marked[:-1]

    def stored(self) -> Stored:
        """Return all of it as values of JSON, and arrays."""
        values = {key: value for key, value in vars(self).items() if key not in ("path", "images", *_PAIRS)}
        values |= {key: [one, one.counts] for key, one in values.items() if isinstance(one, Faults)}
        values |= {"ids": [*self.images], "files": [*self.images.values()]}
        arrays: dict[str, np.ndarray] = {}
        for kind in _PAIRS:
            lists = getattr(self, kind).values()
            arrays[kind] = np.concatenate([*lists, np.zeros(0, np.int64)])
            arrays[f"{kind}_ends"] = np.cumsum([len(one) for one in lists], dtype=np.int64)
        return {**values, "path": str(self.path)}, arrays

    @classmethod
    def restored(cls, stored: Stored) -> "Annotations":
        """Make one of what `stored` has returned."""
        values, arrays = stored
        found = cls(Path(values.pop("path")))
        found.images = dict(zip(values.pop("ids"), map(tuple, values.pop("files")), strict=True))
        for key, value in values.items():
            setattr(found, key, Faults(*value) if isinstance(getattr(found, key), Faults) else value)
        found.categories = tuple(found.categories)
        for kind in _PAIRS:
            lists = np.split(arrays[kind], arrays[f"{kind}_ends"])
            setattr(found, kind, dict(zip(found.categories, lists, strict=False)))
        return found


class Verdict:
    """What is known of a file, None before it is read."""

    found: Annotations | None = None


@contextlib.contextmanager
def kept_verdict(path: Path) -> Iterator[Verdict]:
    """Give what was kept of a file, if it is the same, and keep what is found in the block, if nothing was.

    One process at a time: of those that start together the first one reads the file, the others get what it found.
    """
    verdict = Verdict()
    if path.stat().st_size < _SMALL:
        yield verdict
        return
    file = cache_folder() / "verdicts" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.npz"
    with locked(file.with_suffix(".lock")):
        state = _state(path)
        verdict.found = known = _load(file, state)
        yield verdict
        if known is None and verdict.found is not None:
            values, arrays = verdict.found.stored()
            kept: dict[str, Any] = {**arrays, "text": np.frombuffer(json.dumps([state, values]).encode(), np.uint8)}
            try:
                with atomic_file(file, flush=False) as stream:
                    np.savez(stream, **kept)
            except OSError as error:
                place = f"{file.parent} ({error.strerror})"
                print_log(
                    f"What was found in {path} cannot be kept in {place}: the next start reads it again.", "current"
                )


def _state(path: Path) -> list:
    """Return what changes with the file and the checks."""
    stat = path.stat()
    with path.open("rb") as file:
        ends = [file.read(_END)]
        file.seek(max(0, stat.st_size - _END))
        ends.append(file.read(_END))
    return [_VERSION, str(path), stat.st_size, stat.st_mtime_ns, hashlib.sha256(b"".join(ends)).hexdigest()]


def _load(file: Path, state: list) -> Annotations | None:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays: dict[str, Any] = dict(archive)
        known, values = json.loads(arrays.pop("text").tobytes())
        return Annotations.restored((values, arrays)) if known == state else None
    except Exception:  # there is none, or it is of a broken disk, of which zipfile and others raise much
        return None


NO_EXTENT = "have a box without width or height"
OUTSIDE = "lie outside their image"
NO_CATEGORY = "have a category_id that is not among the categories"
NO_IMAGE = "have an image_id that is not among the images"
MASKLESS = "have no usable mask"

Box = Sequence[float]
Item = dict[str, Any]


def unscorable(box: Box, width: float, height: float) -> str | None:
    """Return why no detection can match an object, None if one can.

    Args:
        box: [x, y, width, height].
        width: Of the image in pixels.
        height: Likewise.
    """
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return NO_EXTENT
    return OUTSIDE if x + w <= 0 or y + h <= 0 or x >= width or y >= height else None


def readable_mask(mask: Any, fault: tuple[str, bool] | None) -> dict | list | None:
    """Return a segmentation with a `mask_fault` without what stops pycocotools, None if nothing is left.

    pycocotools takes a first polygon of two points for a box and raises at one of a single point; such polygons cover
    no pixel.
    """
    if not mask or (fault and fault[1]):
        return None
    return mask if isinstance(mask, dict) else [part for part in mask if len(part) >= 6] or None


def scored_content(
    content: Mapping[str, Any], numbers: Mapping[object, int], classes: Sequence[str], masks: bool
) -> tuple[Item, Counter]:
    """Return the part of a COCO-format file that is scored, everything numbered from 1.

    pycocotools takes a match with the id 0 for none, and sorts and compares ids as numbers. Categories are numbered in
    the order of `classes`. What is marked with `ignore` becomes a crowd, which counts
    neither as found nor as missed; MMDetection does the same with other formats.

    Args:
        content: The content of the file, which stays as it is.
        numbers: New ids of the images by those of the file; others are left out.
        classes: Names of the classes.
        masks: Leave out objects without a usable mask.

    Returns:
        The content, and the counts of annotations that are left out by their reasons.
    """
    images = {image["id"]: image for image in content["images"]}
    by_name = {category["name"]: category for category in content["categories"]}
    labels = {by_name[name]["id"]: number for number, name in enumerate(classes, 1)}
    known = {category["id"] for category in content["categories"]}
    left_out: Counter = Counter()
    annotations: list[Item] = []
    for one in content.get("annotations") or ():
        image = images.get(one["image_id"])
        if image is None or one["category_id"] not in known:
            left_out[NO_IMAGE if image is None else NO_CATEGORY] += 1
            continue
        if one["image_id"] not in numbers or one["category_id"] not in labels:
            continue
        reason = unscorable(one["bbox"], image["width"], image["height"])
        changed: Item = {"iscrowd": int(bool(one.get("iscrowd") or one.get("ignore")))}
        if masks and not reason:
            mask = one.get("segmentation")
            changed["segmentation"] = readable_mask(mask, mask_fault(mask, image["width"], image["height"]))
            reason = None if changed["segmentation"] else MASKLESS
        if reason:
            left_out[reason] += 1
            continue
        ids = {"id": len(annotations) + 1, "image_id": numbers[one["image_id"]]}
        annotations.append({**one, **changed, **ids, "category_id": labels[one["category_id"]]})
    return {
        "images": [{**images[identity], "id": number} for identity, number in numbers.items()],
        "categories": [{**by_name[name], "id": number} for number, name in enumerate(classes, 1)],
        "annotations": annotations,
    }, left_out
