"""Counts how often annotation files are parsed."""

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
