"""Large JSON files in parts: arrays of their top-level object as batches of elements, never the whole file."""

import json
import re
from collections.abc import Collection, Iterator
from json.scanner import make_scanner
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .progress import Progress
from .segmentations import without_plain_polygons

_BLOCK = 4 << 20  # bytes that are read at a time; a value that is longer takes a multiple of it
_NEAR_END = 24  # characters: an error there may only be that the text is cut off
_scan = make_scanner(json.JSONDecoder())  # type: ignore[arg-type]  # it reads the settings of a decoder
_TAIL = 20_000  # characters in which the end of an element is looked for
_between = re.compile(r"\}\s*,\s*(?=\{)").finditer
_skip_space = re.compile(r"[ \t\n\r]*").match


class Part(NamedTuple):
    """A value of the top-level object, or some elements of it; the key is None where the whole is no object."""

    key: str | None
    value: Any
    first: bool  # of its key


def read_parts(path: Path, streamed: Collection[str], plain_polygons: bool = False) -> Iterator[Part]:
    """Yield what a JSON file holds, as `json.loads` would read it.

    Args:
        streamed: Keys whose arrays come in batches.
        plain_polygons: Put `segmentations.PLAIN` in place of polygons that are certainly good.

    Raises:
        ValueError: It is not JSON, or not in UTF-8.
        RecursionError: It is nested too deep.
    """
    progress = Progress(path)
    with open(path, "rb") as file:
        try:
            yield from _parts(_Text(file, plain_polygons, progress), streamed)
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
    for key, value, first in read_parts(path, ("images", "annotations")):
        if first:
            content[str(key)] = value
        else:
            content[str(key)] += value
    return content


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


class _Text:
    """The text of a file, of which only what is not yet parsed is in memory."""

    def __init__(self, file: BinaryIO, plain_polygons: bool, progress: Progress) -> None:
        self.text, self.at = "", 0
        self._file, self._plain, self._progress = file, plain_polygons, progress
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
            new = (without_plain_polygons(content) if self._plain else content).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            start, end = self._bytes + error.start, self._bytes + error.end
            raise UnicodeDecodeError(error.encoding, error.object, start, end, error.reason) from None
        self._bytes += cut
        self._progress.at(self._bytes)
        self.text, self.at = self.text[self.at :] + new, 0

    def peek(self) -> str:
        """Return the next character that is no space, without taking it; nothing at the end."""
        self.at = _skip_space(self.text, self.at).end()  # type: ignore[union-attr]  # it always matches
        while self.at == len(self.text) and not self._ended:
            self._read()
            self.at = _skip_space(self.text, self.at).end()  # type: ignore[union-attr]
        return self.text[self.at : self.at + 1]

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
        """Take an array; yield its elements as they are read, at least once."""
        self.at += 1
        if self.peek() == "]":
            self.at += 1
            yield []
            return
        while True:
            if whole := self._whole_elements():
                yield whole
                del whole
            text, batch, mark = self.text, [], ","
            at = end = _skip_space(text, self.at).end()  # type: ignore[union-attr]
            try:
                while mark == ",":
                    value, end = _scan(text, at)
                    if text[end] not in ",]":
                        end = _skip_space(text, end).end()  # type: ignore[union-attr]
                    mark = text[end]
                    batch.append(value)
                    at = end + 1
                    if text[at] != "{":
                        at = _skip_space(text, at).end()  # type: ignore[union-attr]
            except IndexError:
                self._check_cut_off(None)
            except (StopIteration, json.JSONDecodeError) as error:
                self._check_cut_off(error)
            if batch:
                yield batch
            del batch
            if mark == "]":
                self.at = end + 1
                return
            if mark != ",":
                self.at = end
                raise self.error("Expecting ',' delimiter")
            self.at = at
            self._read()

    def _whole_elements(self) -> list:
        """Take as many objects at once as end here for sure, which is faster than one by one."""
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

    def _check_cut_off(self, error: StopIteration | json.JSONDecodeError | None) -> None:
        """Raise an error that more text would not change."""
        if isinstance(error, json.JSONDecodeError):
            place, message = error.pos, error.msg
        else:
            place, message = (len(self.text) if error is None else error.value), "Expecting value"
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
