"""Signals, the lock of a work dir, and several processes on CPUs, with the numbers of one."""

import json
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import (
    Forked,
    _one_thread_and_no_process_left,  # noqa: F401 - a fixture
    children,
    forked_ranks,
    is_alive,
    wait_for,
)
from toy_training import Do, MeanMetric, NoisyImages, Plain, begun, different, tensors_of, toy_runner

from localvit_det.engine.processes import SignalWatch, Stopped, lock_work_dir, unlock_work_dir
from localvit_det.errors import ProcessError

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def train(folder: Path, pause: float = 0.05, **options) -> None:
    """Train with iterations that are long enough for a signal to come in the middle."""
    toy_runner(folder, custom_hooks=[Do("after_train_iter", lambda _: time.sleep(pause))], **options).train()


# ---- signals


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGUSR1", 138), ("SIGINT", 130), ("SIGHUP", 129)])
def test_exit_codes(number, code, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    send = Do("before_train_iter", lambda _: os.kill(os.getpid(), getattr(signal, number)))
    with pytest.raises(Stopped) as stop:
        toy_runner(tmp_path, custom_hooks=[send]).train()
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
    wait_for(lambda: any("Checkpoints will be saved" in log.read_text() for log in tmp_path.glob("run/*/*.log")))
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


# ---- the lock of a work dir


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


# ---- several processes


def ranks_of(folder: Path, codes: list[int], function) -> list[Forked]:
    """Run a function in several processes, and expect their exit codes."""
    ranks = forked_ranks(function, folder, len(codes))
    assert [process.wait(60) for process in ranks] == codes, ranks[0].text()[-2000:] + ranks[-1].text()[-2000:]
    return ranks


def test_two_processes_train_as_one(tmp_path):
    """With images that are augmented alike, wherever they are loaded."""

    def go(rank: int, name: str = "two", **options) -> None:
        runner = toy_runner(tmp_path / name, model=Plain(), epochs=2, **options)
        runner.train()
        losses = runner.message_hub.get_scalar("train/loss").data[0]
        (tmp_path / f"{name}_{rank}.json").write_text(json.dumps(losses.tolist()))

    ranks_of(tmp_path, [0, 0], partial(go, launcher="pytorch"))
    go(0, "one", batch_size=4)
    expected, found = (tensors_of(tmp_path / name / "epoch_2.pth") for name in ("one", "two"))
    for name, value in expected.items():
        if "state_dict" in name:
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    one, *two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one_0", "two_0", "two_1"))
    assert np.mean(two, 0) == pytest.approx(one, rel=1e-5)


def test_two_processes_stop_and_go_on(tmp_path):
    """A signal to one of them stops both at the same iteration, between two steps of the optimizer."""
    options = {"epochs": 2, "workers": 1, "accumulation": 2, "launcher": "pytorch"}

    def signal_one(runner) -> None:
        if runner.iter == 4 and runner.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def go(name: str, rank: int, resume: bool = False, hooks: tuple = ()) -> None:
        toy_runner(tmp_path / name, resume=resume, custom_hooks=list(hooks), **options).train()

    ranks_of(tmp_path / "whole", [0, 0], partial(go, "whole"))
    ranks_of(tmp_path / "run", [143, 143], partial(go, "run", hooks=(Do("after_train_iter", signal_one),)))
    assert (tmp_path / "run/interim_iter_5.pth").is_file()
    ranks_of(tmp_path / "run", [0, 0], partial(go, "run", resume=True))
    assert not different(tensors_of(tmp_path / "whole/epoch_2.pth"), tensors_of(tmp_path / "run/epoch_2.pth"))


@pytest.mark.parametrize(("victim", "processes"), [(0, 2), (1, 2), (2, 4)])
def test_killed_process_is_named(victim, processes, tmp_path):
    def go(rank: int) -> None:
        toy_runner(tmp_path, launcher="pytorch", epochs=999, checkpoint={"interval": 9999}).train()

    ranks = forked_ranks(go, tmp_path, processes)
    wait_for(lambda: "Epoch(train)" in ranks[0].text())
    os.kill(ranks[victim].pid, signal.SIGKILL)
    for rank, process in enumerate(ranks):
        if rank == victim:
            continue
        assert process.wait(30) == 99
        # Those that ask last may find the first one gone as well.
        named = re.search(r"Process(es)? ([\d, ]+) of \d ha(s|ve) ended.*, so process (\d) ends, too", process.text())
        assert named, process.text()[-2000:]
        assert str(victim) in named[2]
        assert named[4] == str(rank)


def test_error_of_another_process_is_named(tmp_path):
    def fail(runner) -> None:
        if runner.rank == 1:
            raise ValueError("no such luck")

    def go(rank: int) -> None:
        toy_runner(tmp_path, launcher="pytorch", custom_hooks=[Do("after_train_iter", fail)]).train()

    first, _ = ranks_of(tmp_path, [99, 99], go)
    assert "Process 1 of 2 ended with ValueError: no such luck" in first.text()


@pytest.mark.parametrize("images", [7, 8, 2])
def test_evaluation_of_two_is_that_of_one(images, tmp_path):
    toy_runner(tmp_path / "weights", epochs=1).train()

    def evaluate(rank: int, launcher: str = "pytorch") -> None:
        loader = {
            "dataset": NoisyImages(images, noise=False),
            "batch_size": 1,  # of other sizes the last bits differ, in one process as well
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "num_workers": 0,
        }
        runner = toy_runner(
            tmp_path / launcher,
            launcher=launcher,
            load_from=str(tmp_path / "weights/epoch_1.pth"),
            test_dataloader=loader,
            test_cfg={},
            test_evaluator={"type": MeanMetric},
        )
        (tmp_path / f"{launcher}_{rank}.json").write_text(json.dumps(runner.test()))

    ranks_of(tmp_path / "pytorch", [0, 0], evaluate)
    evaluate(0, "none")
    one, *two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("none_0", "pytorch_0", "pytorch_1"))
    assert one["images"] == images
    assert two == [one, one]
    assert not list(tmp_path.glob("**/.collect*"))


def test_batch_norm_of_two(tmp_path):
    """Both end with the same running statistics; validation uses them; the log says what is done."""

    def go(rank: int) -> None:
        runner = toy_runner(tmp_path, launcher="pytorch", epochs=1, validate=True, cfg={"sync_bn": "torch"})
        runner.train()
        torch.save(runner.model.module.norm.running_mean, tmp_path / f"mean_{rank}.pt")
        assert runner.cfg.sync_bn == "torch"

    ranks = ranks_of(tmp_path, [0, 0], go)
    assert torch.equal(*(torch.load(tmp_path / f"mean_{rank}.pt") for rank in (0, 1)))
    assert [rank.text().count("SyncBatchNorm needs GPUs") for rank in ranks] == [1, 0]


def test_nan_in_one_process_stops_both(tmp_path):
    def go(rank: int) -> None:
        data = NoisyImages(poisoned=tuple(range(rank * 12)))
        toy_runner(tmp_path, launcher="pytorch", dataset=data, cfg={"non_finite": {"patience": 2}}).train()

    for rank in ranks_of(tmp_path, [99, 99], go):
        assert "Iteration 2: loss_cls is NaN, loss_bbox is NaN (images image_" in rank.text()
