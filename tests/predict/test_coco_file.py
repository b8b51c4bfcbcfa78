"""Write COCO's JSON, of which nothing is lost in a kill or on a full disk."""

import errno
import json
import os
import signal
from functools import partial

import pytest
from forked import Forked, _one_thread_and_no_process_left  # noqa: F401 - a fixture
from predict_cases import images_of, run, write_image

from localvit_det.predict import Result
from localvit_det.predict.output import CocoFile, Output, assemble, partial_of


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "m.png", "z.avif"):
        write_image(tmp_path / "ph" / name)
    return tmp_path / "ph"


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_room_for_the_json(published_file, folder, tmp_path, monkeypatch, capsys):
    """All lines are kept, and the next run makes a file of them."""
    target = tmp_path / "o.json"
    with monkeypatch.context() as patch:
        patch.setattr("localvit_det.predict.output.atomic_file", full_disk)
        assert run(published_file, folder / "a.jpg", "--no-images", "--json", target) == 1
    assert "all objects are in" in capsys.readouterr().err
    assert run(published_file, folder / "m.png", "--no-images", "--json", target) == 0
    assert images_of(target) == ["m.png"]
    assert images_of(tmp_path / "o.recovered_1.json") == ["a.jpg"]
    assert not partial_of(target).exists()


def test_half_a_line(tmp_path):
    """A disk that fills in the middle of a line, and a kill there."""
    target = tmp_path / "o.json"
    writer = CocoFile(target, ("a",))

    class Stream:
        def __init__(self, stream):
            self.stream, self.room = stream, 5

        def write(self, content):
            if not self.room:
                raise OSError(errno.ENOSPC, "full")
            self.room, part = 0, content[: self.room]
            return self.stream.write(part)

        def __getattr__(self, name):
            return getattr(self.stream, name)

    whole = partial_of(target).read_bytes()
    stream, writer._stream = writer._stream, Stream(writer._stream)
    with pytest.raises(OSError, match="full"):
        writer._write({"image": {}, "annotations": []})
    assert partial_of(target).read_bytes() == whole
    writer._stream = stream
    writer._write({"image": {"id": 1}, "annotations": []})
    with open(partial_of(target), "ab") as more:
        more.write(b'{"image": {"id": 2}, "anno')
    assemble(partial_of(target), tmp_path / "kept.json")
    assert json.loads((tmp_path / "kept.json").read_text())["images"] == [{"id": 1}]


def test_killed(published_file, folder, tmp_path, monkeypatch):
    """Whatever was found before the kill is in the file of the next run."""
    added, real = [], Output.add

    def add(self: Output, result: Result) -> None:
        real(self, result)
        added.append(result)
        if len(added) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Output, "add", add)
    find = partial(run, published_file, folder, "--no-images", "--json", tmp_path / "o.json")
    assert Forked(find, tmp_path / "said.txt").wait() == -signal.SIGKILL
    monkeypatch.undo()
    run(published_file, folder / "z.avif", "--no-images", "--json", tmp_path / "o.json")
    assert images_of(tmp_path / "o.recovered_1.json") == ["a.jpg", "m.png"]
