"""Several processes that start together on one annotation file: one reads it, the others wait for what it finds."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from coco_folder import annotations
from file_counts import counted_files
from forked import Forked, _one_thread_and_no_process_left, wait_for  # noqa: F401 - a fixture

from localvit_det.datasets import summary
from localvit_det.datasets.annotations import _Reader, forget_annotations, read_annotations
from localvit_det.files import CACHE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks of files there")


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(summary, "_SMALL", 0)
    forget_annotations()
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(annotations(4)))
    return path


def readers(file: Path, folder: Path, monkeypatch, count: int) -> list[Forked]:
    """Start processes that note when they begin to read, go on when there is a file 'go', and write what they find."""
    original = _Reader.read

    def read(self, parts):
        (folder / f"reads_{os.getpid()}").touch()
        wait_for((folder / "go").exists)
        return original(self, parts)

    def look() -> None:
        found = read_annotations(file)
        (folder / f"found_{os.getpid()}").write_text(f"{len(found.images)} {found.mistake}")

    monkeypatch.setattr(_Reader, "read", read)
    return [Forked(look, folder / f"{i}.txt") for i in range(count)]


def reading(folder: Path) -> list[int]:
    return [int(path.name.rpartition("_")[2]) for path in folder.glob("reads_*")]


def test_one_process_reads(file, tmp_path, monkeypatch):
    processes = readers(file, tmp_path, monkeypatch, 4)
    wait_for(lambda: reading(tmp_path))
    (tmp_path / "go").touch()
    assert [process.wait() for process in processes] == [0] * 4
    assert len(reading(tmp_path)) == 1
    assert {path.read_text() for path in tmp_path.glob("found_*")} == {"4 None"}
    assert len(list(tmp_path.glob("found_*"))) == 4


def test_the_reader_dies(file, tmp_path, monkeypatch):
    """The next one reads; of what the first one left nothing is taken for a verdict."""
    processes = {process.pid: process for process in readers(file, tmp_path, monkeypatch, 3)}
    [first] = wait_for(lambda: reading(tmp_path))
    os.kill(first, signal.SIGKILL)
    [second] = wait_for(lambda: [pid for pid in reading(tmp_path) if pid != first])
    (tmp_path / "go").touch()
    assert [process.wait() for pid, process in processes.items() if pid != first] == [0, 0]
    assert sorted(reading(tmp_path)) == sorted([first, second])
    assert [path.read_text() for path in tmp_path.glob("found_*")] == ["4 None"] * 2


def test_files_that_a_second_start_opens(file, tmp_path):
    with counted_files(str(tmp_path)) as opened:
        read_annotations(file)
    assert opened.pop(str(file)) <= 3  # for its beginning and its end, and to read it
    forget_annotations()
    with counted_files(str(tmp_path)) as opened:
        assert len(read_annotations(file).images) == 4
    assert opened.pop(str(file)) == 2  # whether it can be read, and its ends
    assert sum(opened.values()) == 2  # the verdict and its lock
