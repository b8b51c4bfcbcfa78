"""Formats of datasets that are recognized and not read, each with what converts it."""

from collections.abc import Sized
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .layouts import walk

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
    for folder, names in walk(root, _DEPTH):
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
