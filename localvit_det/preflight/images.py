"""Image files and label maps of a dataset: a look at some before a run, at all images on request."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from mmdet.registry import DATASETS
from mmengine.logging import print_log

from ..config.utils import default_of, registered
from ..datasets.images import (
    BrokenImageError,
    PixelRange,
    decode,
    explain_depth,
    read_depth,
    read_file,
    read_header,
    same_size,
    size_difference,
)
from ..datasets.layouts import absent_images
from ..datasets.summary import Annotations
from ..errors import DataError
from ..files import what_is_there
from .classes import dataset_classes

_SAMPLE = 50
_DEPTHS = 10  # images whose values are looked at
_MAPS = 16  # that are read
_PLAIN = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # whose pixels are of types that all decoders know
_ALL = "`localvit check CONFIG --images` looks at all of them"


def check_sample(
    path: str, found: Annotations, image_dir: str, max_pixels: float, pixel_range: PixelRange | None = None
) -> None:
    """Look at the headers of some images, spread over the file, and at the values of those with more than 8 bits.

    Raises:
        DataError: Most of them cannot be used; a few are reported in the log.
    """
    images = list(found.images.values())
    images = images[:: max(1, len(images) // _SAMPLE)][:_SAMPLE]
    bad, wide = [], []
    for name, width, height in images:
        file = os.path.join(image_dir, name)
        reason, may_be_wide = header_fault(file, (width, height), max_pixels, pixel_range)
        bad += [f"{os.path.abspath(file)} {reason}"] if reason else []
        wide += [file] if may_be_wide else []
    _report_depth(path, wide, max_pixels, pixel_range)
    if not bad:
        return
    report = f"{len(bad)} of {len(images)} images of {path} that were looked at cannot be used, the first one: {bad[0]}"
    if 2 * len(bad) > len(images):
        raise DataError(f"{report}; fix the files, or width and height in {found.path} ({_ALL}).")
    print_log(f"{report}; {_ALL}.", "current", logging.WARNING)


def _report_depth(path: str, files: list[str], max_pixels: float, pixel_range: PixelRange | None) -> None:
    """Say which part of their range images with more than 8 bits use, of files that may have them."""
    depths = []
    for file in files:
        try:
            depth = read_depth(read_file(file, max_pixels), max_pixels)
        except BrokenImageError:
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
) -> tuple[str | None, bool]:
    """Return what is wrong with an image file as far as its header says, and whether it may have more than 8 bits.

    Most files are opened once: on a slow disk, that is what takes time.

    Args:
        size: Width and height according to the annotations.

    Returns:
        The words to stand behind its path, None if nothing is wrong.
    """
    try:
        header = read_header(file, max_pixels)
    except BrokenImageError as error:
        return str(error), False
    # Not of PIL's formats, while OpenCV may know it; or one whose pixels may be of a type that only one of them knows.
    if header is None or not file.lower().endswith(_PLAIN):
        return pixel_fault(file, size, max_pixels, pixel_range), header is None or header.wide
    # Annotations may have been made on the upright image or on the stored one: see images.decode.
    fits = same_size(size, header.upright) or same_size(size, header.stored)
    return None if fits else size_difference(size, header.upright), header.wide


def pixel_fault(
    file: str, size: tuple[int, int], max_pixels: float, pixel_range: PixelRange | None = None
) -> str | None:
    """Return what is wrong with an image as `header_fault` does, of the whole file."""
    try:
        decode(read_file(file, max_pixels), size, limit=max_pixels, pixel_range=pixel_range)
    except BrokenImageError as error:
        return str(error)
    return None


def all_faults(
    found: Annotations, image_dir: str, max_pixels: float, workers: int, pixel_range: PixelRange | None = None
) -> Iterator[tuple[str, str | None]]:
    """Decode every image, several at a time; yield (path, what is wrong with it or None) in the file's order.

    Raises:
        DataError: An image brought its process down.
    """
    files = [os.path.join(image_dir, name) for name, _, _ in found.images.values()]
    sizes = [(width, height) for _, width, height in found.images.values()]
    look = partial(pixel_fault, max_pixels=max_pixels, pixel_range=pixel_range)
    done = 0
    # Here and not in the processes: OpenCV's threads do not survive a fork, and a child that ends them waits for ever.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    with ProcessPoolExecutor(workers) as pool:
        try:
            for file, fault in zip(files, pool.map(look, files, sizes, chunksize=8), strict=True):
                yield file, fault
                done += 1
        except BrokenProcessPool as error:
            some = ", ".join(files[done : done + 3])
            raise DataError(
                f"A process ended while it decoded images from {some} on: look at these files with --workers 1."
            ) from error
        finally:
            cv2.setNumThreads(threads)


def check_panoptic_maps(path: str, dataset: dict, max_pixels: float) -> None:
    """Check the sizes of a sample of the maps of a panoptic dataset.

    Raises:
        DataError: One is too large, or damaged.
    """
    maps = (dataset.get("data_prefix") or {}).get("seg")
    files = sorted(Path(dataset.get("data_root") or "", maps).glob("*.png")) if maps else []
    for file in files[:: max(1, -(-len(files) // _MAPS))]:
        _check_size(file, path, max_pixels)


def check_maps(path: str, dataset: dict, max_pixels: float) -> None:
    """Check that there are images, that each has a map, and that a sample of maps holds known labels.

    Args:
        path: Dotted path of the dataset in the config.
        dataset: Its config; other than local files are not looked at.
        max_pixels: Larger maps are not decoded.

    Raises:
        DataError: They do not.
    """
    prefixes = dataset.get("data_prefix") or {}
    root = dataset.get("data_root") or ""
    images, maps = (Path(root, prefixes.get(key) or "") for key in ("img_path", "seg_map_path"))
    backend = (dataset.get("backend_args") or {}).get("backend", "local")
    if backend != "local" or "://" in str(root) or dataset.get("ann_file"):
        return
    if not maps.is_dir():
        raise DataError(
            f"The folder of label maps of {path} is missing at {maps.absolute()}; {what_is_there(maps.absolute())}: "
            "set data_root (--cfg-options data_root=…) to the folder that holds images and maps."
        )
    image_suffix, map_suffix = (_setting(dataset, key) for key in ("img_suffix", "seg_map_suffix"))
    names = sorted(str(file.relative_to(images)) for file in images.rglob(f"*{image_suffix}"))
    if not names:
        place = images.absolute()
        raise DataError(f"{path} has no images *{image_suffix} in {place}: correct data_prefix or img_suffix.")
    expected = [maps / (name[: -len(image_suffix)] + map_suffix) for name in names]
    absent = absent_images(maps, [str(file.relative_to(maps)) for file in expected])
    if absent:
        raise DataError(
            f"{len(absent)} of the {len(names)} images of {path} have no label map, the first one would be "
            f"{maps.absolute() / absent[0]}: complete them, or correct data_prefix or seg_map_suffix."
        )
    classes = dataset_classes(path, dataset)
    if classes is None:
        return
    shifted = bool(_setting(dataset, "reduce_zero_label"))  # 0 means unlabeled, and 1 the first class
    for file in expected[:: -(-len(expected) // _MAPS)]:
        _check_size(file, path, max_pixels)
        _check_labels(file, len(classes) + shifted, _setting(dataset, "ignore_index"), path)


def _check_size(file: Path, path: str, max_pixels: float) -> None:
    try:
        read_header(file, max_pixels)
    except BrokenImageError as error:
        raise DataError(f"The label map {file} of {path} {error}: correct or remove it.") from error


def _check_labels(file: Path, count: int, ignored: int, path: str) -> None:
    labels = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2:
        what = "cannot be decoded" if labels is None else f"has {labels.shape[2]} channels"
        raise DataError(f"The label map {file} of {path} {what}: a map is a gray PNG whose values are labels.")
    unknown = sorted(set(np.unique(labels).tolist()) - {*range(count), ignored})
    if unknown:
        raise DataError(
            f"The label map {file} has the label {unknown[0]}, but {path} has labels from 0 to {count - 1}, and "
            f"{ignored} for what is not labeled: correct the classes, or the map."
        )


def _setting(dataset: dict, key: str) -> Any:
    """Return what a config says, or else the class or its bases by default."""
    return dataset[key] if key in dataset else default_of(cast(type, registered(DATASETS, dataset)), key)
