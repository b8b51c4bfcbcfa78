"""Several processes on CPUs: the same numbers as one, and no process that waits for a dead one."""

import json
import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import Forked, _one_thread_and_no_process_left, forked_ranks, wait_for  # noqa: F401 - a fixture
from mmengine.hooks import Hook
from toy_training import MeanMetric, NoisyImages, ToyModel, different, tensors_of, toy_runner


class Plain(ToyModel):
    """Without BatchNorm and dropout, whose results depend on how the images are divided."""

    def __init__(self) -> None:
        super().__init__(norm=False)
        self.drop = torch.nn.Identity()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if mode != "loss":
            return super().forward(inputs, data_samples, mode)
        out = self.head(self.conv(torch.stack(inputs)).relu().mean((2, 3)))
        return {"loss_cls": out.square().mean(), "loss_bbox": (out - 1).abs().mean()}


class Losses(Hook):
    """Keeps the mean over the processes of every loss."""

    def __init__(self) -> None:
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        from mmengine import dist

        loss = outputs["loss"].detach().clone()
        dist.all_reduce(loss, "mean")
        self.values.append(loss.item())


def ended(processes: list[Forked], seconds: float = 60) -> list[int]:
    return [process.wait(seconds) for process in processes]


def run(folder: Path, processes: int, function) -> None:
    ranks = forked_ranks(function, folder, processes)
    assert ended(ranks) == [0] * processes, ranks[0].text()[-2000:] + ranks[-1].text()[-2000:]


def train(folder: Path, rank: int = 0, launcher: str = "pytorch", batch: int = 2, pause: float = 0, **options) -> None:
    losses = Losses()
    hooks = [losses, *options.pop("custom_hooks", [])]
    runner = toy_runner(folder, launcher=launcher, batch_size=batch, custom_hooks=hooks, **options)
    runner.train()
    (folder / f"losses_{rank}.json").write_text(json.dumps(losses.values))


def test_two_processes_train_as_one(tmp_path):
    """With images that are augmented alike, wherever they are loaded."""
    options = {"epochs": 2, "workers": 0}
    run(tmp_path / "two", 2, lambda rank: train(tmp_path / "two", rank, model=Plain(), **options))
    train(tmp_path / "one", launcher="none", batch=4, model=Plain(), **options)
    expected, found = (tensors_of(tmp_path / name / "epoch_2.pth") for name in ("one", "two"))
    for name, value in expected.items():
        if "state_dict" in name:
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    losses = [json.loads((tmp_path / name / "losses_0.json").read_text()) for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_two_processes_stop_and_go_on(tmp_path):
    """A signal to one of them stops both at the same iteration, between two steps of the optimizer."""
    options = {"epochs": 2, "workers": 1, "accumulation": 2, "batch_size": 2}

    class SignalToOne(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            if runner.iter == 4 and runner.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def go(folder: Path, rank: int, resume: bool = False, hooks: tuple = ()) -> None:
        toy_runner(folder, launcher="pytorch", resume=resume, custom_hooks=list(hooks), **options).train()

    run(tmp_path / "whole", 2, partial(go, tmp_path / "whole"))
    stopped = forked_ranks(partial(go, tmp_path / "run", hooks=(SignalToOne(),)), tmp_path / "run")
    assert ended(stopped) == [143, 143], stopped[0].text()[-2000:]
    assert (tmp_path / "run/interim_iter_5.pth").is_file()
    run(tmp_path / "run", 2, partial(go, tmp_path / "run", resume=True))
    assert not different(tensors_of(tmp_path / "whole/epoch_2.pth"), tensors_of(tmp_path / "run/epoch_2.pth"))


@pytest.mark.parametrize(("victim", "processes"), [(0, 2), (1, 2), (2, 4)])
def test_killed_process_is_named(victim, processes, tmp_path):
    ranks = forked_ranks(
        lambda rank: train(tmp_path, rank, epochs=999, checkpoint={"interval": 9999}), tmp_path, processes
    )
    wait_for(lambda: "Epoch(train)" in ranks[0].text())
    os.kill(ranks[victim].pid, signal.SIGKILL)
    for rank, process in enumerate(ranks):
        if rank == victim:
            continue
        assert process.wait(30) == 99
        # Those that ask last may find the first one gone as well.
        told = re.search(r"Process(es)? ([\d, ]+) of \d ha(s|ve) ended.*, so process (\d) ends, too", process.text())
        assert told, process.text()[-2000:]
        assert str(victim) in told[2]
        assert told[4] == str(rank)


def test_error_of_another_process_is_told(tmp_path):
    class Broken(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            if runner.rank == 1:
                raise ValueError("no such luck")

    ranks = forked_ranks(lambda rank: train(tmp_path, rank, custom_hooks=[Broken()]), tmp_path)
    assert ended(ranks) == [99, 99]
    assert "Process 1 of 2 ended with ValueError: no such luck" in ranks[0].text()


@pytest.mark.parametrize("images", [7, 8, 2])
def test_evaluation_of_two_is_that_of_one(images, tmp_path):
    weights = tmp_path / "weights"
    toy_runner(weights, epochs=1).train()

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
            load_from=str(weights / "epoch_1.pth"),
            test_dataloader=loader,
            test_cfg={},
            test_evaluator={"type": MeanMetric},
        )
        metrics = runner.test()
        (tmp_path / f"{launcher}_{rank}.json").write_text(json.dumps(metrics))

    run(tmp_path / "pytorch", 2, evaluate)
    evaluate(0, "none")
    one, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("none_0", "pytorch_0", "pytorch_1")
    )
    assert one["images"] == images
    assert one == first == second
    assert not list(tmp_path.glob("**/.collect*"))


def test_batch_norm_of_two(tmp_path):
    """Both end with the same running statistics; validation uses them; the log tells what is done."""

    def go(rank: int) -> None:
        runner = toy_runner(tmp_path, launcher="pytorch", epochs=1, validate=True, cfg={"sync_bn": "torch"})
        runner.train()
        torch.save(runner.model.module.norm.running_mean, tmp_path / f"mean_{rank}.pt")
        assert runner.cfg.sync_bn == "torch"

    ranks = forked_ranks(go, tmp_path)
    assert ended(ranks) == [0, 0], ranks[0].text()[-2000:]
    first, second = (torch.load(tmp_path / f"mean_{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)
    assert ranks[0].text().count("SyncBatchNorm needs GPUs") == 1
    assert "SyncBatchNorm needs GPUs" not in ranks[1].text()


def test_nan_in_one_process_stops_both(tmp_path):
    def go(rank: int) -> None:
        data = NoisyImages(poisoned=tuple(range(rank * 12)))
        toy_runner(tmp_path, launcher="pytorch", dataset=data, cfg={"non_finite": {"patience": 2}}).train()

    ranks = forked_ranks(go, tmp_path)
    assert ended(ranks) == [99, 99]
    for rank in ranks:
        assert "Iteration 2: loss_cls is NaN, loss_bbox is NaN (images image_" in rank.text()
