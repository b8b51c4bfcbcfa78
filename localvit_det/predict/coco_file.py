"""Write objects as a dataset in COCO's format or as COCO's results, on the disk as they come."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ..datasets.annotations import read_annotations
from ..errors import DataError, OutputError, shortened
from ..files import atomic_file, check_writable
from .result import Result, categories


class DatasetIds:
    """The ids that images and classes have in a dataset.

    Args:
        file: Its annotations.
        classes: Names of all classes; objects of those that the dataset lacks are left out, which is said.

    Raises:
        DataError: The file is not in COCO's format, or has none of the classes.
    """

    def __init__(self, file: str | os.PathLike, classes: Sequence[str]) -> None:
        self._file, found = file, read_annotations(Path(file))
        ids = {one["name"]: one["id"] for one in json.loads(Path(file).read_bytes())["categories"]}
        self.categories = [ids.get(name) for name in classes]
        absent = [name for name in classes if name not in ids]
        if len(absent) == len(classes):
            raise DataError(f"{file} has none of the detector's classes ({shortened(classes, 5)}): give another file.")
        if absent:
            said = f"{file} lacks {len(absent)} of the detector's classes, whose objects --json leaves out"
            print_log(f"{said}: {shortened(absent, 5)}.", "current", logging.WARNING)
        self._images: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
        for identity, (name, _, _) in found.images.items():
            parts = tuple(name.replace("\\", "/").split("/"))
            self._images.setdefault(parts[-1], []).append((parts, identity))

    def image(self, result: Result) -> Any:
        """Return the id of an image: of the name that its path ends with, or else the only one of its own name.

        Raises:
            OutputError: There is none, or several.
        """
        path = Path(result.path or result.frame.name)
        own = self._images.get(path.name, [])
        fitting = [one for one in own if path.parts[-len(one[0]) :] == one[0]] or own
        if len(fitting) != 1 or result.frame.rate is not None:
            raise OutputError(f"{self._file} lists {len(fitting) or 'no'} images of the name {path.name}")
        return fitting[0][1]


class CocoFile:
    """Write each result as a line of `FILE.partial`, of which `close` makes the file.

    A run that is killed loses nothing: the next one with the same file makes `recovered_1.json` of the lines.

    Args:
        path: The file.
        classes: Names of all classes.
        annotations: A dataset in COCO's format: the file becomes a list of COCO's results, with the dataset's ids.

    Raises:
        DataError: The dataset is none of these classes.
        OutputError: It cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike, classes: Sequence[str], annotations: str | os.PathLike | None = None
    ) -> None:
        self._ids = DatasetIds(annotations, classes) if annotations else None
        check_writable(path, "--json")
        self.path = Path(path)
        self.partial = partial_of(path)
        if self.partial.exists() and os.path.getsize(self.partial):
            names = (self.path.with_suffix(f".recovered_{number}.json") for number in itertools.count(1))
            recovered = next(name for name in names if not name.exists())
            assemble(self.partial, recovered)
            print_log(f"What a killed run has found is in {recovered}.", "current", logging.WARNING)
        self._stream = open(self.partial, "wb", buffering=0)  # noqa: SIM115 - closed in `close`
        self._images = self._objects = self._end = 0
        self._write({"categories": categories(classes), "results": annotations is not None})

    def add(self, result: Result) -> None:
        """Write one result.

        Raises:
            OSError: It is not written, and nothing half of it.
        """
        if self._ids is not None:
            ids = self._ids.categories
            found = [
                {**one, "category_id": ids[one["category_id"] - 1]} for one in result.to_coco(self._ids.image(result))
            ]
            self._write({"annotations": [one for one in found if one["category_id"] is not None]})
            return
        height, width = result.image.shape[:2]
        image = {
            "id": self._images + 1,
            "file_name": Path(result.frame.name).as_posix(),
            "width": width,
            "height": height,
        }
        if result.frame.rate is not None:
            image["frame"] = result.frame.index
        objects = []
        for index, one in enumerate(result.to_coco(self._images + 1)):
            area = result.masks[index].sum() if result.masks is not None else one["bbox"][2] * one["bbox"][3]
            identity = self._objects + index + 1
            objects.append({"id": identity, **one, "area": round(float(area), 2), "iscrowd": 0})
        self._write({"image": image, "annotations": objects})
        self._images += 1
        self._objects += len(objects)

    def close(self) -> None:
        """Make the file of the lines.

        Raises:
            OutputError: There is no room; the lines stay.
        """
        self._stream.close()
        try:
            assemble(self.partial, self.path)
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror}); all objects are in {self.partial}: make room and "
                "run the command again on few images, which makes a file of it."
            ) from error
        self.partial.unlink()

    def _write(self, line: dict[str, Any]) -> None:
        content = memoryview(json.dumps(line).encode() + b"\n")
        try:
            done = 0
            while done < len(content):  # a disk that is nearly full takes a part
                done += self._stream.write(content[done:])
        except OSError:
            self._stream.truncate(self._end)
            self._stream.seek(self._end)
            raise
        self._end += len(content)


def partial_of(path: str | os.PathLike) -> Path:
    """Return where the lines of a file lie until it is whole."""
    return Path(f"{os.fspath(path)}.partial")


def assemble(partial: str | os.PathLike, path: str | os.PathLike) -> None:
    """Make a file in COCO's format of the lines of a run; what a kill has cut off at their end is left out.

    Raises:
        DataError: They are no such lines.
        OSError: The file cannot be written.
    """
    head = next(_read_lines(partial), None)
    if head is None or "categories" not in head:
        raise DataError(f"{partial} is not what `localvit predict --json` writes: remove it.")
    with atomic_file(path) as file:
        # As json.dumps would write the whole, which need not fit into memory.
        results = bool(head.get("results"))
        for start, key in ((b'{"images": [', "image"), (b'], "annotations": [', "annotations"))[results:]:
            file.write(b"[" if results else start)
            lines = itertools.islice(_read_lines(partial), 1, None)
            found = (one for line in lines for one in ([line[key]] if key == "image" else line[key]))
            for index, one in enumerate(found):
                file.write((b", " if index else b"") + json.dumps(one).encode())
        file.write(b"]" if results else b'], "categories": ' + json.dumps(head["categories"]).encode() + b"}")


def _read_lines(partial: str | os.PathLike) -> Iterator[dict[str, Any]]:
    with open(partial, "rb") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:
                return
