"""What is wrong with a mask of a COCO-format file, found without drawing it."""

from collections.abc import Sequence

from .plain_polygons import PLAIN

# How far a polygon may reach outside its image, in sizes of the image, and how long it may be, in pixels.
FAR = 10
_MAX_LENGTH = 10_000_000

NO_POLYGON = "have no polygon of three points or more"
BAD_PART = "have polygons with under three points or an odd count of numbers beside good ones"

NOT_NUMBERS = "have something else than numbers in their polygons"
NOT_FINITE = "have NaN or infinity in their polygons"
TOO_FAR = "have polygons that reach far outside the image"
FLAT = "have one list of numbers where COCO has a list of polygons"
NO_MASK = "have a segmentation that is neither polygons nor RLE"
BAD_RLE = "have an RLE mask with broken counts"
OTHER_SIZE = "have an RLE mask of another size than their image"


def mask_fault(mask: object, width: float, height: float) -> tuple[str, bool] | None:
    """What is wrong with a segmentation, and whether it stops a training; None for a good one.

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
        counts = _decoded(counts)
    if counts is None or any(type(count) is not int or count < 0 for count in counts):
        return BAD_RLE
    return None if sum(counts) == height * width else BAD_RLE


def _decoded(text: str) -> Sequence[int] | None:
    """Counts of COCO's compressed RLE: five bits a character, each count from the third on as a difference."""
    counts: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = shift = 0
    return None if shift else counts
