"""What signals do to a training and to its data workers, and who may use a work dir."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import Forked, _one_thread_and_no_process_left, children, is_alive, wait_for  # noqa: F401 - a fixture
from mmengine.hooks import Hook
from toy_training import NoisyImages, different, tensors_of, toy_runner

from localvit_det.engine.processes import SignalWatch, Stopped, lock_work_dir, unlock_work_dir
from localvit_det.errors import ProcessError

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class Slow(Hook):
    """Makes iterations long enough for a signal to come in the middle."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        time.sleep(self.seconds)


def train(folder: Path, pause: float = 0.05, **options) -> None:
    toy_runner(folder, custom_hooks=[Slow(pause)], **options).train()


def begun(folder: Path) -> bool:
    return any("Epoch(train)" in log.read_text() for log in folder.glob("*/*.log"))


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGUSR1", 138), ("SIGINT", 130), ("SIGHUP", 129)])
def test_exit_codes(number, code, tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    class Send(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            os.kill(os.getpid(), getattr(signal, number))

    with pytest.raises(Stopped) as stop:
        toy_runner(tmp_path, custom_hooks=[Send()]).train()
    assert stop.value.code == code
    assert (tmp_path / "interim_iter_1.pth").is_file()
    assert signal.getsignal(signal.SIGTERM) is before
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert f"{number}: stopped after iteration 1; saved {tmp_path}/interim_iter_1.pth; --resume goes on" in log


def test_ignored_signals_stay_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with SignalWatch() as watch:
            os.kill(os.getpid(), signal.SIGHUP)
            assert watch.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@linux
def test_signal_to_the_whole_job(tmp_path):
    """Workers leave the signal to the training, and end with it."""
    options = {"workers": 2, "epochs": 3, "loader": {"persistent_workers": False}}
    toy_runner(tmp_path / "whole", **options).train()
    process = Forked(partial(train, tmp_path / "run", **options), tmp_path / "out.txt")
    wait_for(lambda: begun(tmp_path / "run"))
    workers = wait_for(lambda: children(process.pid))
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 143, process.text()
    assert "Traceback" not in process.text()
    wait_for(lambda: not any(map(is_alive, workers)), 5)
    toy_runner(tmp_path / "run", resume=True, **options).train()
    assert not different(tensors_of(tmp_path / "whole/epoch_3.pth"), tensors_of(tmp_path / "run/epoch_3.pth"))


def test_second_signal_ends_at_once(tmp_path):
    process = Forked(partial(train, tmp_path / "run", pause=60), tmp_path / "out.txt")
    wait_for(lambda: (tmp_path / "run/.lock").exists())
    wait_for(lambda: "Checkpoints will be saved" in process.text())
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    wait_for(lambda: "a second signal ends at once" in process.text())
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(5) == -signal.SIGTERM


class Heavy(NoisyImages):
    """Images that fill the pipe between a worker and its training."""

    def __getitem__(self, index: int) -> dict:
        return {"inputs": torch.zeros(3, 6, 6), "data_samples": "x" * 2_000_000}


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_never_outlive_their_training(number, tmp_path):
    options = {"workers": 2, "dataset": Heavy(1000), "batch_size": 1}
    process = Forked(partial(train, tmp_path, pause=1, **options), tmp_path / "out.txt")
    workers = wait_for(lambda: len(found := children(process.pid)) == 2 and found)
    time.sleep(0.5)
    os.kill(process.pid, number)
    process.wait()
    wait_for(lambda: not any(map(is_alive, workers)), 5)


def test_one_training_in_a_work_dir(tmp_path):
    process = Forked(partial(train, tmp_path, pause=60), tmp_path / "out.txt")
    wait_for(lambda: (tmp_path / ".lock").exists() and "process" in (tmp_path / ".lock").read_text())
    with pytest.raises(ProcessError, match=rf"{tmp_path} is in use by process {process.pid} on "):
        toy_runner(tmp_path).train()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lock_work_dir(tmp_path)  # the lock has died with its process
    lock_work_dir(tmp_path)
    unlock_work_dir(tmp_path)


def test_lock_is_not_inherited(tmp_path):
    """A child of the training that outlives it does not keep the work dir."""

    def parent() -> None:
        lock_work_dir(tmp_path)
        if os.fork() == 0:
            time.sleep(60)

    process = Forked(parent, tmp_path / "out.txt")
    assert process.wait() == 0
    lock_work_dir(tmp_path)
    unlock_work_dir(tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
