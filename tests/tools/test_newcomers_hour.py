"""The newcomer's hour, in its short form."""

import io
import subprocess
from contextlib import redirect_stdout
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest

import newcomers_hour
from localvit.__main__ import main


def in_this_process(command: list[str], **_) -> CompletedProcess:
    """Runs `python -m localvit` with its arguments; other tests run commands in processes of their own."""
    _, _, module, *arguments = command
    assert module == "localvit"
    with redirect_stdout(io.StringIO()) as out:
        main(arguments)
    return CompletedProcess(command, 0, out.getvalue(), "")


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_short_form(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(newcomers_hour, "subprocess", SimpleNamespace(**{**vars(subprocess), "run": in_this_process}))
    monkeypatch.setattr("sys.argv", ["localvit"])  # which commands rename
    assert newcomers_hour.main(["shapes", "--short", "--out", str(tmp_path / "hour")]) == 0
    printed = capsys.readouterr().out
    assert "All commands ended well." in printed
    for name in ("check", "train --batch 2", "test", "predict", "export", "check roboflow", "check cvat"):
        assert f"  {name}" in printed
    assert (tmp_path / "hour/dataset_0/detector.pt").stat().st_size > 1e6
