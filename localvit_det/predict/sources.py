"""Where images come from: files, folders, globs, videos, webcams, https addresses, arrays."""

from __future__ import annotations

import glob
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from ..datasets.annotations import MAX_PIXELS, what_is_there
from ..datasets.images import BrokenImageError, decode, read_file
from ..download import download, file_name
from ..errors import DataError
from .video import Video

_LIMIT_BYTES, _LIMIT_SECONDS = 2 << 30, 1800  # of what lies at an address

Source = str | os.PathLike | int | np.ndarray
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif")


@dataclass(frozen=True, eq=False)
class Frame:
    """One image on its way to the detector.

    Attributes:
        image: H×W×3, uint8, BGR.
        source: The file or address; empty for an array.
        name: A relative path for what is written of it.
        index: Its number in its video, 0 for an image.
        rate: Frames a second of its video; None for an image.
    """

    image: np.ndarray
    source: str
    name: str
    index: int = 0
    rate: float | None = None


@dataclass
class Sources:
    """All images of some sources, in order.

    Args:
        given: As `Detector.predict` takes them.
        every: Of videos, take each so-manieth frame.
        limit: Of each video or webcam, take at most so many frames.
        without: A folder whose files are not taken: what an earlier run has written.
        max_pixels: An image with more is not decoded; by default the detector's config says it.
    """

    given: Source | Sequence[Source]
    every: int = 1
    limit: int | None = None
    without: str | os.PathLike | None = None
    max_pixels: float | None = None
    skipped: int = field(default=0, init=False)  # images that could not be read
    _items: list[tuple[str | int | np.ndarray, str]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Looks at all sources, so that a mistake is told before any work."""
        several = isinstance(self.given, (list, tuple))
        for one in self.given if several else [self.given]:
            self._items += list(_expand(one, Path(self.without).absolute() if self.without else None))
        names: set[str] = set()
        for index, (item, name) in enumerate(self._items):
            path, number = Path(name), 2
            while name in names:  # two folders may hold the same names
                name = str(path.with_name(f"{path.stem}_{number}{path.suffix}"))
                number += 1
            names.add(name)
            self._items[index] = (item, name)

    def __iter__(self) -> Iterator[Frame]:
        """Reads one image after the other; in a row of several a broken one is named and left out.

        Raises:
            DataError: The only image, or a video, cannot be read.
        """
        limit = MAX_PIXELS if self.max_pixels is None else self.max_pixels
        for item, name in self._items:
            if isinstance(item, np.ndarray):
                yield Frame(item, "", name)
            elif _is_video(item):
                yield from self._frames(item, name)
            else:
                try:
                    image = _read(item, limit)
                except BrokenImageError as error:
                    if len(self._items) == 1:
                        raise DataError(f"The image {item} {error}: give another file.") from error
                    self.skipped += 1
                    print_log(f"The image {item} {error}; it is left out.", "current", logging.WARNING)
                    continue
                yield Frame(image, str(item), name)

    @property
    def total(self) -> int | None:
        """How many frames there will be, as far as files tell; None for a webcam."""
        counts: list[int | None] = [
            Video.count(item, self.every, self.limit) if _is_video(item) else 1 for item, _ in self._items
        ]
        return None if None in counts else sum(filter(None, counts))

    @property
    def live(self) -> bool:
        """Whether images come from a camera."""
        return any(isinstance(item, int) for item, _ in self._items)

    def _frames(self, item: str | int, name: str) -> Iterator[Frame]:
        address = str(item)
        with _local(item) as file, Video(file) as video:
            for index, image in video.frames(self.every, self.limit):
                yield Frame(image, address, name, index, video.rate / self.every)


def _expand(source: Source, without: Path | None) -> Iterator[tuple[str | int | np.ndarray, str]]:
    """Single images and videos of a source, each with a name for what is written of it.

    Raises:
        DataError: There is none.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise DataError(
                f"An array of shape {source.shape} and type {source.dtype} is no image: give one of shape "
                "(H, W, 3), uint8, in the order BGR, as cv2.imread does."
            )
        yield source, "array.png"
        return
    if isinstance(source, (int, np.integer)) or (isinstance(source, str) and source.isdecimal()):
        yield int(source), f"webcam{int(source)}.mp4"
        return
    text = os.fspath(source)
    if _is_address(text):
        yield text, file_name(text, "download.jpg")
        return
    if "://" in text:
        raise DataError(f"{text} is not read: give a file, a folder, or an https address.")
    path = Path(text).expanduser()
    if path.is_file():
        yield str(path), path.name
    elif path.is_dir():
        known = (file for file in path.rglob("*") if file.suffix.lower() in IMAGES + VIDEOS)
        yield from _files((file for file in known if without not in file.absolute().parents), path, text)
    elif glob.has_magic(text):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
        common = Path(os.path.commonpath([file.parent for file in found])) if found else path
        yield from _files((file for file in found if file.is_file()), common, text)
    else:
        raise DataError(
            f"There is no file or folder {path.absolute()} ({what_is_there(path.absolute())}): correct the path."
        )


def _files(files: Iterable[Path], root: Path, asked: str) -> Iterator[tuple[str, str]]:
    listed = sorted(files)
    if not listed:
        raise DataError(
            f"There is no image or video in {asked}: name a folder that holds some ({', '.join(IMAGES[:5])}, …)."
        )
    for file in listed:
        yield str(file), str(file.relative_to(root))


@contextmanager
def _local(item: str | int) -> Iterator[str | int]:
    """Yield the file of an address, as long as it is needed; all else as it is."""
    if not _is_address(item):
        yield item
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(download(item, folder, limit_bytes=_LIMIT_BYTES, limit_seconds=_LIMIT_SECONDS))


def _read(item: str, limit: float) -> np.ndarray:
    with _local(item) as file:
        return decode(read_file(file, limit), limit=limit)


def _is_address(item: object) -> bool:
    return isinstance(item, str) and item.startswith(("https://", "http://"))


def _is_video(item: object) -> bool:
    if isinstance(item, int):
        return True
    if not isinstance(item, str):
        return False
    return item.partition("?")[0].lower().endswith(VIDEOS) if _is_address(item) else item.lower().endswith(VIDEOS)
