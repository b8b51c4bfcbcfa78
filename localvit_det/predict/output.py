"""Write what was found: drawn images and videos, what lies in the boxes, COCO's JSON, and labels of YOLO."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePath

import cv2
import numpy as np

from ..errors import OutputError, first_line
from ..files import check_writable_folder
from ..output_names import OutputFolder, UniqueNames, drawn_suffix
from .coco_file import CocoFile
from .readers import count_frames
from .result import Result


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
        self._drawn = _planned(
            self.folder, [(name, name, ".mp4" if video else drawn_suffix(name)) for name, video in names]
        )
        self._stem_names, flat = UniqueNames(), [(name, "_".join(PurePath(name).parts), "") for name, _ in names]
        self._stems = _planned(self._stem_names, flat)
        folders = [(label, re.sub(r"[^\w -]", "_", label).strip(), "") for label in classes]
        self._class_folders = _planned(UniqueNames(), folders)
        self.labels = OutputFolder(labels, inputs) if labels else None
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
            self._stems[name] = self._stem_names.name("_".join(PurePath(name).parts), "")
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


def _planned(names: UniqueNames | None, wanted: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """Return the names that keys get, of (key, name, suffix); none where there is no place for them."""
    if names is None:
        return {}
    planned = names.plan([(name, suffix) for _, name, suffix in wanted])
    return dict(zip((key for key, *_ in wanted), planned, strict=True))


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
