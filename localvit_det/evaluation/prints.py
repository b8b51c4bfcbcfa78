"""What pycocotools prints, as lines of the log: it has no logger of its own."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from logging import Logger

from mmengine.logging import MMLogger


class _Lines(io.TextIOBase):
    """A stream whose whole lines are logged at once: an evaluation of COCO says for minutes what it is at."""

    def __init__(self, logger: Logger) -> None:
        self._logger, self._begun = logger, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            self._logger.info("%s", line)
        return len(text)


@contextlib.contextmanager
def prints_logged() -> Iterator[None]:
    """Log each line that is printed meanwhile; which of them the screen shows is up to the logger's handlers."""
    stream = _Lines(MMLogger.get_current_instance())  # made first: its handler keeps the stdout of its making
    try:
        with contextlib.redirect_stdout(stream):
            yield
    finally:
        stream.write("\n")
