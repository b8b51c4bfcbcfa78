"""Loaders of annotations and proposals that cannot run code, and formats of datasets that nothing here reads.

MMEngine chooses by the ending of a file's name: for .pkl the loader of pickles, which may call anything, and for .yaml
PyYAML's loader of any Python object.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import yaml
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import PickleHandler, YamlHandler

from ..config_names import type_name
from ..errors import DataError
from .layouts import walk_folders

_ADVICE = "which may run code: convert the file to JSON, or set allow_pickle=True if you know who made it."


# Where PyYAML was built without libyaml, there is no loader in C; checkers cannot follow a base that is looked up.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, and tuples, which MMEngine writes."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node)))


class SafeYamlHandler(YamlHandler):
    """Reads plain values only."""

    def load_from_fileobj(self, file: IO, **kwargs: Any) -> Any:
        """Return what a file holds."""
        return yaml.load(file, Loader=_Loader)


class RefusingPickleHandler(PickleHandler):
    """Writes pickles, and reads none."""

    def load_from_fileobj(self, file: IO, **kwargs: Any) -> Any:
        """Refuse to read.

        Raises:
            DataError: Always.
        """
        raise DataError(f"A dataset or an evaluator of this config reads a pickle (.pkl), {_ADVICE}")


def read_data_safely(allow_pickle: bool = False) -> None:
    """Let MMEngine read plain values only from YAML files, in this process from now on, and pickles where allowed."""
    register_handler(["yaml", "yml"])(SafeYamlHandler)
    register_handler(["pkl", "pickle"])(PickleHandler if allow_pickle else RefusingPickleHandler)


def check_hierarchy(dataset: Mapping[str, Any]) -> None:
    """Check that the class hierarchy of an OpenImages Challenge dataset, which MMDetection unpickles, is a plain array.

    Raises:
        DataError: It holds Python objects.
    """
    file = os.path.join(dataset.get("data_root") or "", str(dataset.get("hierarchy_file", "")))
    if type_name(dataset) != "OpenImagesChallengeDataset" or not os.path.isfile(file):
        return
    try:
        np.load(file, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"The hierarchy_file {file} is a pickle, {_ADVICE}") from error


_START, _DEPTH = 4096, 4  # bytes of a file, and folders below the root, that are looked at
_DATUMARO = (
    "convert it with Datumaro: `datum convert -if {} -i {{root}} -f coco_instances -o {{root}}-coco -- --save-media`"
)
_LABELS = (".json", ".xml", ".txt", ".csv", ".yaml", ".yml")


class _Format(NamedTuple):
    name: str
    suffix: str  # of a file, in lower case
    texts: tuple[bytes, ...]  # which all stand at its start
    fix: str


_FORMATS = (
    _Format("TFRecord", ".tfrecord", (), _DATUMARO.format("tf_detection_api")),
    _Format("TFRecord", ".record", (), _DATUMARO.format("tf_detection_api")),
    _Format("Parquet (Hugging Face)", ".parquet", (), "load it with `datasets` and write COCO's JSON, or YOLO's files"),
    _Format("Datumaro", ".json", (b'"items"', b'"categories"'), _DATUMARO.format("datumaro")),
    _Format(
        "CreateML",
        ".json",
        (b'"coordinates"', b'"image"'),
        "convert it by supervision's DetectionDataset",
    ),
    _Format("Cityscapes", "_polygons.json", (b'"imgHeight"',), _DATUMARO.format("cityscapes")),
    _Format("Supervisely", "meta.json", (b'"classes"', b'"tags"'), "export the project as COCO"),
    _Format("VIA (CSV)", ".csv", (b"region_shape_attributes",), "export its annotations as JSON"),
    _Format("Open Images", ".csv", (b"ImageID", b"LabelName"), _DATUMARO.format("open_images")),
    _Format("VIA 3", ".json", (b'"project"', b'"pid"'), "export it as COCO"),
)


def check_unread(root: Path, images: Sized) -> None:
    """Say of a folder without labels that are read what it is, as far as that is known.

    Args:
        images: What it has of images.

    Raises:
        DataError: It is in a format that is not read, or has images alone.
    """
    labels = False
    for folder, names in walk_folders(root, _DEPTH):
        for name in names:
            labels |= name.lower().endswith(_LABELS)
            for one in _FORMATS:
                if name.lower().endswith(one.suffix) and _begins(folder / name, one.texts):
                    raise DataError(
                        f"{root.absolute()} is a dataset in {one.name}'s format, which is not read: "
                        f"{one.fix.format(root=root)}."
                    )
    if images and not labels:
        raise DataError(
            f"{root.absolute()} holds images and no labels: label them, for example with labelme or CVAT, whose files "
            f"are read as they are; to find objects in them: `localvit predict MODEL {root}`."
        )


def _begins(file: Path, texts: tuple[bytes, ...]) -> bool:
    start = b""
    if texts and file.is_file():
        with file.open("rb") as stream:
            start = stream.read(_START)
    return all(text in start for text in texts)
