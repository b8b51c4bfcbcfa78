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
from ..datasets.images import BrokenImageError, decode, read_file, read_header, same_size, size_difference
from ..errors import DataError

_SAMPLE = 50
_ALL = "`localvit check CONFIG --images` looks at all of them"


def check_sample(path: str, found: Annotations, image_dir: str, max_pixels: float) -> None:
    """Looks at the headers of some images, spread over the file.

    Raises:
        DataError: Most of them cannot be used; a few are told in the log.
    """
    images = list(found.images.values())
    images = images[:: max(1, len(images) // _SAMPLE)][:_SAMPLE]
    bad = []
    for name, width, height in images:
        reason = header_fault(os.path.join(image_dir, name), (width, height), max_pixels)
        if reason:
            bad.append(f"{os.path.abspath(os.path.join(image_dir, name))} {reason}")
    if not bad:
        return
    told = f"{len(bad)} of {len(images)} images of {path} that were looked at cannot be used, the first one: {bad[0]}"
    if 2 * len(bad) > len(images):
        raise DataError(f"{told}; mend the files, or width and height in {found.path} ({_ALL}).")
    print_log(f"{told}; {_ALL}.", "current", logging.WARNING)


def header_fault(file: str, size: tuple[int, int], max_pixels: float) -> str | None:
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
    if header is None:  # not of PIL's formats; OpenCV may know it
        return pixel_fault(file, size, max_pixels)
    # Annotations may have been made on the upright image or on the stored one: see images.decode.
    fits = any(same_size(size, one) for one in header)
    return None if fits else size_difference(size, header.upright)


def pixel_fault(file: str, size: tuple[int, int], max_pixels: float) -> str | None:
    """As `header_fault`, of the whole image."""
    try:
        decode(read_file(file, max_pixels), size, limit=max_pixels)
    except BrokenImageError as error:
        return str(error)
    return None


def all_faults(found: Annotations, image_dir: str, max_pixels: float, workers: int) -> Iterator[tuple[str, str | None]]:
    """Decodes every image, several at a time; yields (path, what is wrong with it or None) in the file's order.

    Raises:
        DataError: An image brought its process down.
    """
    files = [(os.path.join(image_dir, name), (width, height)) for name, width, height in found.images.values()]
    look = partial(_pixel_fault_of, max_pixels=max_pixels)
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


def _pixel_fault_of(item: tuple[str, tuple[int, int]], max_pixels: float) -> str | None:
    return pixel_fault(*item, max_pixels)
