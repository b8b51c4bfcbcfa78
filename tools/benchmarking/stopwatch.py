"""Where the time of one thing goes, by parts that exclude each other."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .environment import synchronize


class Stopwatch:
    """Adds up the time of parts; a part inside another one counts for the inner one alone.

    Attributes:
        seconds: By part, in the order in which they were met.
    """

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Let the time of the block count for a part."""
        self._book()
        self._running.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def wrap(self, owner: object, method: str, name: str) -> None:
        """Let the time of all calls of a method of an object count for a part."""
        function = getattr(owner, method)

        @functools.wraps(function)
        def timed(*args, **kwargs):
            with self.part(name):
                return function(*args, **kwargs)

        setattr(owner, method, timed)

    def read(self) -> dict[str, float]:
        """The seconds so far; it starts anew."""
        seconds, self.seconds = self.seconds, {}
        return seconds

    def _book(self) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
