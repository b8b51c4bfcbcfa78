"""Image files of a data set: a look at some before a run, at all of them on request."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import cv2
from mmengine.logging import print_log

from ..datasets.annotations import Annotations
from ..datasets.images import (
    BrokenImageError,
    PixelRange,
    decode,
    explain_depth,
    is_wide,
    read_depth,
    read_file,
    read_header,
    same_size,
    size_difference,
)
from ..errors import DataError

_SAMPLE = 50
_DEPTHS = 10  # images whose values are looked at
_PLAIN = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # whose pixels are of types that all decoders know
_ALL = "`localvit check CONFIG --images` looks at all of them"


def check_sample(
    path: str, found: Annotations, image_dir: str, max_pixels: float, pixel_range: PixelRange | None = None
) -> None:
    """Look at the headers of some images, spread over the file, and at the values of those with more than 8 bits.

    Raises:
        DataError: Most of them cannot be used; a few are told in the log.
    """
    images = list(found.images.values())
    images = images[:: max(1, len(images) // _SAMPLE)][:_SAMPLE]
    bad = []
    for name, width, height in images:
        reason = header_fault(os.path.join(image_dir, name), (width, height), max_pixels, pixel_range)
        if reason:
            bad.append(f"{os.path.abspath(os.path.join(image_dir, name))} {reason}")
    _report_depth(path, [os.path.join(image_dir, name) for name, _, _ in images], max_pixels, pixel_range)
    if not bad:
        return
    told = f"{len(bad)} of {len(images)} images of {path} that were looked at cannot be used, the first one: {bad[0]}"
    if 2 * len(bad) > len(images):
        raise DataError(f"{told}; mend the files, or width and height in {found.path} ({_ALL}).")
    print_log(f"{told}; {_ALL}.", "current", logging.WARNING)


def _report_depth(path: str, files: list[str], max_pixels: float, pixel_range: PixelRange | None) -> None:
    """Say which part of their range images with more than 8 bits use."""
    depths = []
    for file in files:
        try:
            with open(file, "rb") as stream:
                wide = is_wide(stream.read(32))
            depth = read_depth(read_file(file, max_pixels), max_pixels) if wide else None
        except (OSError, BrokenImageError):
            continue
        depths += [depth] if depth else []
        if len(depths) == _DEPTHS:
            break
    if depths:
        much, what = explain_depth(depths, pixel_range)
        level = logging.WARNING if much else logging.INFO
        print_log(f"Images of {path} {what} (seen in {len(depths)} of them).", "current", level)


def header_fault(
    file: str, size: tuple[int, int], max_pixels: float, pixel_range: PixelRange | None = None
) -> str | None:
    """What is wrong with an image file as far as its header says, to stand behind its path; None if nothing.

    Args:
        size: Width and height according to the annotations.
    """
    try:
        if os.path.getsize(file) == 0:
            return "is empty"
        header = read_header(file, max_pixels)
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    except BrokenImageError as error:
        return str(error)
    # Not of PIL's formats, while OpenCV may know it; or one whose pixels may be of a type that only one of them knows.
    if header is None or not file.lower().endswith(_PLAIN):
        return pixel_fault(file, size, max_pixels, pixel_range)
    # Annotations may have been made on the upright image or on the stored one: see images.decode.
    fits = any(same_size(size, one) for one in header)
    return None if fits else size_difference(size, header.upright)


def pixel_fault(
    file: str, size: tuple[int, int], max_pixels: float, pixel_range: PixelRange | None = None
) -> str | None:
    """As `header_fault`, of the whole image."""
    try:
        decode(read_file(file, max_pixels), size, limit=max_pixels, pixel_range=pixel_range)
    except BrokenImageError as error:
        return str(error)
    return None


def all_faults(
    found: Annotations, image_dir: str, max_pixels: float, workers: int, pixel_range: PixelRange | None = None
) -> Iterator[tuple[str, str | None]]:
    """Decodes every image, several at a time; yields (path, what is wrong with it or None) in the file's order.

    Raises:
        DataError: An image brought its process down.
    """
    files = [(os.path.join(image_dir, name), (width, height)) for name, width, height in found.images.values()]
    look = partial(_pixel_fault_of, max_pixels=max_pixels, pixel_range=pixel_range)
    done = 0
    # Here and not in the processes: OpenCV's threads do not survive a fork, and a child that ends them waits for ever.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    with ProcessPoolExecutor(workers) as pool:
        try:
            for (file, _), fault in zip(files, pool.map(look, files, chunksize=8), strict=True):
                yield file, fault
                done += 1
        except BrokenProcessPool as error:
            some = ", ".join(file for file, _ in files[done : done + 3])
            raise DataError(
                f"A process ended while it decoded images from {some} on: look at these files with --workers 1."
            ) from error
        finally:
            cv2.setNumThreads(threads)


def _pixel_fault_of(item: tuple[str, tuple[int, int]], max_pixels: float, pixel_range: PixelRange | None) -> str | None:
    return pixel_fault(*item, max_pixels, pixel_range)
