"""Data sets in formats of others: what is found in a folder, whatever the format."""

import os
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..errors import DataError, shortened
from .layouts import IMAGE_SUFFIXES, split_of, walk

YOLO, VOC = "YOLO", "Pascal VOC"
WITHOUT_SPLIT = "default"
_Key = TypeVar("_Key", bound=Hashable)


@dataclass
class ForeignSet:
    """What a folder in another format holds.

    Attributes:
        images: For each split the images, each with the file of its labels, which need not exist.
        names: Class names by number; in Pascal VOC each label says its own.
        keypoints: Numbers behind the box of each YOLO label.
        notes: What was left out, a sentence each.
    """

    kind: str
    root: Path
    images: dict[str, list[tuple[Path, Path]]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    keypoints: int = 0
    notes: list[str] = field(default_factory=list)


def note_labels(found: ForeignSet, files: list[Path]) -> None:
    """Notes files of labels that belong to no image."""
    if files:
        names = [os.path.relpath(file, found.root).replace(os.sep, "/") for file in files]
        found.notes.append(f"Files of labels without an image, left out: {counted(names)}")


def counted(names: list[str]) -> str:
    """How many, and the first of them."""
    return f"{len(names)} ({shortened(names)})"


def folders_with(root: Path, *suffixes: str, beside: str | None = None) -> list[Path]:
    """Folders below a root that hold such files, hidden ones left out.

    Args:
        beside: Only where a folder of that name is among their parents.
    """
    result = []
    for folder, files in walk(root):
        if beside is not None and beside not in folder.relative_to(root).parts:
            continue
        if any(name.lower().endswith(suffixes) for name in files):
            result.append(folder)
    return result


def files_in(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files of a folder with such endings, in order."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.is_file())


def check_file(file: Path, limit: int = 64 << 20) -> None:
    """Check that a file can be read whole.

    Raises:
        DataError: It is a pipe or a device, which may never end, or larger than `limit` bytes.
    """
    if not file.is_file():
        raise DataError(f"{file} is no file: correct or remove it.")
    if (size := file.stat().st_size) > limit:
        raise DataError(f"{file} has {size:,} bytes, where at most {limit:,} are read: correct or remove it.")


def read_text(file: Path, limit: int = 64 << 20, errors: str = "strict") -> str:
    """Return the text of a file.

    Raises:
        DataError: As of `check_file`, or it is not in UTF-8.
    """
    check_file(file, limit)
    try:
        return file.read_text(encoding="utf-8", errors=errors)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not written in UTF-8 (byte {error.start} of it): save it as UTF-8.") from error


def images_in(folder: Path) -> list[Path]:
    """Images of a folder, in order."""
    return files_in(folder, IMAGE_SUFFIXES)


def grouped(files: Iterable[Path], key: Callable[[Path], _Key]) -> dict[_Key, list[Path]]:
    """Files by what a key makes of them."""
    result: dict[_Key, list[Path]] = {}
    for file in files:
        result.setdefault(key(file), []).append(file)
    return result


def by_folder(root: Path, images: list[Path]) -> dict[str, list[Path]]:
    """Images by the split that their folder names."""
    return grouped(images, lambda image: split_at(root, image) or WITHOUT_SPLIT)


def split_at(root: Path, file: Path) -> str | None:
    """The split that a file's folder names."""
    return split_of(file.parent.relative_to(root).as_posix())
