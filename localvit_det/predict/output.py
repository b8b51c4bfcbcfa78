"""Writes what was found: drawn images and videos, what lies in the boxes, and COCO's JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from ..errors import OutputError
from ..files import check_writable, write_text
from .result import Result, categories

_WRITTEN_AS_THEY_ARE = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Output:
    """Takes results one by one, for a `with` statement; videos are whole when it ends.

    Args:
        folder: Where drawn images and videos go; None for none.
        crops: Where what lies in the boxes goes, in one folder a class; None for nowhere.
        json_file: Where all objects go as a data set in COCO's format, scores included; None for nowhere.
        classes: Names of all classes.

    Raises:
        OutputError: One of them cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None,
        crops: str | os.PathLike | None = None,
        json_file: str | os.PathLike | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder) if folder else None
        self.crops = Path(crops) if crops else None
        self.json_file = json_file
        for place in filter(None, (self.folder, self.crops)):
            check_writable(place / ".try", "The output folder")
        if json_file:
            check_writable(json_file, "--json")
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._categories = categories(classes)
        self._video: tuple[str, cv2.VideoWriter, tuple[int, int]] | None = None

    def __enter__(self) -> Output:
        """Everything is checked already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the video; writes the JSON, after Ctrl-C as well."""
        self._end_video()
        if self.json_file and (kind is None or kind is KeyboardInterrupt):
            content = {"images": self._images, "annotations": self._objects, "categories": self._categories}
            write_text(self.json_file, json.dumps(content))

    def add(self, result: Result) -> np.ndarray | None:
        """Writes one result.

        Returns:
            The drawn image, None where none is wanted.
        """
        if self.json_file:
            self._note(result)
        if self.crops:
            self._cut(result)
        if self.folder is None:
            return None
        drawn = result.plot()
        if result.frame.rate is None:
            path = self._place(result, Path(result.frame.name).suffix.lower())
            _write_image(path, drawn)
        else:
            self._write_frame(result, drawn)
        return drawn

    def _place(self, result: Result, suffix: str) -> Path:
        path = self.folder / result.frame.name
        if suffix not in (*_WRITTEN_AS_THEY_ARE, ".mp4"):
            suffix = ".jpg"
        path = path.with_suffix(suffix)
        if os.path.exists(path) and result.path and os.path.exists(result.path) and os.path.samefile(path, result.path):
            raise OutputError(f"{path} would be written over the image that it is made of: name another output folder.")
        return path

    def _write_frame(self, result: Result, drawn: np.ndarray) -> None:
        path = self._place(result, ".mp4")
        size = drawn.shape[1::-1]
        if self._video is None or self._video[0] != result.frame.name:
            self._end_video()
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), result.frame.rate, size)
            if not writer.isOpened():
                raise OutputError(f"The video {path} cannot be written: name another output folder.")
            self._video = (result.frame.name, writer, size)
        _, writer, first = self._video
        writer.write(drawn if size == first else cv2.resize(drawn, first))

    def _end_video(self) -> None:
        if self._video is not None:
            self._video[1].release()
            self._video = None

    def _cut(self, result: Result) -> None:
        name = Path(result.frame.name)
        frame = "" if result.frame.rate is None else f"_{result.frame.index:06d}"
        for index, (label, crop) in enumerate(zip(result.names, result.crops(), strict=True)):
            folder = re.sub(r"[^\w -]", "_", label).strip() or "_"
            flat = "_".join(name.with_suffix("").parts)
            _write_image(self.crops / folder / f"{flat}{frame}_{index:03d}.jpg", crop)

    def _note(self, result: Result) -> None:
        height, width = result.image.shape[:2]
        image = {"id": len(self._images) + 1, "file_name": Path(result.frame.name).as_posix()}
        image |= {"width": width, "height": height}
        if result.frame.rate is not None:
            image["frame"] = result.frame.index
        self._images.append(image)
        for index, one in enumerate(result.to_coco(image["id"])):
            area = result.masks[index].sum() if result.masks is not None else one["bbox"][2] * one["bbox"][3]
            self._objects.append({"id": len(self._objects) + 1, **one, "area": round(float(area), 2), "iscrowd": 0})


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    there, content = cv2.imencode(path.suffix, image)
    if not there:
        raise OutputError(f"{path} cannot be written: OpenCV does not write {path.suffix} files.")
    try:
        path.write_bytes(content.tobytes())
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): name another output folder.") from error
