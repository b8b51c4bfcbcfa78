"""What our runner adds to an iteration of MMEngine's: `python -m benchmarks.overhead`.

Both train a convolution of a few hundred numbers, in one process and in turn, each for an epoch; the times are of the
processor, so that other work on the machine counts little. The longest iteration, of the processor with what threads
did meanwhile and of the clock, is from epochs of their own.
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import pstats
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from localvit_det.cli import handle_user_errors
from localvit_det.engine import ReliableRunner
from localvit_det.memory import without_collecting_old

from .results import markdown_table

HOOKS = ("ProgressBarHook", "TrainingReportHook", "CurvesHook")  # of configs/_base_/plugin.py


class Small(BaseModel):
    """A convolution with two losses."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> dict[str, Tensor]:
        """Return two losses of N×3×8×8 images."""
        out = self.layers(torch.stack(inputs))
        return {"loss_cls": out.square().mean(), "loss_bbox": (out - 1).abs().mean()}


class Images(torch.utils.data.Dataset):
    """The same image again and again."""

    def __init__(self, count: int) -> None:
        self.count, self.image = count, torch.rand(3, 8, 8)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.image}


class Clock(Hook):
    """Keeps how long the longest iteration took, from its start to the next one's."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.runs = False
        self.last, self.longest = (0.0, 0.0), (0.0, 0.0)  # of the processor, with all threads, and of the clock

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if not self.runs:
            return
        now = time.process_time(), time.perf_counter()
        if batch_idx:
            spent, waited = (max(new - old, most) for new, old, most in zip(now, self.last, self.longest, strict=True))
            self.longest = spent, waited
        self.last = now


def build(cls: type[Runner], folder: str, length: int) -> tuple[Runner, Clock]:
    """Return a runner of a training that is about to begin, and its clock."""
    clock = Clock()
    hooks = [{"type": name} for name in HOOKS] if cls is ReliableRunner else []
    runner = cls(
        Small(),
        f"{folder}/{cls.__name__}",
        train_dataloader={"dataset": Images(length), "batch_size": 1, "sampler": {"type": "DefaultSampler"}},
        train_cfg={"by_epoch": True, "max_epochs": 10**6},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
        param_scheduler={"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 10},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 10**6}},
        custom_hooks=[clock, *hooks],
        randomness={"seed": 0},
        experiment_name=cls.__name__,
        default_scope="mmdet",
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    runner.call_hook("before_run")
    runner.call_hook("before_train")
    return runner, clock


def remember(runner: Runner, iterations: int) -> None:
    """Let a runner have logged so many iterations before."""
    for name in runner.message_hub.log_scalars:
        runner.message_hub.log_scalars[name] = HistoryBuffer(np.ones(iterations), np.ones(iterations, int))


def measure(epochs: int, length: int, before: int) -> dict[str, tuple[float, ...]]:
    """Return milliseconds of an iteration by runner: of the processor the median, and the longest as `Clock` has it."""
    with tempfile.TemporaryDirectory() as folder:
        built = {cls.__name__: build(cls, folder, length) for cls in (Runner, ReliableRunner)}
        spent: dict[str, list[float]] = {name: [] for name in built}
        for epoch in range(2 * epochs + 1):
            for name, (runner, clock) in built.items():
                clock.runs = epoch > epochs
                start = time.process_time()
                runner.train_loop.run_epoch()
                if 0 < epoch <= epochs:  # after the first, which warms up
                    spent[name].append(1e3 * (time.process_time() - start) / length)
                elif before and not epoch:
                    remember(runner, before)
        for runner, _ in built.values():
            runner.call_hook("after_train")
        longest = {name: [1e3 * one for one in clock.longest] for name, (_, clock) in built.items()}
        return {name: (statistics.median(spent[name]), *longest[name]) for name in built}


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="of each (default: %(default)s)")
    parser.add_argument("--length", type=int, default=500, help="iterations of an epoch (default: %(default)s)")
    parser.add_argument("--before", type=int, default=0, help="iterations that are logged before (default: none)")
    parser.add_argument("--profile", action="store_true", help="print where our runner spends its time, too")
    args = parser.parse_args(argv)
    logging.getLogger("mmengine").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    profile = cProfile.Profile()
    if args.profile:
        profile.enable()
    with without_collecting_old():  # as `ReliableRunner.train` does; with MMEngine's a full collection takes 0.3 s
        found = measure(args.epochs, args.length, args.before)
    profile.disable()
    rows = [(name, f"{median:.2f}", *(f"{one:.0f}" for one in longest)) for name, (median, *longest) in found.items()]
    print(markdown_table(("runner", "ms an iteration, processor", "longest, processor", "longest, clock"), rows))
    if args.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()
