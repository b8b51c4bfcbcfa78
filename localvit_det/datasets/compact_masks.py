"""Masks of objects that are kept as what lies in the boxes around them, through the whole pipeline of a training.

MMDetection draws, resizes, flips and copies a whole image for each object, and data workers send them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from pycocotools import mask as coco


class Crop(NamedTuple):
    """A part of a mask outside of which it is 0, and its place."""

    top: int
    left: int
    pixels: np.ndarray


class CompactMasks(BitmapMasks):
    """:class:`BitmapMasks` that hold `Crop`s until something asks for all pixels (`masks`), which are the same."""

    _crops: list[Crop] | None = None

    @classmethod
    def of(cls, crops: Sequence[Crop], height: int, width: int) -> CompactMasks:
        """Return the masks of an image from one crop each."""
        made = cls((), height, width)
        made._crops = list(crops)
        return made

    @property
    def masks(self) -> np.ndarray:
        """Return all pixels, N×H×W."""
        if self._crops is not None:
            whole = np.zeros((len(self._crops), self.height, self.width), np.uint8)
            for mask, (top, left, pixels) in zip(whole, self._crops, strict=True):
                mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            self.masks = whole
        return self._masks

    @masks.setter
    def masks(self, whole: np.ndarray) -> None:
        self._masks, self._crops = whole, None  # whoever has the array may write into it

    def __len__(self) -> int:
        return len(self._masks if self._crops is None else self._crops)

    def __getitem__(self, index: Any) -> BitmapMasks:
        if self._crops is None:
            return super().__getitem__(index)
        chosen = np.arange(len(self))[index].reshape(-1)
        return self.of([self._crops[one] for one in chosen], self.height, self.width)

    def rescale(self, scale: float | tuple[int, int], interpolation: str = "nearest") -> BitmapMasks:
        """Scale to a factor, or into (long, short)."""
        if not self._crops:
            return super().rescale(scale, interpolation)
        return self.resize(mmcv.rescale_size((self.width, self.height), scale)[::-1], interpolation)

    def resize(self, out_shape: tuple[int, int], interpolation: str = "nearest") -> BitmapMasks:
        """Resize to (H, W)."""
        if not self._crops or interpolation != "nearest":
            return super().resize(out_shape, interpolation)
        rows, columns = _nearest(self.height, out_shape[0]), _nearest(self.width, out_shape[1])
        resized = []
        for top, left, pixels in self._crops:
            first, last = np.searchsorted(rows, (top, top + pixels.shape[0]))
            start, stop = np.searchsorted(columns, (left, left + pixels.shape[1]))
            pixels = pixels.take(columns[start:stop] - left, axis=1).take(rows[first:last] - top, axis=0)
            resized.append(Crop(int(first), int(start), pixels))
        return self.of(resized, *out_shape)

    def flip(self, flip_direction: str = "horizontal") -> BitmapMasks:
        """Flip to a side, which is 'horizontal', 'vertical' or, for both, 'diagonal'."""
        if self._crops is None or flip_direction not in ("horizontal", "vertical", "diagonal"):
            return super().flip(flip_direction)
        crops = self._crops
        if flip_direction != "horizontal":
            crops = [Crop(self.height - top - len(pixels), left, pixels[::-1]) for top, left, pixels in crops]
        if flip_direction != "vertical":
            crops = [Crop(top, self.width - left - pixels.shape[1], pixels[:, ::-1]) for top, left, pixels in crops]
        return self.of(crops, self.height, self.width)

    def crop(self, bbox: np.ndarray) -> BitmapMasks:
        """Cut out a box (x1, y1, x2, y2)."""
        x1, y1, x2, y2 = np.clip(bbox, 0, [self.width, self.height] * 2).tolist()
        if not self._crops or x1 >= min(x2, self.width) or y1 >= min(y2, self.height):
            return super().crop(bbox)
        cut = []
        for top, left, pixels in self._crops:
            part = pixels[max(y1 - top, 0) : max(y2 - top, 0), max(x1 - left, 0) : max(x2 - left, 0)]
            cut.append(Crop(max(top - y1, 0), max(left - x1, 0), part) if part.size else Crop(0, 0, pixels[:0, :0]))
        return self.of(cut, y2 - y1, x2 - x1)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BitmapMasks:
        """Add pixels below and on the right, up to (H, W)."""
        if not self._crops or pad_val or out_shape[0] < self.height or out_shape[1] < self.width:
            return super().pad(out_shape, pad_val)
        return self.of(self._crops, *out_shape)


def _nearest(length: int, new: int) -> np.ndarray:
    """Return which of `length` pixels each of `new` ones is a copy of, as MMCV's backend resizes masks."""
    places = np.arange(length)
    line = np.stack((places & 255, places >> 8 & 255, places >> 16), -1).astype(np.uint8)[None]  # 1, length, 3
    found = mmcv.imresize(line, (new, 1), interpolation="nearest")[0].astype(np.int64)  # new, 3
    return found @ (1, 256, 65536)


@TRANSFORMS.register_module()
class LoadCompactAnnotations(LoadAnnotations):
    """MMDetection's LoadAnnotations, with :class:`CompactMasks` where that makes bitmaps."""

    def _load_masks(self, results: dict) -> None:
        if not self.poly2mask:
            return super()._load_masks(results)
        height, width = results["ori_shape"]
        crops = [self._crop(mask, height, width) for mask in self._process_masks(results)]
        results["gt_masks"] = CompactMasks.of(crops, height, width)
        return None

    def _crop(self, mask: list | dict, height: int, width: int) -> Crop:
        if isinstance(mask, list) or isinstance(mask["counts"], list):
            mask = coco.frPyObjects(mask, height, width)
        if isinstance(mask, list):
            mask = coco.merge(mask)
        left, top, w, h = coco.toBbox(mask).astype(int).tolist()
        return Crop(top, left, np.ascontiguousarray(coco.decode(mask)[top : top + h, left : left + w]))
