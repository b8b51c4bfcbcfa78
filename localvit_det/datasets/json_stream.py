"""Large JSON files in parts: batches of elements of their arrays, never the whole file; annotations become arrays.

As arrays they take a tenth of the memory of objects, and are checked many at a time.
"""

import json
import pickle
import re
import time
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, zip_longest
from json.scanner import make_scanner
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from mmengine.logging import print_log

from .segmentations import PLAIN, without_plain_polygons

STREAMED = ("images", "annotations")  # of a COCO-format file
_BATCH = 20_000  # elements of a copy that are checked at once
_BLOCK = 4 << 20  # bytes that are read at a time; a value that is longer takes a multiple of it
_NEAR_END = 24  # characters: an error there may only be that the text is cut off
_scan = make_scanner(json.JSONDecoder())  # type: ignore[arg-type]  # it reads the settings of a decoder
_TAIL = 20_000  # characters in which the end of an element is looked for
_between = re.compile(r"\}\s*,\s*(?=\{)").finditer
_SPACE = " \t\n\r"
_skip_space = re.compile(f"[{_SPACE}]*").match


class Part(NamedTuple):
    """A value of the top-level object, or some elements of it; the key is None where the whole is no object."""

    key: str | None
    value: Any
    first: bool  # of its key


def read_parts(
    path: Path, streamed: Collection[str], plain_polygons: bool = False, taken: list[bytes] | None = None
) -> Iterator[Part]:
    """Yield what a JSON file holds, as `json.loads` would read it.

    Args:
        streamed: Keys whose arrays come in batches.
        plain_polygons: Put `segmentations.PLAIN` in place of polygons that are certainly good.
        taken: Gets the polygons that this leaves out.

    Raises:
        ValueError: It is not JSON, or not in UTF-8.
        RecursionError: It is nested too deep.
    """
    progress = Progress(path)
    with open(path, "rb") as file:
        try:
            yield from _parts(_Text(file, plain_polygons, progress, taken), streamed)
            return
        except ValueError:
            if not plain_polygons:
                raise
        file.seek(0)  # for the place of the error, which what was put in moves
        for _ in _parts(_Text(file, False, progress), streamed):
            pass


def read_content(path: Path) -> dict[str, Any]:
    """Return the content of a COCO-format file that `read_annotations` has accepted, without its text in memory."""
    content: dict[str, Any] = {}
    for key, value, first in read_parts(path, STREAMED):
        if first:
            content[str(key)] = value
        else:
            content[str(key)] += value
    return content


class Polygons(str):
    """`PLAIN`, with the text of the polygons that it stands for."""

    __slots__ = ("text",)
    text: str


class Content:
    """What a file holds, kept as it is read."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._polygons: list[bytes] = []

    def parts(self, path: Path) -> Iterator[Part]:
        """Parse a file and yield its parts, as `read_parts` does."""
        for part in read_parts(path, STREAMED, plain_polygons=True, taken=self._polygons):
            yield part
            if part.first:
                self._values[str(part.key)] = part.value
            else:
                self._values[str(part.key)] += part.value

    def copied(self, path: Path) -> dict[str, Any]:
        """Return the content of the file at `path`, of which everything but segmentations may be changed.

        Raises:
            ValueError: It is not JSON.
        """
        if not self._values:
            for _ in self.parts(path):
                pass
        values = {
            key: [dict(one) if isinstance(one, dict) else one for one in value] if isinstance(value, list) else value
            for key, value in self._values.items()
        }
        listed = values.get("annotations")
        plain = [one for one in listed or () if isinstance(one, dict) and one.get("segmentation") == PLAIN]
        if len(plain) != len(self._polygons):  # some stand elsewhere than in an annotation
            return read_content(path)
        for annotation, text in zip(plain, self._polygons, strict=True):
            annotation["segmentation"] = polygons = Polygons(PLAIN)
            polygons.text = text.decode()
        return values


def parts_of(values: dict[str, Any]) -> Iterator[Part]:
    """Yield content as its file would be read: one odd annotation sends the others of its part the slow way."""
    for key, value in values.items():
        streamed = value if isinstance(value, list) and key in STREAMED else []
        if not streamed:
            yield Part(key, value, True)
        for start in range(0, len(streamed), _BATCH):
            yield Part(key, streamed[start : start + _BATCH], start == 0)


def text_of(values: dict[str, Any]) -> str:
    """Return what was changed as JSON, with the polygons as they were."""
    found = (one.get("segmentation") for one in values["annotations"])
    polygons = [one.text for one in found if isinstance(one, Polygons)]
    return "".join(chain(*zip_longest(json.dumps(values).split(f'"{PLAIN}"'), polygons, fillvalue="")))


def _parts(text: "_Text", streamed: Collection[str]) -> Iterator[Part]:
    if text.peek() != "{":
        yield Part(None, text.parse(), True)
        return text.end()
    text.at += 1
    closed = text.peek() == "}"
    while not closed:
        if text.peek() != '"':
            raise text.error("Expecting property name enclosed in double quotes")
        key = text.parse()
        text.expect(":", "Expecting ':' delimiter")
        if text.peek() == "[" and key in streamed:
            first = True
            for batch in text.array():
                yield Part(key, batch, first)
                first = False
        else:
            yield Part(key, text.parse(), True)
        if not (closed := text.peek() == "}"):
            text.expect(",", "Expecting ',' delimiter")
    text.at += 1
    return text.end()


_FIRST, _NEXT = 2.0, 10.0  # seconds


class Progress:
    """Say how far a file is read, from two seconds on."""

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, max(1, path.stat().st_size)
        self._due = time.monotonic() + _FIRST

    def at(self, place: int) -> None:
        """Note that the bytes up to a place are read."""
        now = time.monotonic()
        if now >= self._due and place < self._size:
            self._due = now + _NEXT
            print_log(f"Reading {self._path}: {self._size / 1e6:.0f} MB, {place / self._size:.0%}", "current")


class _Text:
    """The text of a file, of which only what is not yet parsed is in memory."""

    def __init__(
        self, file: BinaryIO, plain_polygons: bool, progress: Progress, taken: list[bytes] | None = None
    ) -> None:
        self.text, self.at = "", 0
        self._file, self._plain, self._progress, self._taken = file, plain_polygons, progress, taken
        self._rest, self._ended, self._size, self._bytes = b"", False, _BLOCK, 0
        self._chars = self._lines = self._column = 0  # before the text

    def _read(self) -> None:
        """Drop what is parsed, and append more."""
        parsed = self.text[: self.at]
        self._size = _BLOCK if parsed else 2 * self._size
        breaks = parsed.count("\n")
        self._column = len(parsed) - parsed.rfind("\n") - 1 if breaks else self._column + len(parsed)
        self._lines, self._chars = self._lines + breaks, self._chars + len(parsed)
        block = self._file.read(self._size)
        self._ended = len(block) < self._size
        content = self._rest + block
        # Behind a bracket: no character of several bytes and no polygon is cut in two.
        cut = len(content) if self._ended else content.rfind(b"}") + 1
        content, self._rest = content[:cut], content[cut:]
        try:
            rest = without_plain_polygons(content, self._taken) if self._plain else content
            new = rest.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            start, end = self._bytes + error.start, self._bytes + error.end
            raise UnicodeDecodeError(error.encoding, error.object, start, end, error.reason) from None
        self._bytes += cut
        self._progress.at(self._bytes)
        self.text, self.at = self.text[self.at :] + new, 0

    def peek(self) -> str:
        """Return the next character that is no space, without taking it; nothing at the end."""
        while (char := self.text[self.at : self.at + 1]) in _SPACE:
            if char:
                self.at = _skip_space(self.text, self.at).end()  # type: ignore[union-attr]  # it always matches
            elif self._ended:
                break
            else:
                self._read()
        return char

    def expect(self, char: str, otherwise: str) -> None:
        """Take a character."""
        if self.peek() != char:
            raise self.error(otherwise)
        self.at += 1

    def end(self) -> None:
        """Check that nothing follows."""
        if self.peek():
            raise self.error("Extra data")

    def parse(self) -> Any:
        """Take a value."""
        self.peek()
        while True:
            try:
                value, end = _scan(self.text, self.at)
                if end < len(self.text) or self._ended:  # else a number may go on
                    self.at = end
                    return value
            except (StopIteration, json.JSONDecodeError) as error:
                self._check_cut_off(error)
            self._read()

    def array(self) -> Iterator[list]:
        """Take an array; yield its elements block by block, at least once."""
        self.at += 1
        batch: list = []
        read = -1
        closed = self.peek() == "]"
        while not closed:
            if self._bytes > read:
                yield batch
                batch, read = self._whole_elements(), self._bytes
            batch.append(self.parse())
            if not (closed := self.peek() == "]"):
                self.expect(",", "Expecting ',' delimiter")
        self.at += 1
        yield batch

    def _whole_elements(self) -> list:
        """Take as many objects at once as end here for sure, which takes half the time where they are small."""
        *_, last = [None, *_between(self.text, max(self.at, len(self.text) - _TAIL))]
        if last is None:
            return []
        part = f"[{self.text[self.at : last.start() + 1]}]"
        try:
            batch, end = _scan(part, 0)
        except (StopIteration, json.JSONDecodeError):  # it is in the middle of an element, or of a text
            return []
        if end < len(part):  # behind the array
            return []
        self.at = last.end()
        return batch

    def _check_cut_off(self, error: StopIteration | json.JSONDecodeError) -> None:
        """Raise an error that more text would not change."""
        if isinstance(error, json.JSONDecodeError):
            place, message = error.pos, error.msg
        else:
            place, message = error.value, "Expecting value"
        if self._ended or (place < len(self.text) - _NEAR_END and not message.startswith("Unterminated string")):
            self.at = place
            raise self.error(message)

    def error(self, message: str) -> ValueError:
        """Return an error at this place, in the words of `json`."""
        before = self.text[: self.at]
        breaks = before.count("\n")
        column = len(before) - before.rfind("\n") if breaks else self._column + len(before) + 1
        place = f"line {self._lines + breaks + 1} column {column} (char {self._chars + len(before)})"
        return ValueError(f"{message}: {place}")


class Columns(NamedTuple):
    """Annotations of one kind, N of them, for as little memory as there is; lists where ids are no numbers."""

    ids: np.ndarray | list
    images: np.ndarray | list
    categories: np.ndarray | list
    boxes: np.ndarray  # (N, 4)
    areas: np.ndarray | None  # (N,), None where all lack it
    crowds: np.ndarray | None
    masks: bytes  # pickled: PLAIN, None, or what the file has

    @classmethod
    def of(cls, items: list[dict]) -> "Columns | None":
        """Return the columns of annotations; None where they are of several kinds, or not as COCO has them."""
        try:
            boxes = _numbers([one["bbox"] for one in items])
            areas = _numbers([one["area"] for one in items]) if "area" in items[0] else None
            crowds = _numbers([one["iscrowd"] for one in items]) if "iscrowd" in items[0] else None
            lacking = [key for key, column in (("area", areas), ("iscrowd", crowds)) if column is None]
            if boxes.ndim != 2 or boxes.shape[1] != 4 or any(key in one for key in lacking for one in items):
                return None
            if any(column is not None and column.ndim != 1 for column in (areas, crowds)):
                return None
            if (crowds is not None and not np.isin(crowds, (0, 1)).all()) or any(one.get("ignore") for one in items):
                return None
            ids, images, categories = (packed([one[key] for one in items]) for key in ("id", "image_id", "category_id"))
            masks = [one.get("segmentation") or None for one in items]
            kept = pickle.dumps([PLAIN if one == PLAIN else one for one in masks])  # one text, not a copy for each
            return cls(ids, images, categories, boxes, areas, crowds, kept)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None

    def items(self, places: Iterable[int]) -> Iterator[dict]:
        """Yield some of the annotations as the file has them, as far as they are looked at."""
        masks = pickle.loads(self.masks)
        for at in places:
            item = {"id": self.ids[at], "image_id": self.images[at], "category_id": self.categories[at]}
            item |= {"bbox": self.boxes[at].tolist(), "segmentation": masks[at]}
            item = {key: one.item() if isinstance(one, np.generic) else one for key, one in item.items()}
            item |= {} if self.areas is None else {"area": self.areas[at].item()}
            yield item | ({} if self.crowds is None else {"iscrowd": int(self.crowds[at])})


def _numbers(values: list) -> np.ndarray:
    """Return numbers as an array of float64.

    Raises:
        TypeError: Some are no numbers, or too large.
    """
    array = np.array(values)
    if array.dtype.kind not in "if":
        raise TypeError
    return array.astype(np.float64)


def distinct(values: np.ndarray) -> np.ndarray:
    """Return different values in their order; `np.unique` takes ten times as long where most are different."""
    values = np.sort(values)
    return values[np.diff(values, prepend=-1) != 0]  # places and classes are not below 0


def packed(values: list) -> np.ndarray | list:
    """Return ids as an array, if that is the same; else as they are."""
    kinds = {*map(type, values)}
    array = np.array(values) if kinds == {int} else None
    return values if array is None or array.dtype != np.int64 else array


def repeated(parts: list[np.ndarray | list]) -> tuple[int, Any]:
    """Return how many ids stand there already, and the first of them."""
    if all(isinstance(one, np.ndarray) for one in parts):
        ids = np.concatenate([*parts, np.zeros(0, np.int64)])
        order = np.argsort(ids, kind="stable")
        again = order[1:][np.diff(ids[order]) == 0]
        return len(again), ids[again.min()] if len(again) else None
    listed = [identity for part in parts for identity in (part.tolist() if isinstance(part, np.ndarray) else part)]
    seen: set = set()
    first: list = []
    for identity in listed:
        if identity in seen and not first:
            first.append(identity)
        seen.add(identity)
    return len(listed) - len(seen), first[0] if first else None
