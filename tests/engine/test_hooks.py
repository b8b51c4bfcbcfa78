"""Early stopping, the file of a backbone, and free memory; broken images stand in tests/datasets/test_images.py."""

import ctypes
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_training import Scores, different, final, log_of, signal_at, tensors_of, toy_runner

from localvit_det.checkpoint.read import load_weights_only
from localvit_det.engine import processes, write_backbone
from localvit_det.engine.processes import FreeMemoryHook, Stopped
from localvit_det.engine.validations import begin_validations
from localvit_det.errors import CheckpointError

BEST_IN_THE_SECOND = [0.1, 0.3, 0.2, 0.3, 0.29, 0.5, 0.6, 0.7]


def train(folder: Path, patience: int, *own, scores: list = BEST_IN_THE_SECOND, **options):
    options = {"epochs": 8, "validate": True, "checkpoint": {"save_best": "auto"}, **options}
    metrics = [{} if value is None else {"coco/bbox_mAP": value, "coco/segm_mAP": 0.0} for value in scores]
    stop = {"type": "EarlyStopHook", "patience": patience}
    runner = toy_runner(folder, custom_hooks=[*own, Scores(*metrics), stop], **options)
    runner.train()
    return runner


class TestEarlyStop:
    def test_stops_and_says_so(self, tmp_path):
        runner = train(tmp_path, 3)
        assert runner.epoch == 5
        assert "Stopping early after iteration 30: coco/bbox_mAP has not improved in 3 validations" in log_of(runner)
        assert "(its best is 0.3, after iteration 12)" in log_of(runner)
        assert final(tmp_path).name == "epoch_5.pth"
        assert (tmp_path / "best_coco_bbox_mAP_epoch_2.pth").is_file()
        before = final(tmp_path).read_bytes()
        again = train(tmp_path, 3, resume=True)
        assert again.epoch == 5
        assert "Nothing is left to train: this training has stopped early after iteration 30" in log_of(again)
        assert final(tmp_path).read_bytes() == before

    def test_enough_patience_changes_nothing(self, tmp_path):
        stopped, whole = train(tmp_path / "hook", 4), toy_runner(tmp_path / "none", epochs=8, validate=True)
        whole.train()
        assert stopped.epoch == 8
        assert "Stopping early" not in log_of(stopped)
        assert not different(tensors_of(final(tmp_path / "hook")), tensors_of(final(tmp_path / "none")))

    def test_a_checkpoint_is_saved_where_none_is_due(self, tmp_path):
        train(tmp_path, 3, checkpoint={"interval": 4})
        assert final(tmp_path).name == "epoch_5.pth"
        assert train(tmp_path, 30, checkpoint={"interval": 4}, resume=True).epoch == 8
        train(tmp_path / "whole", 30, checkpoint={"interval": 4})
        assert not different(tensors_of(final(tmp_path)), tensors_of(final(tmp_path / "whole")))

    def test_counts_on_after_a_signal(self, tmp_path):
        train(tmp_path / "whole", 3)
        for iteration in (11, 13, 25):
            folder = tmp_path / str(iteration)
            with pytest.raises(Stopped):
                train(folder, 3, signal_at(iteration))
            second = train(folder, 3, resume=True)
            assert second.epoch == 5
            assert "has not improved in 3 validations (its best is 0.3, after iteration 12)" in log_of(second)
            assert not different(tensors_of(final(folder)), tensors_of(final(tmp_path / "whole"))), iteration

    def test_a_repeated_validation_counts_once(self, tmp_path):
        train(tmp_path, 2, epochs=3)
        file = tmp_path / "validations.json"
        assert [one["complete"] for one in json.loads(file.read_text())] == [True] * 3
        file.write_text(file.read_text()[::-1].replace("eurt", "eslaf", 1)[::-1])  # as a kill in the third leaves it
        second = train(tmp_path, 2, epochs=4, resume=True)
        assert "The validation after iteration 18 was not finished" in log_of(second)
        assert second.epoch == 4

    def test_smaller_losses_are_better_and_nothing_found_is_no_best(self, tmp_path):
        falling = {"save_best": "coco/bbox_mAP", "rule": "less"}
        assert train(tmp_path / "loss", 2, scores=[0.5, 0.4, 0.4, 0.4, 0.1], checkpoint=falling).epoch == 4
        nothing = train(tmp_path / "nothing", 3, scores=[None], checkpoint={"save_best": None})
        assert nothing.epoch == 3 + 1
        assert "the metric has not improved in 3 validations" in log_of(nothing)

    def test_by_iterations_and_with_averages(self, tmp_path):
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


def test_validations_after_the_checkpoint_are_forgotten(tmp_path):
    points, file = (
        [{"iteration": i, "metrics": {"a": 0.5}, "complete": True} for i in (6, 12)],
        tmp_path / "validations.json",
    )
    file.write_text(json.dumps(points))
    runner = SimpleNamespace(work_dir=tmp_path, iter=6)
    assert begin_validations(runner) == runner.validations == json.loads(file.read_text()) == points[:1]


@pytest.mark.parametrize(("stages", "kept"), [("3", False), ("0123", True)])
def test_norms_in_the_trunk_stay(tmp_path, stages, kept):
    """A classifier has one, after its last stage; a segmentor and Twins-SVT have one in each."""
    state = {f"backbone.out_norms.{i}.weight": torch.full((2,), 3.0) for i in stages}
    state |= {"backbone.stem.norm.weight": torch.ones(1), "head.weight": torch.ones(1)}
    torch.save({"state_dict": state, "meta": {"iter": 7}}, tmp_path / "x.pth")
    content = load_weights_only(write_backbone(tmp_path / "x.pth", tmp_path / "y.pth"))
    norms = {f"out_norms.{i}.weight" for i in stages} if kept else set()
    assert content["state_dict"].keys() == norms | {"stem.norm.weight"}
    assert content["meta"] == {"source": "x.pth", "epoch": None, "iter": 7}


def test_a_file_without_a_backbone(tmp_path):
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no backbone"):
        write_backbone(tmp_path / "x.pth", tmp_path / "y.pth")
    assert not (tmp_path / "y.pth").exists()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc on Linux can do it")
def test_holes_in_memory_go_back(tmp_path, monkeypatch):
    runner = toy_runner(tmp_path)
    hook = next(hook for hook in runner.hooks if isinstance(hook, FreeMemoryHook))
    if hook._trim is None:
        pytest.skip("the C library cannot do it")
    blocks = [ctypes.create_string_buffer(64 << 10) for _ in range(2000)]
    last = blocks.pop()
    del blocks
    before = resident()
    hook.after_train_iter(runner, 0)
    assert before - resident() < 50_000_000  # not yet
    monkeypatch.setattr(processes, "_PAUSE", 0.0)
    hook.after_train_iter(runner, 0)
    assert before - resident() > 50_000_000
    assert len(last) == 64 << 10
