"""Data sets in formats of others, YOLO's and Pascal VOC's, told apart and read."""

from pathlib import Path

from ..errors import DataError
from .foreign_files import VOC, YOLO, ForeignSet, folders_with
from .foreign_voc import is_voc, read_voc
from .foreign_yolo import data_yaml, read_yolo


def foreign_set(root: Path) -> str | None:
    """The name of the format that a folder is in, None where it is none of these."""
    if data_yaml(root) is not None or folders_with(root, ".txt", beside="labels"):
        return YOLO
    return VOC if any(is_voc(folder) for folder in folders_with(root, ".xml")) else None


def read_foreign_set(root: Path) -> ForeignSet:
    """Lists the images of a folder.

    Raises:
        DataError: It is in neither format, lacks its classes or images, or does not tell whose a label is.
    """
    kind = foreign_set(root)
    if kind is None:
        raise DataError(
            f"{root.absolute()} is in no format that can be converted: YOLO has data.yaml, or images/ and labels/; "
            "Pascal VOC an .xml file for each image."
        )
    found = read_yolo(root) if kind == YOLO else read_voc(root)
    found.images = {split: pairs for split, pairs in found.images.items() if pairs}
    if not found.images:
        raise DataError(f"{root.absolute()} is in {kind}'s format, but no images are found: correct its folders.")
    return found
