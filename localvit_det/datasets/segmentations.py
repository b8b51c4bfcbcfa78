"""Segmentations of a COCO-format file: what is wrong with a mask, found without drawing it.

Polygons are most of such a file. Parsed like everything else they triple the time and the memory of reading COCO, and
none of their numbers is needed to know that they are numbers, come in pairs and lie near the image: those that are
certainly good are taken out before the file is parsed, checked as text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from pycocotools import mask as coco

# How far a polygon may reach outside its image, in sizes of the image, and how long it may be, in pixels.
FAR = 10
_MAX_LENGTH = 10_000_000

NO_POLYGON = "have no polygon of three points or more"
BAD_PART = "have polygons with under three points or an odd count of numbers next to good ones"

NOT_NUMBERS = "have something else than numbers in their polygons"
NOT_FINITE = "have NaN or infinity in their polygons"
TOO_FAR = "have polygons that reach far outside the image"
FLAT = "have one list of numbers where COCO has a list of polygons"
NO_MASK = "have a segmentation that is neither polygons nor RLE"
BAD_RLE = "have an RLE mask with broken counts"
OTHER_SIZE = "have an RLE mask of another size than their image"

# What stands for a plain polygon; random, so that no file can hold it.
PLAIN = secrets.token_hex(8)
_REPLACEMENT = f'"segmentation":"{PLAIN}"'.encode()

_LONGEST = 8000  # bytes; longer ones may take gigabytes when they are drawn, and are measured
# Lists of polygons of three pairs of numbers or more, as JSON has them, up to the next key or the end of the object.
# Five digits before the point are a place outside of any image; more repetitions than these are over `_LONGEST`.
_SPACE = r"[ \t\r\n]*"
_COMMA = f"{_SPACE},{_SPACE}"
_NUMBER = r"-?(?:0|[1-9]\d{0,3})(?:\.\d+)?"
_PAIR = f"{_NUMBER}{_COMMA}{_NUMBER}"
_POLYGON = rf"\[{_SPACE}{_PAIR}(?:{_COMMA}{_PAIR}){{2,2000}}{_SPACE}\]"
_POLYGONS = re.compile(
    rf'"segmentation"{_SPACE}:{_SPACE}(\[{_SPACE}{_POLYGON}(?:{_COMMA}{_POLYGON}){{0,500}}{_SPACE}\])'
    rf'(?={_COMMA}"|{_SPACE}\}})'.encode()
)
_MAX_CHARACTERS = 7  # of a number in compressed run lengths, 35 bits


def mask_fault(mask: object, width: float, height: float) -> tuple[str, bool] | None:
    """Return what is wrong with a segmentation, and whether it stops a training; None for a good one.

    Args:
        width: Of the image in pixels.
        height: Likewise.
    """
    if mask == PLAIN or not mask:
        return None
    if isinstance(mask, dict):
        reason = _rle_fault(mask, width, height)
        return (reason, True) if reason else None
    if not isinstance(mask, list):
        return NO_MASK, True
    if not isinstance(mask[0], list):
        return (FLAT if isinstance(mask[0], (int, float)) else NO_MASK), True
    good = 0
    for part in mask:
        reason = _part_fault(part, FAR * max(width, height, 1))
        if reason:
            return reason, True
        good += len(part) >= 6 and len(part) % 2 == 0
    if good == len(mask):
        return None
    return (BAD_PART if good else NO_POLYGON), False


def _part_fault(part: object, limit: float) -> str | None:
    if not isinstance(part, list):
        return NO_MASK
    try:
        total = sum(part)
        if total - total != 0:
            return NOT_FINITE
        if part and (max(part) > limit or min(part) < -limit):
            return TOO_FAR
        steps = (abs(a - b) for a, b in zip(part, part[2:], strict=False))
        return TOO_FAR if sum(steps) > _MAX_LENGTH else None
    except TypeError:
        return NOT_NUMBERS
    except OverflowError:
        return TOO_FAR


def _rle_fault(mask: dict, width: float, height: float) -> str | None:
    counts, size = mask.get("counts"), mask.get("size")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, (str, list)):
        return BAD_RLE
    if size != [height, width]:
        return OTHER_SIZE
    if isinstance(counts, str):
        decoded = _decoded(counts)
        good = decoded is not None and decoded.min() >= 0 and decoded.sum() == height * width
    else:
        good = all(type(count) is int and count >= 0 for count in counts) and sum(counts) == height * width
    return None if good else BAD_RLE


def _decoded(text: str) -> np.ndarray | None:
    """Return the counts of COCO's compressed RLE: five bits a character, from the fourth on as differences."""
    if not text or not text.isascii():
        return None
    bits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if bits.min() < 0 or bits.max() > 63 or bits[-1] & 0x20:
        return None
    ends = np.flatnonzero(bits & 0x20 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        return None
    places = np.arange(len(bits)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((bits & 0x1F) << (5 * places), starts)
    counts -= (bits[ends] & 0x10 > 0).astype(np.int64) << (5 * lengths)
    for first in (1, 2):  # each adds to the one before the last
        counts[first::2] = np.cumsum(counts[first::2])
    return counts


def without_plain_polygons(content: bytes, taken: list[bytes] | None = None) -> bytes:
    """Return a JSON file with `PLAIN` in place of the polygons that are certainly good.

    Args:
        taken: Gets those polygons.
    """

    def replacement(match: re.Match[bytes]) -> bytes:
        if len(match[1]) > _LONGEST:
            return match[0]
        if taken is not None:
            taken.append(match[1])
        return _REPLACEMENT

    return _POLYGONS.sub(replacement, content)


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
