"""Write what was found: drawn images and videos, what lies in the boxes, COCO's JSON, and labels of YOLO."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log

from ..datasets.annotations import read_annotations
from ..errors import DataError, OutputError, first_line, shortened
from ..files import OutputFolder, UniqueNames, atomic_file, check_writable, check_writable_folder, drawn_suffix
from .readers import count_frames
from .result import Result, categories


class DatasetIds:
    """The ids that images and classes have in a dataset; objects of classes that it lacks are left out, which is said.

    Raises:
        DataError: The file of its annotations is not in COCO's format, or has none of the classes.
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
        """Write one result; after an OSError nothing of it is there."""
        if self._ids is not None:
            ids = self._ids.categories
            found = result.to_coco(self._ids.image(result))
            found = [{**one, "category_id": ids[one["category_id"] - 1]} for one in found]
            self._write({"annotations": [one for one in found if one["category_id"] is not None]})
            return
        frame, (height, width), number = result.frame, result.image.shape[:2], self._images + 1
        image = {"id": number, "file_name": Path(frame.name).as_posix(), "width": width, "height": height}
        if frame.rate is not None:
            image["frame"] = frame.index
        objects = []
        for index, one in enumerate(result.to_coco(number)):
            area = result.masks[index].sum() if result.masks is not None else one["bbox"][2] * one["bbox"][3]
            identity = self._objects + index + 1
            objects.append({"id": identity, **one, "area": round(float(area), 2), "iscrowd": 0})
        self._write({"image": image, "annotations": objects})
        self._images = number
        self._objects += len(objects)

    def close(self) -> None:
        """Make the file of the lines; where there is no space (OutputError), the lines stay."""
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
    """Make a file in COCO's format of a run's lines, without what a kill has cut off; DataError for other lines."""
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


class Output(AbstractContextManager):
    """Write results one by one, in a `with` statement; each is on the disk when `add` returns, videos at their end.

    Args:
        folder: Where drawn images and videos go; None for none.
        crops: Where what lies in the boxes goes, in one folder a class; None for nowhere.
        json_file: Where all objects go as a dataset in COCO's format, scores included; None for nowhere.
        classes: Names of all classes.
        labels: Where a label file of YOLO goes for each image or frame; None for nowhere.
        names: Of all images and videos (the latter: True), as frames will have them, as far as they are known; all
            get names of their own before anything is written.
        inputs: Files that must not be written over.
        annotations: Of a dataset whose ids the JSON file gets, as COCO's results.

    Raises:
        OutputError: One of them cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None,
        crops: str | os.PathLike | None = None,
        json_file: str | os.PathLike | None = None,
        classes: Sequence[str] = (),
        names: Sequence[tuple[str, bool]] = (),
        inputs: Iterable[str] = (),
        labels: str | os.PathLike | None = None,
        annotations: str | os.PathLike | None = None,
    ) -> None:
        inputs = list(inputs)
        self.folder = OutputFolder(folder, inputs) if folder else None
        self.crops = OutputFolder(crops, inputs) if crops else None
        self.labels = OutputFolder(labels, inputs) if labels else None
        drawn = {name: (name, ".mp4" if video else drawn_suffix(name)) for name, video in names}
        self._drawn = _planned(self.folder, drawn) if self.folder else {}
        self._stem_names = UniqueNames()
        self._stems = _planned(self._stem_names, {name: (_flat(name), "") for name, _ in names})
        folders = {label: (re.sub(r"[^\w -]", "_", label).strip(), "") for label in classes}
        self._class_folders = _planned(UniqueNames(), folders)
        for place in (folder, crops, labels):
            if place:
                check_writable_folder(place, "the output folder")
        self.json = CocoFile(json_file, classes, annotations) if json_file else None
        self.left_out: dict[str, str] = {}  # videos that could not be written, by the names of their frames, and why
        self._video: _VideoFile | None = None

    def __exit__(self, *error: object) -> None:
        """End the video and the JSON, whatever has happened."""
        self._end_video()
        if self.json:
            self.json.close()

    def add(self, result: Result) -> np.ndarray | None:
        """Write one result, whole or not at all.

        Returns:
            The drawn image, None where none is wanted.

        Raises:
            OutputError: It cannot be written; others may.
            OSError: Likewise.
        """
        written: list[Path] = []
        try:
            drawn = self._draw(result, self.folder, written) if self.folder else None
            if self.crops:
                self._cut(result, self.crops, written)
            if self.labels:
                name = self.labels.name(f"{self._stem(result)}.txt")
                written.append(self.labels.write(name, result.to_yolo().encode()))
            if self.json:
                self.json.add(result)
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        return drawn

    def _draw(self, result: Result, folder: OutputFolder, written: list[Path]) -> np.ndarray:
        drawn, name, rate = result.plot(), result.frame.name, result.frame.rate
        suffix = drawn_suffix(name) if rate is None else ".mp4"
        if not self._drawn.get(name, "").endswith(suffix):  # of a source that was not known, or turned out a video
            self._drawn[name] = folder.name(name, suffix)
            folder.keep(result.path)
        if rate is None:
            written.append(folder.write(self._drawn[name], _encoded(drawn, suffix)))
        elif self._video is None or self._video.name != name:
            self._end_video()
            self._video = _VideoFile(name, folder.path(self._drawn[name]), rate, drawn)
        else:
            self._video.write(drawn)
        return drawn

    def _end_video(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            try:
                video.close()
            except (OutputError, OSError) as error:
                self.left_out[video.name] = first_line(error)

    def _cut(self, result: Result, folder: OutputFolder, written: list[Path]) -> None:
        stem = self._stem(result)
        for index, (label, crop) in enumerate(zip(result.names, result.crops(), strict=True)):
            wanted = f"{self._class_folders[label]}/{stem}_{index:03d}.jpg"
            written.append(folder.write(folder.name(wanted), _encoded(crop, ".jpg")))

    def _stem(self, result: Result) -> str:
        """Return a name that no other image, and no other frame of a video, has."""
        name = result.frame.name
        if name not in self._stems:
            self._stems[name] = self._stem_names.name(_flat(name), "")
        return self._stems[name] + ("" if result.frame.rate is None else f"_{result.frame.index:06d}")


class _VideoFile:
    """A video that gets its name when it is whole: before its end nothing can play it."""

    def __init__(self, name: str, path: Path, rate: float, first: np.ndarray) -> None:
        self.name, self.path = name, path
        self._draft = path.with_name(f".{path.stem}.draft.mp4")  # what a killed run has left goes with the next
        self._size, self._count = first.shape[1::-1], 0
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(os.path.abspath(self._draft), codec, rate, self._size)
        if not self._writer.isOpened():
            raise OutputError(f"The video {path} cannot be written: name another output folder.")
        self.write(first)

    def write(self, image: np.ndarray) -> None:
        self._writer.write(image if image.shape[1::-1] == self._size else cv2.resize(image, self._size))
        self._count += 1

    def close(self) -> None:
        self._writer.release()  # says nothing of a full disk
        written = count_frames(os.fspath(self._draft))
        if written is None or 0 < written < self._count:
            self._draft.unlink(missing_ok=True)
            raise OutputError(f"{self.path} could not be written whole: make room, or name another output folder.")
        os.replace(self._draft, self.path)


def _flat(name: str) -> str:
    return "_".join(PurePath(name).parts)


def _planned(names: UniqueNames, wanted: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return the names that keys get, each of a name and its suffix."""
    return dict(zip(wanted, names.plan(list(wanted.values())), strict=True))


def _encoded(image: np.ndarray, suffix: str) -> bytes:
    try:
        there, content = cv2.imencode(suffix, image)
    except cv2.error as error:  # WebP and JPEG have a largest size
        raise OutputError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels cannot be a {suffix} file"
        ) from error
    if not there:
        raise OutputError(f"OpenCV does not write {suffix} files here")
    return content.tobytes()
