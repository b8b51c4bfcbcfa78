"""What converters share: their interface, and the files of a folder."""

import importlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, TypeVar

from ...errors import DataError, RequirementError, UserError, shortened
from ..layouts import IMAGE_SUFFIXES, split_of, walk_folders

SMALLEST_POLYGON = 6  # numbers
WITHOUT_SPLIT = "default"
_LIMIT = 64 << 20  # bytes of a file of labels or lists
_Key = TypeVar("_Key", bound=Hashable)


class Label(NamedTuple):
    """An object of an image."""

    name: str  # of its class
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
    polygons: Sequence[list[float]] = ()  # x and y in turns, likewise
    keypoints_left_out: bool = False  # whether the file has keypoints of it
    rle: dict[str, Any] | None = None  # a mask in COCO's run lengths, in the place of polygons


class Converter(ABC):
    """A dataset in a format of others; a subclass for each format, listed in `CONVERTERS`."""

    name: ClassVar[str]  # of the format
    signs: ClassVar[str]  # what it is recognized by, for messages
    suffixes: ClassVar[tuple[str, ...]] = ("",)  # of the files that it reads, but for images; all files by default

    def __init__(self, root: Path) -> None:
        self.root = root
        self.classes: list[str] = []  # names by number, once the images are listed; empty where labels have names
        self.left_out: Counter[str] = Counter()  # how many shapes that enclose nothing labels have, by their kinds
        self.notes: list[str] = []  # what is left out, a sentence each
        self.named: Path | None = None  # the file that was given in the place of its folder
        self.places: list[Path] = []  # that it looked for because a file names them, wherever they are

    @classmethod
    @abstractmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder is in this format."""

    @abstractmethod
    def list_images(self) -> dict[str, list[tuple[Path, Path]]]:
        """Return the images of each split, each with the file of its labels, which need not exist.

        Raises:
            DataError: The classes or images are not where the dataset says, or it is unclear whose a label is.
        """

    @abstractmethod
    def read_labels(self, file: Path, size: tuple[int, int], image: Path) -> Iterator[Label]:
        """Yield the objects of an image; any error says that the file of its labels is broken.

        Args:
            file: Of the labels, as listed.
            size: Width and height of the image.
            image: Of which the objects are, where a file has those of several.
        """

    def split_of(self, file: Path) -> str | None:
        """Return the split that a file's folder names."""
        return split_of(file.parent.relative_to(self.root).as_posix())

    def by_folder(self, images: Iterable[Path]) -> dict[str, list[Path]]:
        """Return images by the split that their folder names."""
        return grouped(images, lambda image: self.split_of(image) or WITHOUT_SPLIT)

    def note_unused(self, labels: Sequence[Path]) -> None:
        """Note files of labels that belong to no image."""
        if labels:
            names = [os.path.relpath(file, self.root).replace(os.sep, "/") for file in labels]
            self.notes.append(f"Files of labels without an image, left out: {counted(names)}")


def counted(names: Sequence[str]) -> str:
    """Return how many there are, and the first of them."""
    return f"{len(names)} ({shortened(names)})"


def grouped(files: Iterable[Path], key: Callable[[Path], _Key]) -> dict[_Key, list[Path]]:
    """Return files by what a key makes of them."""
    result: dict[_Key, list[Path]] = {}
    for file in files:
        result.setdefault(key(file), []).append(file)
    return result


def files_below(root: Path, suffixes: Collection[str], within: str | None = None) -> Iterator[Path]:
    """Yield files with such endings, folder by folder in order; hidden folders are left out.

    Args:
        within: Only those with a folder of this name among their parents below the root.
    """
    for folder, _ in walk_folders(root):
        if within is None or within in folder.relative_to(root).parts:
            yield from files_in(folder, suffixes)


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return files of a folder with such endings, in order."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.is_file())


def images_below(root: Path) -> list[Path]:
    """Return all images of a folder and those in it."""
    return list(files_below(root, IMAGE_SUFFIXES))


def check_file(file: Path, limit: int = _LIMIT) -> None:
    """Check that a file can be read whole.

    Raises:
        DataError: It is a pipe or a device, which may never end, or larger than `limit` bytes.
    """
    if not file.is_file():
        raise DataError(f"{file} is no file: correct or remove it.")
    if (size := file.stat().st_size) > limit:
        raise DataError(f"{file} has {size:,} bytes, where at most {limit:,} are read: correct or remove it.")


def read_text(file: Path, limit: int = _LIMIT, errors: str = "strict") -> str:
    """Return the text of a file.

    Raises:
        DataError: As of `check_file`, or it is not in UTF-8.
    """
    check_file(file, limit)
    try:
        return file.read_text(encoding="utf-8", errors=errors)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not written in UTF-8 (byte {error.start} of it): save it as UTF-8.") from error


@contextmanager
def broken_labels(file: Path) -> Iterator[None]:
    """Say of a file of labels, which somebody may have edited, that it cannot be read, whatever is raised of it.

    Raises:
        DataError: For each error that does not say so itself.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"The labels {file} cannot be read ({kind}{reason}): correct them.") from error


def needed(module: str) -> ModuleType:
    """Import what reads a format.

    Raises:
        RequirementError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequirementError(
            f"Converting a dataset needs {module.partition('.')[0]}, which cannot be imported ({error}): pip install "
            "'localvit_det[convert]'."
        ) from error


def parsed_xml(file: Path) -> Any:
    """Return the root of an XML file.

    Raises:
        DataError: As of `check_file`.
        RequirementError: defusedxml is not installed.
    """
    check_file(file)
    return needed("defusedxml.ElementTree").parse(file).getroot()
