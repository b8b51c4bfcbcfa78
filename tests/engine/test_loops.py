"""A training that was stopped and resumed is bitwise identical to the one that never was."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import few
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from toy_training import NoisyImages, different, final, log_of, names, signal_at, tensors_of, toy_runner

from localvit_det.engine import SafeCheckpointHook
from localvit_det.engine.loops import ResumableEpochLoop, ResumableIterLoop
from localvit_det.engine.processes import Stopped
from localvit_det.errors import CheckpointError

EMA = {"type": "EMAHook", "momentum": 0.2}


def train(folder: Path, *hooks: object, ema: dict | None = None, **options) -> Runner:
    runner = toy_runner(folder, custom_hooks=[*hooks, *([ema] if ema else [])], **options)
    runner.train()
    return runner


def stop_and_resume(folder: Path, iteration: int, **options) -> Runner:
    with pytest.raises(Stopped) as stop:
        train(folder, signal_at(iteration), **options)
    assert stop.value.code == 128 + signal.SIGTERM
    second = train(folder, resume=True, **options)
    assert f"iteration {iteration}), the newest" in log_of(second)
    return second


def differences(folder: Path, iteration: int, whole: dict[str, torch.Tensor] | None = None, **options) -> list[str]:
    if whole is None:
        train(folder / "whole", **options)
        whole = tensors_of(final(folder / "whole"))
    stop_and_resume(folder / "stopped", iteration, **options)
    return different(whole, tensors_of(final(folder / "stopped")))


CASES = {
    "plain": {},
    "ema": {"ema": EMA},
    "ema of --ema": {"ema": {**EMA, "ema_type": "ExpMomentumEMA", "momentum": 2e-4, "update_buffers": True}},
    "accumulation": {"accumulation": 4},
    "validation": {"validate": True},
    "last batch smaller": {"batch_size": 5},
    "by iteration": {"train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 18}},
    "by iteration with workers": {"train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 18}, "workers": 2},
    "interval of iterations": {"checkpoint": {"by_epoch": False, "interval": 4, "max_keep_ckpts": 1}},
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> tuple[dict, dict[str, torch.Tensor]]:
    """A case, and the result of its training that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, **CASES[request.param])
    return CASES[request.param], tensors_of(final(folder))


@pytest.mark.parametrize("iteration", few([1, 6, 9], 6))
def test_stopped_anywhere(case, iteration, tmp_path):
    options, whole = case
    assert not differences(tmp_path, iteration, whole, **options)


def test_loss_scaler(tmp_path, monkeypatch):
    """Mixed precision needs a GPU in MMEngine; its scaler also counts on a CPU."""
    from mmengine.optim.optimizer import amp_optimizer_wrapper as amp

    monkeypatch.setattr(amp, "is_cuda_available", lambda: True)
    monkeypatch.setattr(amp, "GradScaler", partial(torch.amp.GradScaler, "cpu", growth_interval=3))
    optim = {"type": "AmpOptimWrapper", "dtype": "bfloat16"}
    assert not differences(tmp_path, 9, optim=optim, accumulation=2, ema=EMA)
    assert tensors_of(final(tmp_path / "whole"))[".optimizer.loss_scaler.scale"] > 65536


def test_averages_need_their_hook(tmp_path):
    """Without it the averages would be trained, with the optimizer of the other weights."""
    train(tmp_path, ema=EMA, epochs=1)
    runner = toy_runner(tmp_path, epochs=2, resume=True)
    with pytest.raises(CheckpointError, match=r"Give --ema again \(without `--without ema`\)"):
        runner.train()
    assert "Settings that have changed" not in log_of(runner)  # none is applied


class SignalInValidation(Hook):
    def __init__(self, batch: int) -> None:
        self.batch, self.sent = batch, False

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        if batch_idx == self.batch:
            self.sent = True
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("at", ["end of epoch", "validation"])
def test_validation_is_made_up_for(at, tmp_path):
    """What was saved but not validated is validated first; what was validated is not again."""
    options = {"validate": True, "checkpoint": {"save_best": "mAP", "rule": "greater"}, "ema": EMA}
    train(tmp_path / "whole", **options)
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        train(folder, signal_at(6) if at == "end of epoch" else SignalInValidation(2), **options)
    second = train(folder, resume=True, **options)
    assert not different(tensors_of(final(tmp_path / "whole")), tensors_of(final(folder)))
    log = log_of(second)
    assert [f"Epoch(val) [{epoch}]" in log for epoch in (1, 2, 3)] == [True, True, True]
    assert ("was not finished: running it" in log) == (at == "validation")
    assert names(folder) == names(tmp_path / "whole")
    again = SignalInValidation(0)
    train(folder, again, resume=True, **options)
    assert not again.sent


def test_mmengines_own_checkpoint(tmp_path):
    """Also one from the middle of an epoch, where MMEngine's loop would begin the epoch anew."""
    by_iteration = {"by_epoch": False, "interval": 9}
    train(tmp_path, epochs=2, checkpoint=by_iteration, runner_class=Runner)
    (tmp_path / "iter_12.pth").unlink()
    second = train(tmp_path, epochs=2, resume=True, checkpoint=by_iteration)
    assert second.iter == 12
    assert "Epoch(train) [2][6/6]" in log_of(second)


def test_other_batch_size_goes_on_at_the_same_share(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, signal_at(3), epochs=1)
    second = train(tmp_path, epochs=1, resume=True, batch_size=4)
    assert "had 6 batches when the checkpoint was saved and has 3 now: going on after batch 2" in log_of(second)
    assert second.iter == 3 + 1


@pytest.mark.parametrize("scope", ["", "mmengine.", "class"])
def test_parts_of_mmengine_are_exchanged_however_they_are_named(scope, tmp_path):
    """New-style configs name classes, not strings."""

    def named(cls: type) -> object:
        return cls if scope == "class" else scope + cls.__name__

    checkpoint = {"type": named(CheckpointHook)}
    by_iteration = {"type": named(IterBasedTrainLoop), "max_iters": 12}
    assert (
        type(toy_runner(tmp_path / "iter", train_cfg=by_iteration).build_train_loop(by_iteration)) is ResumableIterLoop
    )
    by_epoch = {"type": named(EpochBasedTrainLoop), "max_epochs": 3}
    runner = toy_runner(tmp_path, checkpoint=checkpoint, train_cfg=by_epoch, custom_hooks=[signal_at(2)])
    with pytest.raises(Stopped):
        runner.train()
    assert type(runner.train_loop) is ResumableEpochLoop
    assert type(runner.checkpoint_hook) is SafeCheckpointHook
    assert names(tmp_path) == ["interim_iter_2.pth"]


class OwnLoop(EpochBasedTrainLoop):
    """Of a user's own package."""


class OwnCheckpointHook(CheckpointHook):
    """Likewise."""


@pytest.mark.parametrize("at", [2, 6, 18, "validation"])
def test_signal_stops_loops_of_others(at, tmp_path):
    options = {"train_cfg": {"type": OwnLoop, "max_epochs": 3}, "validate": True}
    hook = SignalInValidation(2) if at == "validation" else signal_at(at)
    with pytest.raises(Stopped):
        train(tmp_path, hook, **options)
    done = 6 if at == "validation" else at
    assert names(tmp_path)[-1] == ("interim_iter_2.pth" if done == 2 else f"epoch_{done // 6}.pth")
    second = train(tmp_path, resume=True, **options)
    assert "The training's loop is OwnLoop" in log_of(second)
    assert "epoch_3.pth" in names(tmp_path)
    assert not [name for name in names(tmp_path) if "interim" in name]


def test_step_of_loops_of_others_is_taken_back(tmp_path):
    """A forward pass with NaN spoils the running statistics of BatchNorm, whatever the loop."""
    dataset = NoisyImages(poisoned=(3,))
    train_cfg = {"type": OwnLoop, "max_epochs": 1}
    runner = train(tmp_path, dataset=dataset, train_cfg=train_cfg, cfg={"non_finite": {"patience": 9}})
    assert all(tensor.isfinite().all() for tensor in runner.model.state_dict().values())


def test_checkpoint_hook_of_others_is_left_alone(tmp_path):
    runner = toy_runner(tmp_path, checkpoint={"type": OwnCheckpointHook}, custom_hooks=[signal_at(2)])
    with pytest.raises(Stopped):
        runner.train()
    assert "no hook of the config is a CheckpointHook of MMEngine" in log_of(runner)
