"""Image files, read with care: the size before the pixels, nothing half, and upright as the annotations mean it."""

import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from ..errors import ConfigError, printable
from .annotations import EDGE_TOLERANCE, MAX_PIXELS

_BYTES_PER_PIXEL = 16  # of any format, uncompressed
_PIL_LIMIT = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # it says no size above that
# Markers before the size of a JPEG: tables, comments, and what applications add.
_JPEG_TABLES = (b"\xc4", b"\xdb", b"\xdd", b"\xfe", *(bytes([0xE0 + i]) for i in range(16)))
_USED = 0.5  # of a range: less loses more than a bit
PixelRange = tuple[float, float]  # what is black and what is white


class BrokenImageError(Exception):
    """An image that cannot be used; the message says what is wrong with it, to stand behind its path."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # decoders quote bytes of the file, line breaks included


def pixel_range_of(value: Any) -> PixelRange | None:
    """Return the setting `pixel_range` of a config: None, the value that is white, or those of black and of white.

    Raises:
        ConfigError: It is none of these.
    """
    if value is None:
        return None
    values = [0, value] if isinstance(value, (int, float)) else value
    good = isinstance(values, (list, tuple)) and len(values) == 2
    good = good and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)
    if not good or not -np.inf < values[0] < values[1] < np.inf:
        raise ConfigError(
            f"pixel_range={value!r} is no range: give the value that is white, such as 4095 for 12 bits, or "
            "[LOW,HIGH], those of black and white."
        )
    return float(values[0]), float(values[1])


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    upright: tuple[int, int]  # width and height in pixels, as EXIF turns them
    stored: tuple[int, int]  # as the pixels are stored
    wide: bool  # whether it may have more than 8 bits, as `is_wide` says


def read_header(file: str | os.PathLike | bytes, limit: float = MAX_PIXELS) -> Header | None:
    """Return the size of an image file, given by its path or content, without decoding it; None for an unknown format.

    Raises:
        BrokenImageError: The file is empty, or has more than `limit` pixels.
    """
    if isinstance(file, bytes):
        return _read_header(io.BytesIO(file), limit)
    with _opened(file) as (stream, size):
        if not size:
            raise BrokenImageError("is empty")
        return _read_header(stream, limit)


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file, and say how many bytes it has.

    Raises:
        BrokenImageError: It cannot be read, or is no file: reading a pipe may never end.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise BrokenImageError("is no file")
        with open(path, "rb") as stream:
            yield stream, found.st_size
    except (OSError, ValueError) as error:
        raise BrokenImageError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _read_header(source: IO[bytes], limit: float) -> Header | None:
    wide = is_wide(source.read(32))
    source.seek(0)
    try:
        # PIL takes the memory of a WebP when it opens it.
        if stored := _webp_size(source):
            _check_pixels(stored, limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large images; the limit is ours
            with Image.open(source) as image:
                stored = image.size
                # Without this, PIL looks for EXIF behind the pixels of a PNG, and decodes them on its way.
                has_exif = "exif" in image.info or image.format == "TIFF"
                orientation = image.getexif().get(0x0112, 1) if has_exif else 1
    except UnidentifiedImageError:
        orientation = 1
        if (stored := _tiff_size(source)) is None:
            return None
    except Image.DecompressionBombError as error:  # PIL has a limit, too
        pixels = int(re.findall(r"\d+", str(error))[0])
        if pixels > limit:
            raise BrokenImageError(f"has {pixels:,} pixels, {over(limit)}") from error
        return None
    except BrokenImageError:
        raise
    # PIL raises much on files that are made to break it.
    except Exception as error:
        raise BrokenImageError(f"cannot be read ({type(error).__name__}: {error})") from error
    _check_pixels(stored, limit)
    return Header(stored[::-1] if orientation in (5, 6, 7, 8) else stored, stored, wide)


def _check_pixels(size: tuple[int, int], limit: float) -> None:
    if size[0] * size[1] > limit:
        raise BrokenImageError(f"has {size[0]} x {size[1]} pixels, {over(limit)}")


def _webp_size(stream: IO[bytes]) -> tuple[int, int] | None:
    """Return width and height of a WebP, or of its canvas; None for any other file."""
    head = stream.read(30)
    stream.seek(0)
    if head[:4] + head[8:12] != b"RIFFWEBP":
        return None
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    lossless = head[12:16] == b"VP8L"
    bits = int.from_bytes(head[21:25] if lossless else head[26:30], "little")
    second = bits >> (14 if lossless else 16)
    return (bits & 0x3FFF) + lossless, (second & 0x3FFF) + lossless


def _tiff_size(stream: IO[bytes]) -> tuple[int, int] | None:
    """Return width and height of a TIFF with values that PIL does not decode; None for any other file."""
    try:
        stream.seek(0)
        tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
        return int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH])
    except Exception:  # no TIFF, or a broken one
        return None


def read_file(path: str | os.PathLike, limit: float = MAX_PIXELS) -> bytes:
    """Return the content of an image file.

    Raises:
        BrokenImageError: It cannot be read, or is larger than any image of `limit` pixels.
    """
    with _opened(path) as (stream, size):
        if size > _BYTES_PER_PIXEL * limit:
            raise BrokenImageError(f"has {size:,} bytes, more than any image with as many pixels: {over(limit)}")
        return stream.read()


def decode(
    content: bytes,
    size: tuple[int, int] | None = None,
    flag: int = cv2.IMREAD_COLOR,
    limit: float = MAX_PIXELS,
    pixel_range: PixelRange | None = None,
) -> np.ndarray:
    """Return the pixels of an image file.

    EXIF's orientation is applied, as viewers and annotation tools do; but where only the image as it is stored has
    the size that the annotations were made on, it stays as it is stored, and boxes lie on their objects either way.

    Args:
        size: Width and height according to the annotations; None where there are none.
        flag: As of `cv2.imdecode`.
        limit: Pixels from which on an image is refused before it is decoded.
        pixel_range: Values of images with more than 8 bits that become 0 and 255; by default OpenCV takes the upper 8
            of 16 bits, and refuses other types.

    Returns:
        H×W×C, or H×W in gray; BGR, uint8.

    Raises:
        BrokenImageError: It is empty, cut off, too large, no image, or has another size than `size`.
    """
    if not content:
        raise BrokenImageError("is empty")
    if not _is_plain_jpeg(content, limit) and read_header(content, limit) is None and limit <= _PIL_LIMIT:
        raise BrokenImageError(
            "cannot be decoded: it is no image, or damaged, or in a format that does not tell its size"
        )
    _check_end(content)
    image = _imdecode(content, flag, pixel_range)
    if size is None or same_size(size, image.shape[1::-1]):
        return image
    if same_size(size, image.shape[:2]) and not flag & cv2.IMREAD_IGNORE_ORIENTATION:
        stored = _imdecode(content, flag | cv2.IMREAD_IGNORE_ORIENTATION, pixel_range)
        if same_size(size, stored.shape[1::-1]):
            return stored
    raise BrokenImageError(size_difference(size, image.shape[1::-1]))


def _is_plain_jpeg(content: bytes, limit: float) -> bool:
    """Whether this is a JPEG as cameras write them, of up to `limit` pixels; PIL takes ten times as long to say so."""
    if content[:2] != b"\xff\xd8":
        return False
    at = 2
    while content[at : at + 1] == b"\xff":
        kind, segment = content[at + 1 : at + 2], content[at + 4 : at + 10]
        if kind in (b"\xc0", b"\xc1", b"\xc2"):  # baseline, extended, progressive
            bits, height, width, channels = struct.unpack(">BHHB", segment.ljust(6, b"\0"))
            return bits == 8 and channels in (1, 3) and 0 < height * width <= limit
        if kind not in _JPEG_TABLES:
            break
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return False


def _check_end(content: bytes) -> None:
    """Check that a JPEG or PNG is whole.

    Raises:
        BrokenImageError: It is cut off.
    """
    # Pixels that follow the last end marker; looking for their marker from there on leaves out most of the file.
    if content[:2] == b"\xff\xd8" and content.find(b"\xff\xda", max(content.rfind(b"\xff\xd9"), 0)) >= 0:
        raise BrokenImageError("is a JPEG that is cut off")  # some releases of OpenCV fill it with gray
    if content.startswith(b"\x89PNG"):
        at = 8
        while at < len(content) and content[at + 4 : at + 8] != b"IEND":
            at += 12 + int.from_bytes(content[at : at + 4], "big")
        if at > len(content):  # OpenCV takes the memory that a chunk announces, up to 2 GB
            raise BrokenImageError("is a PNG that is cut off")


def over(limit: float) -> str:
    """Say which limit is exceeded, and how to set it."""
    return f"over the limit of {limit:,.0f} pixels (--cfg-options max_pixels=N allows more)"


def same_size(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are so near that boxes fit both."""
    return max(abs(a - b) for a, b in zip(size, other, strict=True)) <= EDGE_TOLERANCE


def size_difference(size: tuple[int, int], found: tuple[int, int]) -> str:
    """Say that annotations and file disagree; both are (width, height)."""
    return (
        f"has {found[0]} x {found[1]} pixels and {size[0]} x {size[1]} according to the annotations, so that boxes "
        "would miss their objects"
    )


def _imdecode(content: bytes, flag: int, pixel_range: PixelRange | None) -> np.ndarray:
    data = np.frombuffer(content, np.uint8)
    try:
        image = cv2.imdecode(data, flag if pixel_range is None else flag | cv2.IMREAD_ANYDEPTH)
        if image is None:  # OpenCV converts the channels of few other types
            image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            if image is not None and flag & cv2.IMREAD_COLOR:
                image = image[..., :3] if image.ndim == 3 else cv2.merge([image] * 3)
    except (cv2.error, MemoryError) as error:
        raise BrokenImageError("cannot be decoded") from error
    if image is None:
        raise BrokenImageError("cannot be decoded: it is no image, or damaged")
    return to_8_bits(image, pixel_range)


def to_8_bits(image: np.ndarray, pixel_range: PixelRange | None) -> np.ndarray:
    """Scale the values of an image to 0 to 255; one of uint8 stays as it is.

    Raises:
        BrokenImageError: It is of another type, and it is not said which values are black and white.
    """
    if image.dtype == np.uint8:
        return image
    if pixel_range is None:
        if image.dtype == np.uint16:
            return (image >> 8).astype(np.uint8)
        low, high = _range_of(image)
        if image.dtype.kind in "iu" and low >= 0 and high <= 255:
            return image.astype(np.uint8)
        raise BrokenImageError(
            f"has pixels of type {image.dtype}, from {low:g} to {high:g}, for which it is not said what is black and "
            "white: set --cfg-options pixel_range=[LOW,HIGH]"
        )
    low, high = pixel_range
    scaled = (np.nan_to_num(image.astype(np.float32), nan=low) - low) * (255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _range_of(image: np.ndarray) -> tuple[float, float]:
    values = image[np.isfinite(image)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


class Depth(NamedTuple):
    """The type of an image with more than 8 bits, and its least and largest value."""

    kind: str
    low: float
    high: float


def is_wide(content: bytes) -> bool:
    """Whether an image file may have more than 8 bits, as its first bytes say: PNG's surely, of others the format."""
    if content.startswith(b"\x89PNG"):
        return content[24:25] == b"\x10"
    return not content.startswith((b"\xff\xd8", b"BM", b"RIFF", b"GIF8"))


def read_depth(content: bytes, limit: float = MAX_PIXELS) -> Depth | None:
    """Return type and values of an image with more than 8 bits; None for others and what cannot be decoded."""
    if not is_wide(content):
        return None
    try:
        read_header(content, limit)
        _check_end(content)
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except (BrokenImageError, cv2.error, MemoryError):
        return None
    return None if image is None or image.dtype == np.uint8 else Depth(image.dtype.name, *_range_of(image))


def explain_depth(depths: Sequence[Depth], pixel_range: PixelRange | None) -> tuple[bool, str]:
    """Say which part of their range images with more than 8 bits use.

    Returns:
        Whether much is lost, and the sentence's half: to stand behind what the images are.
    """
    low, high = min(depth.low for depth in depths), max(depth.high for depth in depths)
    kinds = ", ".join(sorted({depth.kind for depth in depths}))
    values = f"have pixels of type {kinds}, from {low:g} to {high:g}"
    if pixel_range is not None:
        first, last = pixel_range
        share = (min(high, last) - max(low, first)) / (last - first)
        beyond = " (values beyond it are cut)" if low < first or high > last else ""
        return share < _USED or bool(beyond), (
            f"{values}: {max(share, 0):.0%} of pixel_range {first:g} to {last:g} is used{beyond}"
        )
    if kinds != "uint16":
        return True, f"{values}, for which it is not said what is black and white: set pixel_range=[LOW,HIGH]"
    bits = max(8, int(high).bit_length())
    advice = f"; pixel_range={2**bits - 1} scales them" if bits < 16 else ""
    return high < _USED * 65535, (
        f"{values}: {high / 65535:.0%} of the range of 16 bits is used, so that {int(high) // 256 + 1} of 256 gray "
        f"levels are left{advice}"
    )
