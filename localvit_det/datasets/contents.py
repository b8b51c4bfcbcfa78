"""The content of a COCO-format file from one parse, for its summary and for the copies that are made of it.

Polygons that are certainly good are not parsed: they are the text of the file in the copies, too.
"""

import contextlib
import gc
import json
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from ..errors import DataError
from .json_stream import STREAMED, Part, read_content, read_parts
from .segmentations import PLAIN

_BATCH = 20_000  # elements that are checked at once


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
    """Yield what was changed in the parts that a file of it would be read in."""
    for key, value in values.items():
        whole = value if isinstance(value, list) and value and key in STREAMED else None
        if whole is None:
            yield Part(key, value, True)
        for start in range(0, len(whole or ()), _BATCH):
            yield Part(key, value[start : start + _BATCH], start == 0)


def text_of(values: dict[str, Any]) -> str:
    """Return what was changed as JSON, with the polygons as they were."""
    found = (one.get("segmentation") for one in values["annotations"])
    polygons = [one.text for one in found if isinstance(one, Polygons)]
    return "".join(chain(*zip_longest(json.dumps(values).split(f'"{PLAIN}"'), polygons, fillvalue="")))


@contextlib.contextmanager
def said_plainly(path: Path) -> Iterator[None]:
    """Let errors of reading a file end in sentences; look for no cycles meanwhile.

    Raises:
        DataError: For each of them.
    """
    collecting = gc.isenabled()
    gc.disable()  # among millions of new dicts, which have none, it takes a third of the time
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        if start.startswith(b"\xef\xbb\xbf") or json.detect_encoding(start) != "utf-8":
            kind = "begins with a byte order mark" if start[:1] == b"\xef" else "is written in UTF-16 or UTF-32"
            raise DataError(
                f"The annotation file {path} {kind}, which MMDetection cannot read: save it as UTF-8 without a "
                "byte order mark."
            )
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"The annotation file {path} is not written in UTF-8 (byte {error.start} of it): save it as UTF-8."
        ) from error
    except ValueError as error:
        raise DataError(f"The annotation file {path} is not JSON ({error}): give a COCO-format file.") from error
    except RecursionError as error:
        raise DataError(
            f"The annotation file {path} is nested deeper than any COCO-format file: give another one."
        ) from error
    except OSError as error:
        raise DataError(
            f"The annotation file {path} cannot be read ({error.strerror}): check its permissions."
        ) from error
    finally:
        if collecting:
            gc.enable()
