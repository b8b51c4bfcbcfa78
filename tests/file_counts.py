"""Counts how often annotation files are parsed, and files are opened."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from localvit_det.datasets import annotations, json_stream


def parsed_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the annotation files that are parsed from now on; those of copies as their original's."""
    names: list[str] = []
    read_parts = json_stream.read_parts

    def read(path, *args, **settings):
        names.append(Path(path).name.removeprefix("annotations-"))
        return read_parts(path, *args, **settings)

    for module in (annotations, json_stream):
        monkeypatch.setattr(module, "read_parts", read)
    return names


_watched: list[tuple[str, Counter]] = []  # an audit hook stays for good, so there is one


def _hook(event: str, args: tuple) -> None:
    if event == "open" and _watched and isinstance(args[0], (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(args[0]))
        for folder, opened in _watched:
            if path.startswith(folder):
                opened[path] += 1


@contextmanager
def counted_files(folder: str) -> Iterator[Counter]:
    """Count how often each file below a folder is opened."""
    if not hasattr(_hook, "installed"):
        sys.addaudithook(_hook)
        _hook.installed = True
    opened: Counter = Counter()
    _watched.append((os.path.abspath(folder), opened))
    try:
        yield opened
    finally:
        _watched.pop()
