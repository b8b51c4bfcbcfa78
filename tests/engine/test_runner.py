"""Reporting never ends the work: closed terminals, pipes and descriptors, hooks and folders that fail."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Forked, _one_thread_and_no_process_left, wait_for  # noqa: F401 - a fixture
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner
from toy_training import Do, begun, different, names, tensors_of, toy_runner

from localvit.process import survive_closed_streams
from localvit_det.errors import explain_limit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ptys and signals as on Linux")
REPOSITORY = Path(__file__).parents[2]


def say(runner: Runner) -> None:
    """Print, and give signals time to come."""
    print("iteration", runner.iter, flush=True)
    time.sleep(0.1)


def train_on(descriptor: int, folder: Path) -> None:
    """Train with the streams that a fresh Python would have on a descriptor; for a forked process."""
    for number in (0, 1, 2):
        os.dup2(descriptor, number)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", closefd=False)
    survive_closed_streams()
    toy_runner(folder, custom_hooks=[Do("after_train_iter", say)]).train()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, torch.Tensor]:
    """The result of a training that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    toy_runner(folder).train()
    return tensors_of(folder / "epoch_3.pth")


@pytest.mark.parametrize("case", ["terminal", "pipe that ends first", "pipe"])
def test_reader_has_gone(case, whole, tmp_path):
    """SIGHUP comes when the terminal has gone; Ctrl-C under `| tee` ends tee, too; `| head -1` ends in the middle."""
    reader, writer = pty.openpty() if case == "terminal" else os.pipe()

    def run() -> None:
        os.close(reader)
        train_on(writer, tmp_path)

    process = Forked(run, tmp_path / "out.txt")
    os.close(writer)
    if case == "pipe that ends first":
        os.close(reader)
    wait_for(lambda: begun(tmp_path))
    if case != "pipe that ends first":
        os.close(reader)
    number = signal.SIGHUP if case == "terminal" else signal.SIGINT
    os.kill(process.pid, number)
    assert process.wait() == 128 + number
    assert any(name.startswith("interim_iter_") for name in names(tmp_path))
    toy_runner(tmp_path, resume=True).train()
    assert not different(whole, tensors_of(tmp_path / "epoch_3.pth"))


def run(code: str, redirection: str) -> subprocess.CompletedProcess:
    command = f"{sys.executable} -c '{code}' {redirection}"
    return subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=REPOSITORY)


PRINTS = 'from localvit.process import *; survive_closed_streams(); [print("x" * 99) for _ in range(9999)]; '
PRINTS += 'import sys; print("e" * 99, file=sys.stderr); open("/dev/null").close(); sys.exit(7)'


@pytest.mark.parametrize("redirection", ["| head -1", ">&-", "2>&-", ">&- 2>&- <&-", "2>&1 | head -1"])
def test_closed_streams(redirection):
    done = run(PRINTS, redirection)
    assert done.returncode == 7
    assert "Error" not in done.stderr + done.stdout


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_stream_that_does_not_block(name):
    """Another program on the same terminal has set it so; its reader is slow."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = f"from localvit.process import *; survive_closed_streams(); sys.{name}.write('x' * 99999); sys.exit(7)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, **{name: writer}) as process:
        os.close(writer)
        time.sleep(0.2)
        with open(reader, "rb") as lines:
            assert len(lines.read()) == 99999
    assert process.returncode == 7


@pytest.mark.parametrize(("encoding", "written"), [("ascii", "\\xe9 \\ud800"), ("utf-8", "é \\ud800")])
def test_characters_that_cannot_be_encoded(encoding, written, monkeypatch):
    """Names of classes and files in a terminal of another language."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = run(r'from localvit.process import *; survive_closed_streams(); print("\u00e9 \ud800")', "")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{written}\n", "")


def test_full_disk_under_standard_output():
    done = run(PRINTS, "> /dev/full")
    assert done.returncode == 7
    assert done.stderr.splitlines()[0] == "localvit: the disk is full, and what is printed from here on is lost"


def test_streams_of_others_are_left_alone(capsys):
    before = sys.stdout
    survive_closed_streams()
    assert sys.stdout is before


# ---- hooks that report


def in_the_middle(function) -> Do:
    return Do("after_train_iter", lambda runner: runner.iter == 7 and function(runner))


@pytest.mark.parametrize("removed", ["work dir", "present folder"])
@pytest.mark.slow
def test_folder_is_removed_in_the_middle(removed, whole, tmp_path, monkeypatch):
    here, folder = tmp_path / "here", tmp_path / "run"
    here.mkdir()
    monkeypatch.chdir(here)
    remove = in_the_middle(lambda _: shutil.rmtree(folder if removed == "work dir" else here))
    toy_runner(Path("../run"), custom_hooks=[remove, {"type": "CurvesHook", "interval": 2}]).train()
    assert not different(whole, tensors_of(folder / "epoch_3.pth"))
    assert (folder / "curves.png").is_file()


def test_hook_that_reports_may_fail(whole, tmp_path, capsys):
    class LostServer(LoggerHook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            raise ConnectionError("no route to the server")

    toy_runner(tmp_path, custom_hooks=[LostServer()]).train()
    assert not different(whole, tensors_of(tmp_path / "epoch_3.pth"))
    assert capsys.readouterr().out.count("LostServer could not report (ConnectionError: no route to the server)") == 1


def test_hook_that_works_may_not_fail(tmp_path):
    with pytest.raises(ZeroDivisionError):
        toy_runner(tmp_path, custom_hooks=[in_the_middle(lambda _: 1 / 0)]).train()


def test_limits_are_explained():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert "There is not enough memory" in explain_limit(error.value)
    assert "ulimit -n" in explain_limit(OSError(24, "Too many open files"))
    assert explain_limit(RuntimeError("other")) is None
