"""Telling never ends the work: closed terminals, pipes and descriptors, and data workers that are killed."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import Forked, _one_thread_and_no_process_left, children, wait_for  # noqa: F401 - a fixture
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from toy_training import NoisyImages, different, tensors_of, toy_runner

from localvit.process import survive_closed_streams
from localvit_det.errors import ProcessError, explain_limit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ptys and signals as on Linux")
REPOSITORY = Path(__file__).parents[2]


class Chatty(Hook):
    """Prints in every iteration, and gives signals time to come."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        print("iteration", runner.iter, flush=True)
        time.sleep(0.1)


def plain_streams(descriptor: int) -> None:
    """Give this forked process the streams that a fresh Python would have on a descriptor."""
    for number in (0, 1, 2):
        os.dup2(descriptor, number)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", closefd=False)
    survive_closed_streams()


def train(folder: Path, workers: int = 0, epochs: int = 3) -> None:
    toy_runner(folder, custom_hooks=[Chatty()], workers=workers, epochs=epochs).train()


def begun(folder: Path) -> bool:
    return any("Epoch(train)" in log.read_text() for log in folder.glob("*/*.log"))


def assert_resumes_exactly(folder: Path, whole: Path) -> None:
    assert list(folder.glob("interim_iter_*.pth"))
    toy_runner(folder, resume=True).train()
    assert not different(tensors_of(whole / "epoch_3.pth"), tensors_of(folder / "epoch_3.pth"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A training that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    toy_runner(folder).train()
    return folder


def test_closed_terminal(whole, tmp_path):
    """SIGHUP comes when the terminal has gone, so that every line that is written raises."""
    master, slave = pty.openpty()

    def in_terminal() -> None:
        os.close(master)
        plain_streams(slave)
        train(tmp_path)

    process = Forked(in_terminal, tmp_path / "out.txt")
    os.close(slave)
    wait_for(lambda: begun(tmp_path))
    os.close(master)
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait() == 129
    assert_resumes_exactly(tmp_path, whole)


@pytest.mark.parametrize("ends_first", [True, False])
def test_reader_of_a_pipe_ends(ends_first, whole, tmp_path):
    """Ctrl-C under `2>&1 | tee` ends tee, too; `| head -1` ends its reader in the middle."""
    reader, writer = os.pipe()

    def into_pipe() -> None:
        os.close(reader)
        plain_streams(writer)
        train(tmp_path)

    process = Forked(into_pipe, tmp_path / "out.txt")
    os.close(writer)
    if ends_first:
        os.close(reader)
    wait_for(lambda: begun(tmp_path))
    if not ends_first:
        os.close(reader)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert_resumes_exactly(tmp_path, whole)


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


class At(Hook):
    """Calls a function after an iteration in the middle of an epoch."""

    def __init__(self, function: Callable[[Runner], object]) -> None:
        self.function = function

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter == 7:
            self.function(runner)


def test_work_dir_is_removed_in_the_middle(whole, tmp_path):
    hooks = [At(lambda runner: shutil.rmtree(runner.work_dir)), {"type": "CurvesHook", "interval": 2}]
    toy_runner(tmp_path / "run", custom_hooks=hooks).train()
    assert not different(tensors_of(whole / "epoch_3.pth"), tensors_of(tmp_path / "run/epoch_3.pth"))
    assert (tmp_path / "run/curves.png").is_file()


def test_present_folder_is_removed_in_the_middle(whole, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    toy_runner(Path("../run"), custom_hooks=[At(lambda _: (tmp_path / "here").rmdir())]).train()
    assert not different(tensors_of(whole / "epoch_3.pth"), tensors_of(tmp_path / "run/epoch_3.pth"))


def test_hook_that_reports_may_fail(whole, tmp_path, capsys):
    class LostServer(LoggerHook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            raise ConnectionError("no route to the server")

    toy_runner(tmp_path, custom_hooks=[LostServer()]).train()
    assert not different(tensors_of(whole / "epoch_3.pth"), tensors_of(tmp_path / "epoch_3.pth"))
    assert capsys.readouterr().out.count("LostServer could not report (ConnectionError: no route to the server)") == 1


def test_hook_that_works_may_not_fail(tmp_path):
    with pytest.raises(ZeroDivisionError):
        toy_runner(tmp_path, custom_hooks=[At(lambda _: 1 / 0)]).train()


# ---- data workers


class Deadly(NoisyImages):
    """Kills the worker that loads an image, as often as a file has letters."""

    def __init__(self, index: int, lives: Path) -> None:
        super().__init__()
        self.index, self.lives = index, lives

    def __getitem__(self, index: int) -> dict:
        if index == self.index and torch.utils.data.get_worker_info() and self.lives.read_text():
            self.lives.write_text(self.lives.read_text()[1:])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.slow  # 5 seconds until a loader notices
@pytest.mark.parametrize("persistent", [True, False])
def test_killed_worker_is_started_again(persistent, whole, tmp_path):
    (tmp_path / "lives").write_text("xx")
    dataset = Deadly(5, tmp_path / "lives")
    runner = toy_runner(tmp_path / "run", workers=2, dataset=dataset, loader={"persistent_workers": persistent})
    runner.train()
    log = next((tmp_path / "run").glob("*/*.log")).read_text()
    assert log.count("A data worker has ended (signal SIGKILL)") == 2
    assert not different(tensors_of(whole / "epoch_3.pth"), tensors_of(tmp_path / "run/epoch_3.pth"))


@pytest.mark.slow
def test_workers_that_are_killed_again_and_again(whole, tmp_path):
    (tmp_path / "lives").write_text("x" * 100)
    dataset = Deadly(5, tmp_path / "lives")
    with pytest.raises(ProcessError, match=r"num_workers.* stopped after iteration \d+: saved .*interim_iter_"):
        toy_runner(tmp_path / "run", workers=1, dataset=dataset).train()
    assert_resumes_exactly(tmp_path / "run", whole)


@pytest.mark.slow
def test_worker_killed_in_the_middle_of_an_iteration(whole, tmp_path):
    """PyTorch would raise there, with half a step taken."""
    process = Forked(partial(train, tmp_path, workers=2), tmp_path / "out.txt")
    os.kill(wait_for(lambda: begun(tmp_path) and children(process.pid))[0], signal.SIGKILL)
    assert process.wait() == 0, process.text()
    assert not different(tensors_of(whole / "epoch_3.pth"), tensors_of(tmp_path / "epoch_3.pth"))


class CannotBeSent:
    def __reduce__(self) -> tuple:
        raise OSError(28, "No space left on device")


class TooLarge(NoisyImages):
    """Batches that a worker cannot hand over: Python drops such a batch, and its reader waits forever."""

    def __getitem__(self, index: int) -> dict:
        return {**super().__getitem__(index), "data_samples": CannotBeSent()}


@pytest.mark.slow
def test_batch_that_cannot_be_handed_over(tmp_path):
    with pytest.raises(ProcessError, match=r"ended \(exit code 74\).* /dev/shm.* stopped after iteration 0: saved"):
        toy_runner(tmp_path, workers=1, dataset=TooLarge()).train()


def test_limits_are_explained():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert "There is not enough memory" in explain_limit(error.value)
    assert "ulimit -n" in explain_limit(OSError(24, "Too many open files"))
    assert explain_limit(RuntimeError("other")) is None
