"""A line now and then while a large file is read."""

import time
from pathlib import Path

from mmengine.logging import print_log

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
