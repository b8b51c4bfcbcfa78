"""Videos and webcams, read frame by frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType

import cv2
import numpy as np

from ..datasets.annotations import MAX_PIXELS
from ..datasets.images import over
from ..errors import DataError

_RATE = 25.0  # where a file does not tell


class Video:
    """A video file or a webcam, for a `with` statement.

    Args:
        source: A file, or the number of a camera.
        max_pixels: Larger frames are refused before one is decoded.

    Raises:
        DataError: It cannot be opened, or its frames are too large.
    """

    def __init__(self, source: str | int, max_pixels: float = MAX_PIXELS) -> None:
        self.source = source
        self._capture = _open(source)
        if not self._capture.isOpened():
            if isinstance(source, int):
                raise DataError(f"There is no camera {source}, or another program uses it: give another number.")
            raise DataError(f"The video {source} cannot be opened: OpenCV does not know its format, or it is damaged.")
        width, height = (self._capture.get(key) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > max_pixels:
            self._capture.release()
            raise DataError(f"The video {source} has frames of {width:.0f} x {height:.0f} pixels, {over(max_pixels)}.")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # 0 where it is not known
        self.lost = ""  # says what is missing at the end, after `frames`
        self.rate = float(rate) if 0 < rate < 1000 else _RATE

    def __enter__(self) -> Video:
        """Nothing more to open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets go of the file or camera."""
        self._capture.release()

    def frames(self, every: int = 1, limit: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, image) of each `every`-th frame, at most `limit` of them; images are H×W×3, uint8, BGR.

        Raises:
            DataError: There is not a single one.
        """
        number = given = 0
        while limit is None or given < limit:
            if not self._capture.grab():
                break
            if number % every == 0:
                there, image = self._capture.retrieve()
                if not there:
                    break
                given += 1
                yield number, image
            number += 1
        else:
            return
        if self.announced - number > max(2, self.announced // 20):  # of some formats it is an estimate
            self.lost = f"ends after {number} of the {self.announced} frames that it announces"
        if not given and limit != 0:
            raise DataError(f"The video {self.source} holds no frame that can be read: it is damaged, or cut off.")

    @staticmethod
    def count(source: str | int, every: int, limit: int | None) -> int | None:
        """How many frames `frames` will give, as the file tells it; None for a camera or an address."""
        if isinstance(source, int) or "://" in source:
            return limit
        capture = _open(source)
        there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        count = -(-max(0, there) // every)
        return count if limit is None else min(count, limit)


def _open(source: str | int) -> cv2.VideoCapture:
    # OpenCV would take a name like image_%03d.mp4 for a pattern, and a bare number for a camera.
    return cv2.VideoCapture(source if isinstance(source, int) else os.path.abspath(source))
