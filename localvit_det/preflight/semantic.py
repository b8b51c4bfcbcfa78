"""Folders of images and label maps, as MMSegmentation reads them."""

import inspect
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.registry import DATASETS

from ..config.parts import registered
from ..datasets.annotations import what_is_there
from ..datasets.images import BrokenImageError, read_header
from ..errors import DataError
from .classes import dataset_classes

_SAMPLE = 16  # maps that are read


def check_panoptic_maps(path: str, dataset: dict, max_pixels: float) -> None:
    """Check the sizes of a sample of the maps of a panoptic dataset.

    Raises:
        DataError: One is too large, or damaged.
    """
    maps = (dataset.get("data_prefix") or {}).get("seg")
    files = sorted(Path(dataset.get("data_root") or "", maps).glob("*.png")) if maps else []
    for file in files[:: max(1, -(-len(files) // _SAMPLE))]:
        _check_size(file, path, max_pixels)


def check_maps(path: str, dataset: dict, max_pixels: float) -> None:
    """Checks that there are images, that each has a map, and that a sample of maps holds known labels.

    Args:
        path: Dotted path of the data set in the config.
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
    absent = [file for file in expected if not os.path.exists(file)]
    if absent:
        raise DataError(
            f"{len(absent)} of the {len(names)} images of {path} have no label map, the first one would be "
            f"{absent[0].absolute()}: complete them, or correct data_prefix or seg_map_suffix."
        )
    classes = dataset_classes(path, dataset)
    if classes is None:
        return
    shifted = bool(_setting(dataset, "reduce_zero_label"))  # 0 means unlabeled, and 1 the first class
    for file in expected[:: -(-len(expected) // _SAMPLE)]:
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
    """What a config says, or else the class or its bases by default."""
    if key in dataset:
        return dataset[key]
    cls: Any = registered(DATASETS, dataset)
    for base in cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters if "__init__" in vars(base) else {}
        if key in parameters:
            return parameters[key].default
    return None
