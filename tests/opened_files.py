"""Counts the files that Python opens, and lets each wait as on a slow disk."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_watched: list[tuple[str, Counter, float]] = []  # an audit hook stays for good, so there is one


def _hook(event: str, args: tuple) -> None:
    if event == "open" and _watched and isinstance(args[0], (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(args[0]))
        for folder, opened, seconds in _watched:
            if path.startswith(folder):
                opened[path] += 1
                time.sleep(seconds)


@contextmanager
def counted_files(folder: str, seconds: float = 0) -> Iterator[Counter]:
    """Count how often each file below a folder is opened; each time takes so many seconds more."""
    if not hasattr(_hook, "installed"):
        sys.addaudithook(_hook)
        _hook.installed = True
    opened: Counter = Counter()
    _watched.append((os.path.abspath(folder), opened, seconds))
    try:
        yield opened
    finally:
        _watched.pop()
