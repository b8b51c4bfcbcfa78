"""The part of `panopticapi` with which MMDetection reads panoptic maps and computes PQ.

It has no release on package indexes, only a repository (https://github.com/cocodataset/panopticapi), so that a plain
`pip install` cannot bring it. Written from the definitions at https://cocodataset.org/#panoptic-eval.
"""

from collections import defaultdict
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np

NAME = "panopticapi"
VOID = 0  # the id of pixels that belong to no segment
OFFSET = 256**3  # above all ids


def make_modules() -> dict[str, ModuleType]:
    """Return the package and its two modules by their names."""
    package = _module(NAME, {})
    package.__path__ = []
    utils = _module(f"{NAME}.utils", {"rgb2id": rgb2id, "id2rgb": id2rgb})
    names = {"VOID": VOID, "OFFSET": OFFSET, "PQStat": PQStat, "PQStatCat": PQStatCat}
    evaluation = _module(f"{NAME}.evaluation", names)
    vars(package).update(utils=utils, evaluation=evaluation)
    return {module.__name__: module for module in (package, utils, evaluation)}


def _module(name: str, content: Mapping[str, object]) -> ModuleType:
    module = ModuleType(name, __doc__)
    module.__spec__ = ModuleSpec(name, loader=None)
    vars(module).update(content)
    return module


def rgb2id(color: np.ndarray | tuple[int, int, int] | list[int]) -> np.ndarray | int:
    """Return the segment ids of a map whose colors spell them, (H, W, 3) -> (H, W); or the id of one color."""
    if isinstance(color, np.ndarray) and color.ndim == 3:
        red, green, blue = (color[..., channel].astype(np.int32) for channel in range(3))
        return red + 256 * green + 256**2 * blue
    return sum(256**place * int(value) for place, value in enumerate(color))


def id2rgb(segment: np.ndarray | int) -> np.ndarray | list[int]:
    """Return the colors of a map of segment ids, (H, W) -> (H, W, 3), uint8; or the color of one id."""
    if isinstance(segment, np.ndarray):
        ids = segment.astype(np.int64)
        return np.stack([ids // 256**channel % 256 for channel in range(3)], axis=-1).astype(np.uint8)
    return [int(segment) // 256**channel % 256 for channel in range(3)]


class PQStatCat:
    """Matches of one category."""

    def __init__(self) -> None:
        self.iou, self.tp, self.fp, self.fn = 0.0, 0, 0, 0

    def __iadd__(self, other: "PQStatCat") -> "PQStatCat":
        self.iou += other.iou
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        return self

    @property
    def quality(self) -> dict[str, float]:
        """Return panoptic, segmentation and recognition quality: pq = sq · rq; zeros where nothing was to be found."""
        weight = self.tp + (self.fp + self.fn) / 2
        return {
            "pq": self.iou / weight if weight else 0.0,
            "sq": self.iou / self.tp if self.tp else 0.0,
            "rq": self.tp / weight if weight else 0.0,
        }


class PQStat:
    """Matches of all categories, by their ids."""

    def __init__(self) -> None:
        self.pq_per_cat: defaultdict[int, PQStatCat] = defaultdict(PQStatCat)

    def __getitem__(self, category: int) -> PQStatCat:
        return self.pq_per_cat[category]

    def __iadd__(self, other: "PQStat") -> "PQStat":
        for category, stat in other.pq_per_cat.items():
            self.pq_per_cat[category] += stat
        return self

    def pq_average(self, categories: Mapping[int, dict], isthing: bool | None) -> tuple[dict, dict]:
        """Return means over the categories that occur.

        Args:
            categories: COCO's entries of categories by their ids.
            isthing: Only things, only stuff, or all.

        Returns:
            The means `pq`, `sq` and `rq` with their number of categories `n`, and the qualities of each category.
        """
        each = {
            label: self[label].quality
            for label, info in categories.items()
            if isthing is None or isthing == (info["isthing"] == 1)
        }
        seen = [values for label, values in each.items() if self[label].tp + self[label].fp + self[label].fn]
        count = max(len(seen), 1)
        means = {key: sum(values[key] for values in seen) / count for key in ("pq", "sq", "rq")}
        return {**means, "n": len(seen)}, each
