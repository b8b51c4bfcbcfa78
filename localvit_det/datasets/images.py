"""Image files, read with care: the size before the pixels, nothing half, and upright as the annotations mean it."""

import io
import os
import re
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from .annotations import EDGE_TOLERANCE, MAX_PIXELS

_BYTES_PER_PIXEL = 16  # of any format, uncompressed


class BrokenImageError(Exception):
    """An image that cannot be used; the message says what is wrong with it, to stand behind its path."""


class Header(NamedTuple):
    """Width and height in pixels: upright, as EXIF says, and as the pixels are stored."""

    upright: tuple[int, int]
    stored: tuple[int, int]


def read_header(file: str | os.PathLike | bytes, limit: float = MAX_PIXELS) -> Header | None:
    """The size of an image file, given by its path or content, without decoding it; None for an unknown format.

    Raises:
        BrokenImageError: The file is empty, or has more than `limit` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large images; the limit is ours
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
                stored = image.size
                # Without this, PIL looks for EXIF behind the pixels of a PNG, and decodes them on its way.
                has_exif = "exif" in image.info or image.format == "TIFF"
                orientation = image.getexif().get(0x0112, 1) if has_exif else 1
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError as error:  # PIL has a limit, too
        pixels = int(re.search(r"\d+", str(error))[0])
        if pixels > limit:
            raise BrokenImageError(f"has {pixels:,} pixels, {_over(limit)}") from error
        return None
    # PIL raises much on files that are made to break it.
    except Exception as error:
        raise BrokenImageError(f"cannot be read ({type(error).__name__}: {error})") from error
    if stored[0] * stored[1] > limit:
        raise BrokenImageError(f"has {stored[0]} x {stored[1]} pixels, {_over(limit)}")
    return Header(stored[::-1] if orientation in (5, 6, 7, 8) else stored, stored)


def read_file(path: str | os.PathLike, limit: float = MAX_PIXELS) -> bytes:
    """The content of an image file.

    Raises:
        BrokenImageError: It cannot be read, is empty, or larger than any image of `limit` pixels.
    """
    try:
        size = os.path.getsize(path)
        if not os.path.isfile(path):
            raise BrokenImageError("is no file")
        if size > _BYTES_PER_PIXEL * limit:
            raise BrokenImageError(f"has {size:,} bytes, more than any image with as many pixels: {_over(limit)}")
        with open(path, "rb") as stream:
            return stream.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BrokenImageError(f"cannot be read ({reason})") from error


def decode(
    content: bytes,
    size: tuple[int, int] | None = None,
    flag: int = cv2.IMREAD_COLOR,
    limit: float = MAX_PIXELS,
) -> np.ndarray:
    """The pixels of an image file.

    EXIF's orientation is applied, as viewers and annotation tools do; but where only the image as it is stored has
    the size that the annotations were made on, it stays as it is stored, and boxes lie on their objects either way.

    Args:
        size: Width and height according to the annotations; None where there are none.
        flag: As of `cv2.imdecode`.
        limit: Pixels from which on an image is refused before it is decoded.

    Returns:
        H×W×C, or H×W in gray; BGR.

    Raises:
        BrokenImageError: It is empty, cut off, too large, no image, or has another size than `size`.
    """
    if not content:
        raise BrokenImageError("is empty")
    read_header(content, limit)
    if content[:2] == b"\xff\xd8" and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise BrokenImageError("is a JPEG that is cut off")  # some releases of OpenCV fill it with gray
    image = _imdecode(content, flag)
    if size is None or same_size(size, image.shape[1::-1]):
        return image
    if same_size(size, image.shape[:2]) and not flag & cv2.IMREAD_IGNORE_ORIENTATION:
        stored = _imdecode(content, flag | cv2.IMREAD_IGNORE_ORIENTATION)
        if same_size(size, stored.shape[1::-1]):
            return stored
    raise BrokenImageError(size_difference(size, image.shape[1::-1]))


def _over(limit: float) -> str:
    return f"over the limit of {limit:,.0f} pixels (--cfg-options max_pixels=N allows more)"


def same_size(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are so near that boxes fit both."""
    return max(abs(a - b) for a, b in zip(size, other, strict=True)) <= EDGE_TOLERANCE


def size_difference(size: tuple[int, int], found: tuple[int, int]) -> str:
    """Says that annotations and file disagree; both are (width, height)."""
    return (
        f"has {found[0]} x {found[1]} pixels and {size[0]} x {size[1]} according to the annotations, so that boxes "
        "would miss their objects"
    )


def _imdecode(content: bytes, flag: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except (cv2.error, MemoryError) as error:
        raise BrokenImageError("cannot be decoded") from error
    if image is None:
        raise BrokenImageError("cannot be decoded: it is no image, or damaged")
    return image
