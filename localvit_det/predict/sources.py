"""Take images from files, folders, globs, videos, webcams, https addresses, arrays, and PIL's images."""

from __future__ import annotations

import errno
import fnmatch
import glob
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import IOBase
from pathlib import Path
from typing import TypeGuard, cast

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from ..datasets.annotations import MAX_PIXELS
from ..datasets.images import BrokenImageError, explain_depth, pixel_range_of, read_depth, read_file
from ..download import download, file_name
from ..errors import DataError, UserError, first_line, printable
from ..files import INDEX, safe_name, what_is_there, without_outputs
from .readers import count_frames, from_pil, read_pages, read_video
from .result import Frame

_LIMIT_BYTES, _LIMIT_SECONDS = 2 << 30, 1800  # of what lies at an address

Source = str | os.PathLike | int | np.ndarray | Image.Image
IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".webp", ".tif", ".tiff", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif"),
)
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif")
_TAKEN = (
    "give a file, a folder, a glob, an https address, the number of a webcam, an array (H, W, 3) of uint8 in the order "
    "BGR, an image of PIL, or several of these"
)


_Item = str | int | np.ndarray | Image.Image  # a file or address, a camera, an image


@dataclass
class Sources:
    """All images of some sources, in order.

    Raises:
        DataError: One of them is missing or empty, or none that is known.
    """

    given: Source | Iterable[Source]  # as `Detector.predict` takes them
    every: int = 1  # of videos, take each so-manieth frame
    limit: int | None = None  # of each video or webcam, take at most so many frames
    without: Iterable[str | os.PathLike] = ()  # folders of outputs: files in them are not taken below a source
    max_pixels: float | None = None  # an image with more is not decoded; by default the detector's config says it
    # Values of images with more than 8 bits that are black and white, as of the config's setting.
    pixel_range: float | tuple[float, float] | None = None
    left_out: dict[str, str] = field(default_factory=dict, init=False)  # what, and why
    _items: list[tuple[_Item, str]] = field(default_factory=list, init=False)
    _names: set[str] = field(default_factory=set, init=False)
    _depths_left: int = field(default=10, init=False)  # images whose values are looked at

    def __post_init__(self) -> None:
        """Look at all sources, so that a mistake is reported before any work; an iterator is taken as it comes."""
        single = (str, bytes, Mapping, os.PathLike, np.ndarray, Image.Image, IOBase)
        # A tensor can be iterated over, too, and is refused as what it is.
        several = isinstance(self.given, Iterable) and not isinstance(self.given, single) and not _is_tensor(self.given)
        sources = cast("Iterable[Source]", self.given if several else [self.given])
        self._stream = sources if isinstance(sources, Iterator) else None
        if self._stream is None:
            for one in sources:
                self._items += [(item, self._unique(name)) for item, name in self._expand(one)]

    def __iter__(self) -> Iterator[Frame]:
        """Read all images; a broken one of several is named and left out, the only one raises DataError."""
        for item, name in self._all_items():
            shown, given = str(item) if isinstance(item, (str, int)) else name, 0
            try:
                for frame in self._frames(item, name):
                    given += 1
                    yield frame
            # Whatever a decoder says of a broken file, the others are not to blame.
            except Exception as error:
                if self.single and not given:
                    raise error if isinstance(error, UserError) else _refusal(shown, error) from error
                self.leave_out(name, _what_is_wrong(shown, error), "the rest" if given else "it")

    def leave_out(self, name: str, why: str, what: str = "it") -> None:
        """Note and log that a source (by the name that its frames have) cannot be used, or what of it is left out."""
        if name not in self.left_out:
            print_log(printable(f"{why}; {what} is left out."), "current", logging.WARNING)
        self.left_out.setdefault(name, why)

    def cannot_process(self, frame: Frame, error: Exception, doing: str) -> None:
        """Leave a frame out that was read, and could not be used; raise DataError where there is no other."""
        height, width = frame.image.shape[:2]
        shown = f"{frame.source or frame.name} ({width} x {height} pixels)"
        if self.single and frame.rate is None:
            raise _refusal(shown, error, doing) from error
        self.leave_out(frame.name, _what_is_wrong(shown, error, doing))

    @property
    def single(self) -> bool:
        """Whether there is one source only, so that nothing is left without it."""
        return self._stream is None and len(self._items) == 1

    @property
    def names(self) -> list[tuple[str, bool]]:
        """The name of each source, as its frames have it, and whether it is a video; none where they are not known."""
        return [(name, _is_video(item)) for item, name in self._items]

    @property
    def files(self) -> list[str]:
        """The sources that are files."""
        return [item for item, _ in self._items if isinstance(item, str) and not _is_address(item)]

    @property
    def total(self) -> int | None:
        """How many frames there will be, as far as files say it; None for a webcam or an iterator."""
        counts = [self._count(item) for item, _ in self._items]
        return None if self._stream or None in counts else sum(filter(None, counts))

    @property
    def live(self) -> bool:
        """Whether images come from a camera."""
        return any(isinstance(item, int) for item, _ in self._items)

    def _all_items(self) -> Iterator[tuple[_Item, str]]:
        yield from self._items
        for number, one in enumerate(self._stream or (), start=1):
            try:
                found = [(item, self._unique(name)) for item, name in self._expand(one)]
            except DataError as error:
                self.leave_out(f"source {number}", f"source {number}: {first_line(error)}")
            else:
                yield from found

    def _unique(self, name: str) -> str:
        path, number, unique = Path(name), 2, name
        while unique in self._names:  # two folders may hold the same names
            unique = str(path.with_name(f"{path.stem}_{number}{path.suffix}"))
            number += 1
        self._names.add(unique)
        return unique

    def _count(self, item: _Item) -> int | None:
        if not _is_video(item):
            return 1
        if isinstance(item, int) or _is_address(item):
            return self.limit
        count = -(-(count_frames(item) or 0) // self.every)
        return count if self.limit is None else min(count, self.limit)

    def _frames(self, item: _Item, name: str) -> Iterator[Frame]:
        """Yield the frames of a source."""
        if isinstance(item, np.ndarray):
            yield Frame(item, "", name)
        elif isinstance(item, Image.Image):
            yield Frame(from_pil(item, pixel_range_of(self.pixel_range)), "", name)
        else:
            with _local(item) as file:
                for index, rate, image in self._read(item, file):
                    yield Frame(image, str(item), name, index, rate and rate / self.every)

    def _read(self, item: str | int, file: str | int) -> Iterator[tuple[int, float | None, np.ndarray]]:
        limit = MAX_PIXELS if self.max_pixels is None else self.max_pixels
        if isinstance(file, int) or _is_video(item):
            return read_video(file, limit, self.every, self.limit)
        content = read_file(file, limit)
        self._note_depth(str(item), content, limit)
        return read_pages(content, limit, self.every, self.limit, pixel_range_of(self.pixel_range))

    def _note_depth(self, item: str, content: bytes, limit: float) -> None:
        """Warn once where images with more than 8 bits use a small part of their range."""
        if self._depths_left and (depth := read_depth(content, limit)):
            much, what = explain_depth([depth], pixel_range_of(self.pixel_range))
            if much:
                print_log(printable(f"Images such as {item} {what}."), "current", logging.WARNING)
            self._depths_left = 0 if much else self._depths_left - 1

    def _expand(self, source: Source) -> Iterator[tuple[_Item, str]]:
        """Yield the images and videos of a source, with names for what is written of them; DataError for none."""
        if isinstance(source, np.ndarray):
            if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
                raise DataError(
                    f"An array of shape {source.shape} and type {source.dtype} is no image: give one of shape "
                    "(H, W, 3), uint8, in the order BGR, as cv2.imread does."
                )
            yield source, "array.png"
        elif isinstance(source, Image.Image):
            if not source.width * source.height:
                raise DataError("An image of PIL without pixels is no image: give another.")
            yield source, safe_name(os.path.basename(getattr(source, "filename", "")), "image.png")
        elif _is_number(source):
            yield int(source), f"webcam{int(source)}.mp4"
        elif isinstance(source, (str, bytes, os.PathLike)):
            yield from self._expand_path(os.fsdecode(source))
        else:
            tensor = " (of a tensor (3, H, W) in RGB: tensor.flip(0).permute(1, 2, 0).numpy())"
            hint = tensor if _is_tensor(source) else ""
            raise DataError(f"{type(source).__name__} is no source of images: {_TAKEN}{hint}.")

    def _expand_path(self, text: str) -> Iterator[tuple[str, str]]:
        path = Path(text).expanduser()
        if _is_address(text):
            yield text, file_name(text, "download.jpg")
        elif "://" in text:
            raise DataError(f"{text} is not read: give a file, a folder, or an https address.")
        elif not text or "\0" in text:
            raise DataError(f"{text!r} is no path: {_TAKEN}.")
        elif path.is_file():
            yield str(path), path.name
        elif path.is_dir():
            yield from self._files(path / "**" / "*", path, text)
        elif glob.has_magic(text):
            yield from self._files(path, None, text)
        else:
            raise DataError(
                f"There is no file or folder {path.absolute()} ({what_is_there(path.absolute())}): correct the path."
            )

    def _files(self, pattern: Path, root: Path | None, asked: str) -> Iterator[tuple[str, str]]:
        """Yield the files of a pattern; in a folder those that look like images and videos."""
        found = find_files(pattern, IMAGES + VIDEOS if root else ("",))
        for folder, error in found.unreadable.items():
            self.leave_out(folder, _what_is_wrong(folder, error))
        files = found.files
        if not files:
            raise DataError(
                f"There is no image or video in {asked}: name a folder that holds some ({', '.join(IMAGES[:5])}, …)."
            )
        root = root or Path(os.path.commonpath([file.parent for file in files]))
        kept = without_outputs(files)
        outputs = {Path(folder).resolve() for folder in self.without}
        outputs = {folder for folder in outputs if root.resolve() in folder.parents}
        kept = [file for file in kept if not outputs & set(file.resolve().parents)] if outputs else kept
        if not kept:
            raise DataError(
                f"All {len(files)} images in {asked} are outputs: they lie in a folder that is written to, or an "
                f"earlier run lists them in its {INDEX}; name another output folder, or remove that file."
            )
        for count, what in ((len(files) - len(kept), "Outputs"), (found.hidden, "Hidden files")):
            if count:
                print_log(f"{what} that are not taken in {printable(asked)}: {count}", "current", logging.WARNING)
        for file in kept:
            yield str(file), str(file.relative_to(root))


@dataclass
class Found:
    """What `find_files` has found."""

    files: list[Path] = field(default_factory=list)  # in the order of their paths
    hidden: int = 0  # files that were passed over, and end like the others
    unreadable: dict[str, OSError] = field(default_factory=dict)  # folders, and links that lead nowhere, and why


def find_files(pattern: Path, suffixes: tuple[str, ...]) -> Found:
    """Return the files that a pattern of `glob` names, with suffixes (in lower case); `**` is folders at any depth.

    Unlike those of `glob` and `pathlib`, the search ends where links form circles or many ways to one folder: each
    folder is listed once. It also says what it passed over.
    """
    found, start = Found(), Path(pattern.anchor)
    parts = pattern.relative_to(start).parts
    parts += ("*",) if parts[-1] == "**" else ()
    _search(start, parts, suffixes, found, set())
    found.files.sort()
    return found


def _search(folder: Path, parts: Sequence[str], suffixes: tuple[str, ...], found: Found, seen: set) -> None:
    part, rest = parts[0], parts[1:]
    if part == "**":
        _search(folder, rest, suffixes, found, seen)
    literal = not glob.has_magic(part) or os.path.lexists(folder / part)
    key = os.path.realpath(folder), parts
    if key in seen:
        return
    seen.add(key)
    if literal:
        names = [part]
    else:
        try:
            names = os.listdir(folder)
        except OSError as error:
            if not isinstance(error, (NotADirectoryError, FileNotFoundError)):
                found.unreadable[str(folder)] = error
            return
    for name in names:
        path = folder / name
        if not literal and part != "**" and not fnmatch.fnmatch(name, part):
            continue
        hidden = name.startswith(".") and not (literal or part.startswith("."))
        if rest:
            if not hidden and path.is_dir():
                _search(path, parts if part == "**" else rest, suffixes, found, seen)
        elif name.lower().endswith(suffixes):
            if path.is_file():
                found.hidden += hidden
                found.files += [] if hidden else [path]
            elif path.is_symlink() and not path.exists():
                found.unreadable[str(path)] = FileNotFoundError(errno.ENOENT, "it is a link to nothing")


@contextmanager
def _local(item: str | int) -> Iterator[str | int]:
    """Yield the file of an address, as long as it is needed; all else as it is."""
    if not _is_address(item):
        yield item
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(download(item, folder, limit_bytes=_LIMIT_BYTES, limit_seconds=_LIMIT_SECONDS))


def _what_is_wrong(shown: str, error: Exception, doing: str = "cannot be used") -> str:
    """Say why a source is not used, in a clause that begins with its name."""
    text = first_line(error)
    if isinstance(error, BrokenImageError):
        return f"{shown} {text}"
    if isinstance(error, UserError):
        return text if shown in text else f"{shown}: {text}"
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {getattr(error, 'err', None) or text}"
    return f"{shown} {doing} ({reason})"


def _refusal(shown: str, error: Exception, doing: str = "cannot be used") -> DataError:
    return DataError(f"{_what_is_wrong(shown, error, doing)}: give another file.")


def _is_number(source: object) -> TypeGuard[str | int]:
    """Whether a source is the number of a camera."""
    if isinstance(source, str):
        return source.isdecimal()
    return isinstance(source, (int, np.integer)) and not isinstance(source, bool) and bool(source >= 0)


def _is_tensor(source: object) -> bool:
    return type(source).__module__.partition(".")[0] == "torch"


def _is_address(item: object) -> TypeGuard[str]:
    return isinstance(item, str) and item.startswith(("https://", "http://"))


def _is_video(item: object) -> TypeGuard[str | int]:
    if isinstance(item, str):
        return (item.partition("?")[0] if _is_address(item) else item).lower().endswith(VIDEOS)
    return isinstance(item, int)
