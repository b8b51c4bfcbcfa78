"""Image files, which may hold several pages: TIFF, and animated WebP, PNG and AVIF."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import re
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..datasets.images import BrokenImageError, PixelRange, decode, read_header, to_8_bits

_SEVERAL = ("TIFF", "WEBP", "PNG", "AVIF")  # formats whose further pages are images of their own


def read_pages(
    content: bytes,
    max_pixels: float,
    every: int = 1,
    limit: int | None = None,
    pixel_range: PixelRange | None = None,
) -> Iterator[tuple[int, float | None, np.ndarray]]:
    """Yield the pages of an image file: number, pages a second, and H×W×3, uint8, BGR.

    Args:
        max_pixels: A page with more is refused before it is decoded.
        every: Take each so-manieth page.
        limit: Take at most so many.
        pixel_range: As of `decode`.

    Yields:
        A single one for most files, with None for the pages a second.

    Raises:
        BrokenImageError: One cannot be decoded.
    """
    count, rate = _count(content, max_pixels)
    if count < 2:
        yield 0, None, _decode(content, max_pixels, pixel_range)
        return
    with Image.open(io.BytesIO(content)) as image:  # one for all: a page of an animation builds on those before it
        for index in itertools.islice(range(0, count, every), limit):
            try:
                yield index, rate, _page(image, content, index, max_pixels, pixel_range)
            except BrokenImageError as error:
                raise BrokenImageError(f"ends at page {index + 1} of {count}, which {error}") from error


def _count(content: bytes, max_pixels: float) -> tuple[int, float]:
    """The number of pages, and how many a second there are."""
    if not re.match(rb"II|MM|RIFF|\x89PNG|....ftypavis", content[:12], re.DOTALL):
        return 1, 1.0
    if content[4:8] != b"ftyp":  # of AVIF, the decoder may not be there yet
        read_header(content, max_pixels)
    try:
        with Image.open(io.BytesIO(content)) as image:
            count = getattr(image, "n_frames", 1) if image.format in _SEVERAL else 1
            if count > 1 and image.width * image.height <= max_pixels:
                image.load()  # before, WebP and AVIF do not say it
            duration = image.info.get("duration") or 0  # milliseconds
    except Exception:  # decoding says what is wrong with it
        return 1, 1.0
    return count, 1000 / duration if duration > 1 else 1.0


def _page(
    image: Image.Image, content: bytes, index: int, max_pixels: float, pixel_range: PixelRange | None
) -> np.ndarray:
    if index == 0:
        return _decode(content, max_pixels, pixel_range)
    try:
        image.seek(index)
        if image.width * image.height > max_pixels:
            raise BrokenImageError(f"has {image.width} x {image.height} pixels, over the limit of {max_pixels:,.0f}")
        if image.format != "TIFF":
            return _bgr(image)
        # As the first one is read.
        flag = cv2.IMREAD_COLOR if pixel_range is None else cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        there, pages = cv2.imdecodemulti(np.frombuffer(content, np.uint8), flag, range=(index, index + 1))
        if there and len(pages) == 1:
            return to_8_bits(pages[0], pixel_range)
    except BrokenImageError:
        raise
    except Exception as error:
        raise BrokenImageError(f"cannot be decoded ({type(error).__name__}: {error})") from error
    raise BrokenImageError("cannot be decoded")


def _decode(content: bytes, max_pixels: float, pixel_range: PixelRange | None) -> np.ndarray:
    try:
        return decode(content, limit=max_pixels, pixel_range=pixel_range)
    except BrokenImageError:
        if content[4:8] != b"ftyp":  # HEIC and AVIF
            raise
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > max_pixels:
                raise BrokenImageError(
                    f"has {image.width} x {image.height} pixels, over the limit of {max_pixels:,.0f}"
                )
            return _bgr(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise BrokenImageError(
            "is HEIC or AVIF, for which there is no decoder here: run `pip install pillow-heif`, or save it as JPEG"
        ) from error
    except OSError as error:
        raise BrokenImageError(f"cannot be decoded ({error})") from error


def _bgr(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
