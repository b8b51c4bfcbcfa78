"""Read image files page by page, videos and webcams frame by frame; all images are H×W×3, uint8, BGR.

OpenCV decodes, as MMDetection does; of files with several images it tells neither how many there are nor their rate,
which PIL does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import os
import re
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..datasets.images import BrokenImageError, PixelRange, decode, over, read_header, to_8_bits
from ..errors import DataError

_SEVERAL = ("TIFF", "WEBP", "PNG", "AVIF")  # formats whose further pages are images of their own
_RATE = 25.0  # of videos that do not say it


def read_pages(
    content: bytes,
    max_pixels: float,
    every: int = 1,
    limit: int | None = None,
    pixel_range: PixelRange | None = None,
) -> Iterator[tuple[int, float | None, np.ndarray]]:
    """Yield the pages of an image file: TIFF, and animated WebP, PNG and AVIF, may hold several.

    Args:
        max_pixels: A page with more is refused before it is decoded.
        every: Take each so-manieth page.
        limit: Take at most so many.
        pixel_range: As of `decode`.

    Yields:
        Number, pages a second, and image; a single one for most files, with None for the pages a second.

    Raises:
        BrokenImageError: One cannot be decoded.
    """
    count, rate = _count_pages(content, max_pixels)
    if count < 2:
        yield 0, None, _decode(content, max_pixels, pixel_range)
        return
    with Image.open(io.BytesIO(content)) as image:  # one for all: a page of an animation builds on those before it
        for index in itertools.islice(range(0, count, every), limit):
            try:
                yield index, rate, _page(image, content, index, max_pixels, pixel_range)
            except BrokenImageError as error:
                raise BrokenImageError(f"ends at page {index + 1} of {count}, which {error}") from error


def read_video(
    source: str | int, max_pixels: float, every: int = 1, limit: int | None = None
) -> Iterator[tuple[int, float, np.ndarray]]:
    """Yield each `every`-th frame of a video file or webcam, at most `limit` of them: number, frames a second, image.

    Args:
        source: A file, or the number of a camera.
        max_pixels: Larger frames are refused before one is decoded.

    Raises:
        DataError: It cannot be opened, its frames are too large, or there is not a single one.
        BrokenImageError: It ends before the frames that it announces.
    """
    capture = _open_video(source)
    try:
        if not capture.isOpened():
            if isinstance(source, int):
                raise DataError(f"There is no camera {source}, or another program uses it: give another number.")
            raise DataError(f"The video {source} cannot be opened: OpenCV does not know its format, or it is damaged.")
        width, height = (capture.get(key) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > max_pixels:
            raise DataError(f"The video {source} has frames of {width:.0f} x {height:.0f} pixels, {over(max_pixels)}.")
        announced, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), float(capture.get(cv2.CAP_PROP_FPS))
        number = given = 0
        while limit is None or given < limit:
            if not capture.grab():
                break
            if number % every == 0:
                there, image = capture.retrieve()
                if not there:
                    break
                given += 1
                yield number, rate if 0 < rate < 1000 else _RATE, image
            number += 1
        else:
            return
    finally:
        capture.release()
    if not given:
        raise DataError(f"The video {source} holds no frame that can be read: it is damaged, or cut off.")
    if announced - number > max(2, announced // 20):  # of some formats it is an estimate
        raise BrokenImageError(f"ends after {number} of the {announced} frames that it announces")


def count_frames(source: str | int) -> int | None:
    """Return how many frames a video file announces, 0 where it does not say; None where it cannot be opened."""
    capture = _open_video(source)
    count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if capture.isOpened() else None
    capture.release()
    return count


def from_pil(image: Image.Image, pixel_range: PixelRange | None = None) -> np.ndarray:
    """Return an image of PIL, upright, as EXIF says."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # PIL would cut values over 255
        values = np.asarray(image)
        values = values.astype(values.dtype.newbyteorder("="))
        return np.repeat(to_8_bits(values, pixel_range)[..., None], 3, axis=2)
    return _bgr(image)


def _open_video(source: str | int) -> cv2.VideoCapture:
    # OpenCV would take a name like image_%03d.mp4 for a pattern, and a bare number for a camera.
    return cv2.VideoCapture(source if isinstance(source, int) else os.path.abspath(source))


def _count_pages(content: bytes, max_pixels: float) -> tuple[int, float]:
    """Return the number of pages, and how many a second there are."""
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
        _check_size(image, max_pixels)
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
            _check_size(image, max_pixels)
            return _bgr(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise BrokenImageError(
            "is HEIC or AVIF, for which there is no decoder here: run `pip install pillow-heif`, or save it as JPEG"
        ) from error
    except OSError as error:
        raise BrokenImageError(f"cannot be decoded ({error})") from error


def _check_size(image: Image.Image, max_pixels: float) -> None:
    if image.width * image.height > max_pixels:
        raise BrokenImageError(f"has {image.width} x {image.height} pixels, {over(max_pixels)}")


def _bgr(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
