"""Outputs are checked before the work, and written whole or not at all."""

import errno
import os
import resource
import runpy

import mmcv
import mmengine
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from forked import Forked, _one_thread_and_no_process_left  # noqa: F401 - a fixture

from localvit_det import files
from localvit_det.checkpoint.publish import write_hashed
from localvit_det.cli import handle_user_errors

NANO = REPOSITORY / "configs/mask_rcnn_shuffle_nano_shapes.py"


@pytest.mark.parametrize(
    ("tool", "arguments", "option"),
    [
        ("test", [NANO, "missing.pth", "--out", "FILE/x.pkl"], "--out"),
        ("test", [NANO, "missing.pth", "--show-dir", "FILE/x"], "--show-dir"),
        ("publish_model", ["BAD.pth", "--out-dir", "FILE/x"], "--out-dir"),
        ("convert_checkpoint", ["BAD.pth", "FILE/x.pth"], "The converted file"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_checked_before_the_work(tool, arguments, option, tmp_path, refused):
    """Each would end in another sentence as soon as the work began."""
    (tmp_path / "FILE").touch()
    (tmp_path / "BAD.pth").write_bytes(b"no checkpoint")
    main = runpy.run_path(str(REPOSITORY / f"tools/{tool}.py"))["main"]
    arguments = [str(a).replace("FILE", f"{tmp_path}/FILE").replace("BAD", f"{tmp_path}/BAD") for a in arguments]
    sentence = refused(main, *arguments).strip().splitlines()[-1]
    assert option in sentence
    assert sentence.endswith("(Not a directory): name another place.")


def full(monkeypatch) -> None:
    """Lets every write end in the middle."""

    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fail)
    monkeypatch.setattr(files.os, "replace", lambda *_: fail(0))


WRITERS = {
    "image": lambda path: mmcv.imwrite(np.zeros((8, 8, 3), np.uint8), str(path)),
    "pickle": lambda path: mmengine.dump([1, 2], str(path), file_format="pkl"),
    "json": lambda path: mmengine.dump({"a": 1}, str(path), file_format="json"),
    "text": lambda path: files.write_text(path, "new"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_full_disk_leaves_the_old_file(kind, tmp_path, monkeypatch):
    path = tmp_path / f"output.{'jpg' if kind == 'image' else 'out'}"
    WRITERS[kind](path)
    before = path.read_bytes()
    assert before
    full(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[kind](path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_published_file_is_whole_or_not_there(tmp_path, monkeypatch):
    first = write_hashed({"a": torch.ones(3)}, tmp_path, "name")
    full(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        write_hashed({"a": torch.zeros(3)}, tmp_path, "name")
    assert os.listdir(tmp_path) == [first.name]


def test_tools_tell_a_full_disk_in_one_sentence(tmp_path):
    """A limit of the system on the size of files stands for the disk."""

    @handle_user_errors
    def main(argv: object = None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        write_hashed({"a": torch.ones(100_000)}, tmp_path / "out", "name")

    process = Forked(main, tmp_path / "log.txt")
    assert process.wait() == 1
    assert process.text() == "error: Nothing more can be written (File too large): make room, or name another place.\n"
    assert os.listdir(tmp_path / "out") == []


def test_ctrl_c_promises_nothing(capsys):
    """Trainings answer it with a checkpoint and a sentence of their own; other commands have none to go on from."""

    @handle_user_errors
    def interrupted(argv=None):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        interrupted()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"
