"""A training that was stopped and resumed is the one that never was, to the bit."""

import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from toy_training import NoisyImages, different, tensors_of, toy_runner

from localvit_det.engine import checkpoint_hook
from localvit_det.engine.processes import Stopped
from localvit_det.errors import CheckpointError


class SignalAt(Hook):
    """Sends this process a signal in the middle of an iteration."""

    priority = "VERY_HIGH"

    def __init__(self, iteration: int, number: int = signal.SIGTERM) -> None:
        self.iteration, self.number = iteration, number

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), self.number)


def stopped_and_resumed(folder: Path, iteration: int, ema: bool | dict = False, **options) -> dict[str, torch.Tensor]:
    first = toy_runner(folder, custom_hooks=[SignalAt(iteration), *hooks(ema)], **options)
    with pytest.raises(Stopped) as stop:
        first.train()
    assert stop.value.code == 128 + signal.SIGTERM
    assert first.iter == iteration
    second = toy_runner(folder, resume=True, custom_hooks=hooks(ema), **options)
    second.train()
    assert f"iteration {iteration}), the newest" in log_of(second)
    return tensors_of(final(folder))


def uninterrupted(folder: Path, ema: bool | dict = False, **options) -> dict[str, torch.Tensor]:
    toy_runner(folder, custom_hooks=hooks(ema), **options).train()
    return tensors_of(final(folder))


def hooks(ema: bool | dict) -> list:
    return [{"type": "EMAHook", "momentum": 0.2, **(ema if isinstance(ema, dict) else {})}] if ema else []


def log_of(runner: Runner) -> str:
    return (Path(runner.log_dir) / f"{runner.timestamp}.log").read_text()


def final(folder: Path) -> Path:
    return folder / Path((folder / "last_checkpoint").read_text()).name


def test_averages_need_their_hook(tmp_path):
    """Without it the averages would be trained, with the optimizer of the other weights."""
    toy_runner(tmp_path, epochs=1, custom_hooks=hooks(True)).train()
    runner = toy_runner(tmp_path, epochs=2, resume=True)
    with pytest.raises(CheckpointError, match=r"Give --ema again \(without `--without ema`\)"):
        runner.train()
    assert "Settings that have changed" not in log_of(runner)  # none is applied


CASES = {
    "plain": {},
    "ema": {"ema": True},
    "ema of --ema": {"ema": {"ema_type": "ExpMomentumEMA", "momentum": 2e-4, "update_buffers": True}},
    "accumulation": {"accumulation": 4},
    "validation": {"validate": True},
    "last batch smaller": {"batch_size": 5},
    "by iteration": {"train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 18}},
    "interval of iterations": {"checkpoint": {"by_epoch": False, "interval": 4, "max_keep_ckpts": 1}},
}


@pytest.mark.parametrize("iteration", [1, 6, 9])
@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere(case, iteration, tmp_path):
    options = partial(dict, **CASES[case])
    expected = uninterrupted(tmp_path / "whole", **options())
    assert not different(expected, stopped_and_resumed(tmp_path / "stopped", iteration, **options()))


@pytest.mark.parametrize("iteration", [4, 6])
def test_workers_change_nothing(iteration, tmp_path):
    """The same weights from no worker, two workers, and two that are stopped and go on as one."""
    expected = uninterrupted(tmp_path / "none")
    assert not different(expected, uninterrupted(tmp_path / "two", workers=2))
    with pytest.raises(Stopped):
        toy_runner(tmp_path / "stopped", workers=2, custom_hooks=[SignalAt(iteration)]).train()
    toy_runner(tmp_path / "stopped", workers=1, resume=True).train()
    assert not different(expected, tensors_of(final(tmp_path / "stopped")))


def test_random_numbers_differ_where_they_should(tmp_path):
    """Another seed, another epoch and another image draw other numbers."""
    expected = uninterrupted(tmp_path / "3")
    assert different(expected, uninterrupted(tmp_path / "4", randomness={"seed": 4}))
    runner = toy_runner(tmp_path / "data")
    loop = runner.train_loop
    seen = []
    for epoch in (0, 1):
        loop.batches.seek(3, epoch, 0)
        seen += [float(image[0, 0, 0]) for batch in loop.dataloader for image in batch["inputs"]]
    assert len(set(seen)) == len(seen) == 24
    loop.batches.seek(3, 1, 4)
    again = [float(image[0, 0, 0]) for batch in loop.dataloader for image in batch["inputs"]]
    assert again == seen[-4:]


def test_skipping_loads_nothing(tmp_path):
    seen = []

    class Watched(NoisyImages):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    with pytest.raises(Stopped):
        toy_runner(tmp_path, epochs=1, custom_hooks=[SignalAt(4)]).train()
    toy_runner(tmp_path, epochs=1, resume=True, dataset=Watched()).train()
    assert len(seen) == 4


class ByShape(NoisyImages):
    """Portraits and landscapes in turn, for MMDetection's batch sampler."""

    def get_data_info(self, index: int) -> dict:
        return {"width": 1 + index % 2, "height": 1 + (index + 1) % 2}


def test_batches_by_aspect_ratio(tmp_path):
    options = {"dataset": ByShape(11), "loader": {"batch_sampler": {"type": "AspectRatioBatchSampler"}}}
    expected = uninterrupted(tmp_path / "whole", **options)
    assert not different(expected, stopped_and_resumed(tmp_path / "stopped", 8, **options))


class Fetching(torch.utils.data.Subset):
    """A data set that loads whole batches by itself."""


def test_data_set_that_loads_batches(tmp_path):
    dataset = Fetching(NoisyImages(), range(12))
    dataset.metainfo = NoisyImages.metainfo
    expected = uninterrupted(tmp_path / "whole", dataset=dataset)
    assert not different(expected, stopped_and_resumed(tmp_path / "stopped", 8, dataset=dataset))


def test_loss_scaler(tmp_path, monkeypatch):
    """Mixed precision needs a GPU in MMEngine; its scaler also counts on a CPU."""
    from mmengine.optim.optimizer import amp_optimizer_wrapper as amp

    monkeypatch.setattr(amp, "is_cuda_available", lambda: True)
    monkeypatch.setattr(amp, "GradScaler", partial(torch.amp.GradScaler, "cpu", growth_interval=3))
    options = {"optim": {"type": "AmpOptimWrapper", "dtype": "bfloat16"}, "accumulation": 2, "ema": True}
    expected = uninterrupted(tmp_path / "whole", **options)
    assert expected[".optimizer.loss_scaler.scale"] > 65536
    assert not different(expected, stopped_and_resumed(tmp_path / "stopped", 9, **options))


@pytest.mark.parametrize("at", ["end of epoch", "validation"])
def test_validation_is_made_up_for(at, tmp_path):
    """What was saved but not validated is validated first; what was validated is not again."""
    options = {"validate": True, "checkpoint": {"save_best": "mAP", "rule": "greater"}, "ema": True}
    expected = uninterrupted(tmp_path / "whole", **options)
    folder = tmp_path / "stopped"
    hook = SignalAt(6) if at == "end of epoch" else SignalInValidation(2)
    options.pop("ema")
    with pytest.raises(Stopped):
        toy_runner(folder, custom_hooks=[hook, *hooks(True)], **options).train()
    second = toy_runner(folder, resume=True, custom_hooks=hooks(True), **options)
    second.train()
    assert not different(expected, tensors_of(final(folder)))
    log = log_of(second)
    assert [f"Epoch(val) [{epoch}]" in log for epoch in (1, 2, 3)] == [True, True, True]
    assert ("was not finished: running it" in log) == (at == "validation")
    assert sorted(path.name for path in folder.glob("*.pth")) == sorted(
        path.name for path in (tmp_path / "whole").glob("*.pth")
    )
    again = SignalInValidation(0)
    toy_runner(folder, resume=True, custom_hooks=[again, *hooks(True)], **options).train()
    assert not again.sent


class SignalInValidation(Hook):
    def __init__(self, batch: int) -> None:
        self.batch, self.sent = batch, False

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        if batch_idx == self.batch:
            self.sent = True
            os.kill(os.getpid(), signal.SIGUSR1)


def test_mmengines_own_checkpoint(tmp_path):
    """Also one from the middle of an epoch, where MMEngine's loop would begin the epoch anew."""
    by_iteration = {"by_epoch": False, "interval": 9}
    toy_runner(tmp_path, epochs=2, checkpoint=by_iteration, runner_class=Runner).train()
    (tmp_path / "iter_12.pth").unlink()
    second = toy_runner(tmp_path, epochs=2, resume=True, checkpoint=by_iteration)
    second.train()
    assert second.iter == 12
    assert "Epoch(train) [2][6/6]" in log_of(second)


def test_other_batch_size_goes_on_at_the_same_share(tmp_path):
    with pytest.raises(Stopped):
        toy_runner(tmp_path, epochs=1, custom_hooks=[SignalAt(3)]).train()
    second = toy_runner(tmp_path, epochs=1, resume=True, batch_size=4)
    second.train()
    assert "had 6 batches when the checkpoint was saved and has 3 now: going on after batch 2" in log_of(second)
    assert second.iter == 3 + 1


def test_every_few_minutes(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 13))
    monkeypatch.setattr(checkpoint_hook, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    seen = []

    class Look(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(sorted(path.name for path in tmp_path.glob("*.pth")))

    toy_runner(tmp_path, epochs=1, custom_hooks=[Look()], checkpoint={"every_minutes": 0.5}).train()
    assert ["interim_iter_3.pth"] in seen
    assert all(len(names) <= 1 for names in seen)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_1.pth"]
