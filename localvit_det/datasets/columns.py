"""Annotations of a COCO-format file as arrays: a tenth of the memory of objects, and checked many at a time."""

import pickle
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .segmentations import PLAIN


class Columns(NamedTuple):
    """Annotations of one kind, N of them, for as little memory as there is; lists where ids are no numbers."""

    ids: np.ndarray | list
    images: np.ndarray | list
    categories: np.ndarray | list
    boxes: np.ndarray  # (N, 4)
    areas: np.ndarray | None  # (N,), None where all lack it
    crowds: np.ndarray | None
    masks: bytes  # pickled: PLAIN, None, or what the file has

    @classmethod
    def of(cls, items: list[dict]) -> "Columns | None":
        """Return the columns of annotations; None where they are of several kinds, or not as COCO has them."""
        try:
            boxes = _numbers([one["bbox"] for one in items])
            areas = _numbers([one["area"] for one in items]) if "area" in items[0] else None
            crowds = _numbers([one["iscrowd"] for one in items]) if "iscrowd" in items[0] else None
            lacking = [key for key, column in (("area", areas), ("iscrowd", crowds)) if column is None]
            if boxes.ndim != 2 or boxes.shape[1] != 4 or any(key in one for key in lacking for one in items):
                return None
            if any(column is not None and column.ndim != 1 for column in (areas, crowds)):
                return None
            if (crowds is not None and not np.isin(crowds, (0, 1)).all()) or any(one.get("ignore") for one in items):
                return None
            ids, images, categories = (packed([one[key] for one in items]) for key in ("id", "image_id", "category_id"))
            masks = [one.get("segmentation") or None for one in items]
            kept = pickle.dumps([PLAIN if one == PLAIN else one for one in masks])  # one text, not a copy for each
            return cls(ids, images, categories, boxes, areas, crowds, kept)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None

    def items(self, places: Iterable[int]) -> Iterator[dict]:
        """Yield some of the annotations as the file has them, as far as they are looked at."""
        masks = pickle.loads(self.masks)
        for at in places:
            item = {"id": self.ids[at], "image_id": self.images[at], "category_id": self.categories[at]}
            item |= {"bbox": self.boxes[at].tolist(), "segmentation": masks[at]}
            item = {key: one.item() if isinstance(one, np.generic) else one for key, one in item.items()}
            item |= {} if self.areas is None else {"area": self.areas[at].item()}
            yield item | ({} if self.crowds is None else {"iscrowd": int(self.crowds[at])})


def _numbers(values: list) -> np.ndarray:
    """Return numbers as an array of float64.

    Raises:
        TypeError: Some are no numbers, or too large.
    """
    array = np.array(values)
    if array.dtype.kind not in "if":
        raise TypeError
    return array.astype(np.float64)


def distinct(values: np.ndarray) -> np.ndarray:
    """Return different values in their order; `np.unique` takes ten times as long where most are different."""
    values = np.sort(values)
    return values[np.diff(values, prepend=-1) != 0]  # places and classes are not below 0


def packed(values: list) -> np.ndarray | list:
    """Return ids as an array, if that is the same; else as they are."""
    kinds = {*map(type, values)}
    array = np.array(values) if kinds == {int} else None
    return values if array is None or array.dtype != np.int64 else array


def repeated(parts: list[np.ndarray | list]) -> tuple[int, Any]:
    """Return how many ids stand there already, and the first of them."""
    if all(isinstance(one, np.ndarray) for one in parts):
        ids = np.concatenate([*parts, np.zeros(0, np.int64)])
        order = np.argsort(ids, kind="stable")
        again = order[1:][np.diff(ids[order]) == 0]
        return len(again), ids[again.min()] if len(again) else None
    listed = [identity for part in parts for identity in (part.tolist() if isinstance(part, np.ndarray) else part)]
    seen: set = set()
    first: list = []
    for identity in listed:
        if identity in seen and not first:
            first.append(identity)
        seen.add(identity)
    return len(listed) - len(seen), first[0] if first else None
