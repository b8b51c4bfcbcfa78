"""A training ends when its validations bring nothing better, also one that was stopped and resumed in between."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from test_resume import SignalAt, final, log_of
from toy_training import different, tensors_of, toy_runner

from localvit_det.engine.processes import Stopped

SCORES = [0.1, 0.3, 0.2, 0.3, 0.29, 0.5, 0.6, 0.7]


class Scores(Hook):
    """Puts written numbers in the place of what was measured."""

    priority = "VERY_HIGH"

    def __init__(self, scores: list[float], every: int = 6) -> None:
        self.scores, self.every = scores, every

    def after_val_epoch(self, runner, metrics=None) -> None:
        metrics.clear()
        value = self.scores[runner.iter // self.every - 1]
        metrics.update({} if value is None else {"coco/bbox_mAP": value, "coco/segm_mAP": 0.0})


def train(folder: Path, patience: int, *hooks: Hook, scores: list | None = None, **options):
    options = {"epochs": 8, "validate": True, "checkpoint": {"save_best": "auto"}, **options}
    own = [*hooks, Scores(scores or SCORES), {"type": "EarlyStopHook", "patience": patience}]
    runner = toy_runner(folder, custom_hooks=own, **options)
    runner.train()
    return runner


def test_stops_and_says_so(tmp_path):
    runner = train(tmp_path, 3)
    assert runner.epoch == 5
    assert "Stopping early after iteration 30: coco/bbox_mAP has not improved in 3 validations" in log_of(runner)
    assert "(its best is 0.3, after iteration 12)" in log_of(runner)
    assert final(tmp_path).name == "epoch_5.pth"
    assert (tmp_path / "best_coco_bbox_mAP_epoch_2.pth").is_file()


def test_enough_patience_changes_nothing(tmp_path):
    stopped, whole = train(tmp_path / "hook", 4), toy_runner(tmp_path / "none", epochs=8, validate=True)
    whole.train()
    assert stopped.epoch == 8
    assert "Stopping early" not in log_of(stopped)
    assert not different(tensors_of(final(tmp_path / "hook")), tensors_of(final(tmp_path / "none")))


def test_a_checkpoint_is_saved_where_none_is_due(tmp_path):
    train(tmp_path, 3, checkpoint={"interval": 4})
    assert final(tmp_path).name == "epoch_5.pth"
    runner = train(tmp_path, 30, checkpoint={"interval": 4}, resume=True)
    assert runner.epoch == 8
    whole = tmp_path / "whole"
    train(whole, 30, checkpoint={"interval": 4})
    assert not different(tensors_of(final(tmp_path)), tensors_of(final(whole)))


def test_resumed_after_an_early_stop(tmp_path):
    train(tmp_path, 3)
    before = final(tmp_path).read_bytes()
    again = train(tmp_path, 3, resume=True)
    assert again.epoch == 5
    assert "Nothing is left to train: this training has stopped early after iteration 30" in log_of(again)
    assert final(tmp_path).read_bytes() == before


@pytest.mark.parametrize("iteration", [11, 13, 25])
def test_counts_on_after_a_signal(iteration, tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", 3, SignalAt(iteration))
    second = train(tmp_path / "stopped", 3, resume=True)
    assert second.epoch == 5
    assert "has not improved in 3 validations (its best is 0.3, after iteration 12)" in log_of(second)
    train(tmp_path / "whole", 3)
    assert not different(tensors_of(final(tmp_path / "stopped")), tensors_of(final(tmp_path / "whole")))


def test_smaller_losses_are_better_and_nothing_found_is_no_best(tmp_path):
    falling = train(tmp_path / "loss", 2, scores=[0.5, 0.4, 0.4, 0.4, 0.1], checkpoint={"save_best": "coco/bbox_mAP",
                    "rule": "less"})  # fmt: skip
    assert falling.epoch == 4
    nothing = train(tmp_path / "nothing", 3, scores=[None] * 8, checkpoint={"save_best": None})
    assert nothing.epoch == 3 + 1
    assert "the metric has not improved in 3 validations" in log_of(nothing)


def test_by_iterations_and_with_averages(tmp_path):
    loop = {"type": "IterBasedTrainLoop", "max_iters": 48, "val_interval": 6}
    ema = {"type": "EMAHook", "ema_type": "ExpMomentumEMA", "update_buffers": True}
    checkpoint = {"by_epoch": False, "interval": 100, "save_best": "auto"}
    runner = train(tmp_path, 3, ema, train_cfg=loop, checkpoint=checkpoint)
    assert runner.iter == 30
    content = tensors_of(final(tmp_path))
    assert final(tmp_path).name == "iter_30.pth"
    averaged, last = content[".state_dict.head.weight"], content[".ema_state_dict.module.head.weight"]
    assert torch.equal(last, runner.model.head.weight)
    assert not torch.equal(averaged, last)
