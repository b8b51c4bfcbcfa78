"""Data in the same order and with the same random numbers, whoever loads it; workers that are killed."""

import gc
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import Forked, _one_thread_and_no_process_left, children, wait_for  # noqa: F401 - a fixture
from toy_training import Do, NoisyImages, begun, different, final, log_of, names, signal_at, tensors_of, toy_runner

from localvit_det.engine.data_loader import guard_workers
from localvit_det.engine.processes import Stopped
from localvit_det.errors import ProcessError


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, torch.Tensor]:
    """The result of a training without workers that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    toy_runner(folder).train()
    return tensors_of(final(folder))


@pytest.mark.parametrize("iteration", [4, 6])
def test_workers_change_nothing(iteration, whole, tmp_path):
    """The same weights from no worker, two workers, and two that are stopped and go on as one."""
    toy_runner(tmp_path / "two", workers=2).train()
    assert not different(whole, tensors_of(final(tmp_path / "two")))
    with pytest.raises(Stopped):
        toy_runner(tmp_path / "stopped", workers=2, custom_hooks=[signal_at(iteration)]).train()
    toy_runner(tmp_path / "stopped", workers=1, resume=True).train()
    assert not different(whole, tensors_of(final(tmp_path / "stopped")))


def test_random_numbers_differ_where_they_should(whole, tmp_path):
    """Another seed, another epoch and another image draw other numbers."""
    toy_runner(tmp_path / "4", randomness={"seed": 4}).train()
    assert different(whole, tensors_of(final(tmp_path / "4")))
    loop = toy_runner(tmp_path / "data").train_loop

    def seen(epoch: int, batches: int) -> list[float]:
        loop.batches.seek(3, epoch, batches)
        return [float(image[0, 0, 0]) for batch in loop.dataloader for image in batch["inputs"]]

    both = seen(0, 0) + seen(1, 0)
    assert len(set(both)) == len(both) == 24
    assert seen(1, 4) == both[-4:]


class ByShape(NoisyImages):
    """Portraits and landscapes in turn, for MMDetection's batch sampler; notes what is loaded."""

    def __init__(self, length: int = 12) -> None:
        super().__init__(length)
        self.loaded: list[int] = []

    def __getitem__(self, index: int) -> dict:
        self.loaded.append(index)
        return super().__getitem__(index)

    def get_data_info(self, index: int) -> dict:
        return {"width": 1 + index % 2, "height": 1 + (index + 1) % 2}


class Fetching(torch.utils.data.Subset):
    """A dataset that loads whole batches by itself."""

    metainfo = NoisyImages.metainfo


@pytest.mark.parametrize("kind", ["by aspect ratio", "loads batches"])
def test_stopped_with_other_batches(kind, tmp_path):
    data = ByShape(11) if kind == "by aspect ratio" else Fetching(NoisyImages(), range(12))
    loader = {"batch_sampler": {"type": "AspectRatioBatchSampler"}} if kind == "by aspect ratio" else {}
    options = {"dataset": data, "loader": loader}
    toy_runner(tmp_path / "whole", **options).train()
    with pytest.raises(Stopped):
        toy_runner(tmp_path / "stopped", custom_hooks=[signal_at(8)], **options).train()
    toy_runner(tmp_path / "stopped", resume=True, **options).train()
    assert not different(tensors_of(final(tmp_path / "whole")), tensors_of(final(tmp_path / "stopped")))


def test_skipping_loads_nothing(tmp_path):
    with pytest.raises(Stopped):
        toy_runner(tmp_path, epochs=1, custom_hooks=[signal_at(4)]).train()
    runner = toy_runner(tmp_path, epochs=1, resume=True, dataset=ByShape())
    runner.train()
    assert len(runner.train_dataloader.dataset.loaded) == 4


# ---- workers that are killed


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
    assert log_of(runner).count("A data worker has ended (signal SIGKILL)") == 2
    assert not different(whole, tensors_of(tmp_path / "run/epoch_3.pth"))


@pytest.mark.slow
def test_workers_that_are_killed_again_and_again(whole, tmp_path):
    (tmp_path / "lives").write_text("x" * 100)
    dataset = Deadly(5, tmp_path / "lives")
    with pytest.raises(ProcessError, match=r"num_workers.* stopped after iteration \d+: saved .*interim_iter_"):
        toy_runner(tmp_path / "run", workers=1, dataset=dataset).train()
    assert any(name.startswith("interim_iter_") for name in names(tmp_path / "run"))
    toy_runner(tmp_path / "run", resume=True).train()
    assert not different(whole, tensors_of(final(tmp_path / "run")))


@pytest.mark.slow
def test_worker_killed_in_the_middle_of_an_iteration(whole, tmp_path):
    """PyTorch would raise there, with half a step taken."""
    pause = Do("after_train_iter", lambda runner: time.sleep(0.1))
    runner = partial(toy_runner, tmp_path, workers=2, custom_hooks=[pause])
    process = Forked(lambda: runner().train(), tmp_path / "out.txt")
    os.kill(wait_for(lambda: begun(tmp_path) and children(process.pid))[0], signal.SIGKILL)
    assert process.wait() == 0, process.text()
    assert not different(whole, tensors_of(tmp_path / "epoch_3.pth"))


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


class Frozen(torch.utils.data.Dataset):
    """What of its process the garbage collector leaves alone."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return gc.get_freeze_count()


def test_workers_leave_the_memory_of_their_parent_alone():
    """Looked at by the garbage collector, it would be copied into each worker."""
    held, before = [[] for _ in range(20_000)], gc.get_freeze_count()
    counts = [int(batch[0]) for batch in guard_workers(torch.utils.data.DataLoader(Frozen(), num_workers=1))]
    assert min(counts) > before + len(held) / 2
    assert gc.get_freeze_count() < before + len(held) / 2  # in the parent all is as it was
