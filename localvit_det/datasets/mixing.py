"""Transforms of MMDetection that mix several images, for boxes and masks; every draw is of the seeded generators."""

import random
from collections.abc import Sized
from typing import Any

import numpy as np
from mmdet.datasets.transforms import CopyPaste, Mosaic
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks

_Place = tuple[int, int, int, int]


@TRANSFORMS.register_module()
class MaskedMosaic(Mosaic):
    """MMDetection's mosaic of four images, which would leave their masks behind.

    Its cached one has masks, but draws from what its process has loaded before: no training could be resumed exactly.
    """

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Return three images; MMDetection's own may draw one behind the last."""
        return [random.randrange(len(dataset)) for _ in range(3)]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the mosaic of an image and its `mix_results`."""
        parts = [results, *results["mix_results"]]
        labels = np.concatenate([part["gt_bboxes_labels"] for part in parts])
        ends = np.cumsum([len(part["gt_bboxes_labels"]) for part in parts])
        masks = [part.pop("gt_masks", None) for part in parts]
        for part, numbers in zip(parts, np.split(np.arange(len(labels)), ends[:-1]), strict=True):
            part["gt_bboxes_labels"] = numbers  # which tell afterwards what is left
        self._places: list[tuple[_Place, _Place, tuple[int, int]]] = []
        mosaic = super().transform(results)
        kept = mosaic["gt_bboxes_labels"]
        mosaic["gt_bboxes_labels"] = labels[kept]
        if not self._places:  # by its `prob` the image stays as it is
            return mosaic if masks[0] is None else {**mosaic, "gt_masks": masks[0]}
        if masks[0] is not None:
            height, width = mosaic["img_shape"]
            whole = np.zeros((len(kept), height, width), np.uint8)
            for mask, start, end, (paste, crop, size) in zip(masks, [0, *ends[:-1]], ends, self._places, strict=True):
                rows = np.flatnonzero((kept >= start) & (kept < end))
                part = mask[kept[rows] - start].resize(size[::-1]).to_ndarray()  # objects, height, width of the part
                (x1, y1, x2, y2), (left, top, right, bottom) = paste, crop
                whole[rows, y1:y2, x1:x2] = part[:, top:bottom, left:right]
            mosaic["gt_masks"] = BitmapMasks(whole, height, width)
        return mosaic

    def _mosaic_combine(self, loc: str, center_position_xy: Any, img_shape_wh: Any) -> tuple[_Place, _Place]:
        """Note where a part goes."""
        paste, crop = super()._mosaic_combine(loc, center_position_xy, img_shape_wh)
        self._places.append((paste, crop, img_shape_wh))
        return paste, crop


@TRANSFORMS.register_module()
class FittingCopyPaste(CopyPaste):
    """MMDetection's pasting of objects, of masks of any kind, into an image that keeps its type."""

    def get_indexes(self, dataset: Sized) -> int:
        """Return an image; MMDetection's own may draw one behind the last."""
        return random.randrange(len(dataset))

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Paste objects of the one image of `mix_results`."""
        for part in (results, *results["mix_results"]):
            masks = part["gt_masks"]
            part["gt_masks"] = BitmapMasks(masks.to_ndarray(), masks.height, masks.width)
        kind = results["img"].dtype
        results = super().transform(results)
        results["img"] = results["img"].astype(kind)
        return results
