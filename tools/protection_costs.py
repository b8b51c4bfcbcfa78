"""Measures what the protections cost: `python tools/protection_costs.py configs/mask_rcnn_shuffle_nano_shapes.py`.

Trains a few iterations and sums up the time inside of what MMEngine does not do: seeds for each iteration, running
statistics noted, losses and gradients looked at, signals asked for, free memory handed back. Then saves a checkpoint
a few times, as we do and as MMEngine does.
"""

import _process  # noqa: F401 - settings that must stand before PyTorch starts

# isort: split
import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from localvit_det import patches
from localvit_det.cli import make_config_parser, read_arguments, tells_mistakes
from localvit_det.engine import data_loader, non_finite, runner
from localvit_det.engine.hooks import FreeMemoryHook

SAVES = 5


class Clock:
    """Seconds spent in functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable, sign: int = 1) -> Callable:
        """The same function, whose time counts; with -1 it is taken off again."""

        @functools.wraps(function)
        def run(*args: object, **settings: object) -> object:
            begun = time.perf_counter()
            try:
                return function(*args, **settings)
            finally:
                self.seconds += sign * (time.perf_counter() - begun)

        return run

    def watch(self) -> None:
        """Puts timed functions in the place of the protections."""
        data_loader._seed_generators = self.timed(data_loader._seed_generators)  # of iterations and of images
        non_finite._check_gradients = self.timed(non_finite._check_gradients)
        runner.ReliableRunner.between_iterations = self.timed(runner.ReliableRunner.between_iterations)
        non_finite.GuardHook.after_train_iter = self.timed(non_finite.GuardHook.after_train_iter)
        FreeMemoryHook.after_train_iter = self.timed(FreeMemoryHook.after_train_iter)
        guard = non_finite.FiniteGuard
        guard.remember = self.timed(guard.remember)
        guarded = guard._guarded
        guard._guarded = lambda it, wrapper, update: self.timed(guarded(it, wrapper, self.timed(update, -1)))


class Iterations(Hook):
    """Notes the time of iterations, and ends after enough."""

    priority = "VERY_HIGH"

    def __init__(self, clock: Clock, warmup: int, count: int) -> None:
        self.clock, self.warmup, self.count = clock, warmup, count
        self.begun = 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Begins to count, or ends."""
        if runner.iter == self.warmup:
            self.begun, self.clock.seconds = time.perf_counter(), 0.0
        if runner.iter == self.warmup + self.count:
            raise _Enough(time.perf_counter() - self.begun, self.clock.seconds)


class _Enough(Exception):
    def __init__(self, seconds: float, protections: float) -> None:
        self.seconds, self.protections = seconds, protections


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints one row."""
    parser = make_config_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        print(measure(read_arguments(args), Path(folder), args.warmup, args.iterations))


def measure(cfg: Config, folder: Path, warmup: int, count: int) -> str:
    """One row in Markdown."""
    cfg.work_dir = str(folder)
    # In this process, so that the seeds of images are seen.
    cfg.train_dataloader.num_workers, cfg.train_dataloader.persistent_workers = 0, False
    clock = Clock()
    clock.watch()
    running = RUNNERS.build(cfg)
    running.register_hook(Iterations(clock, warmup, count))
    try:
        running.train()
    except _Enough as found:
        iteration, protections = found.seconds / count, found.protections / count
    hook = running.checkpoint_hook
    ours = saves(running, lambda number: hook._save(running, f"{number}.pth", {"epoch": 0, "iter": number}))
    stock = saves(running, lambda number: stock_save(running, folder, number))
    size = max(file.stat().st_size for file in folder.glob("*.pth")) / 1e6
    return (
        f"| {Path(cfg.filename).stem} | {iteration:.3f} | {protections * 1e3:.2f} ms "
        f"({100 * protections / iteration:.2f}%) | {size:.0f} MB | {ours:.3f} | {stock:.3f} |"
    )


def saves(running: Runner, save: Callable[[int], object]) -> float:
    """Median seconds of a checkpoint, the first not counted."""
    times = []
    for number in range(1, SAVES + 2):
        begun = time.perf_counter()
        save(number)
        times.append(time.perf_counter() - begun)
    return median(times[1:])


def stock_save(running: Runner, folder: Path, number: int) -> None:
    """Saves as MMEngine does: straight under the final name, not flushed."""
    with patches.without("whole_files"):
        running.save_checkpoint(str(folder), f"stock_{number}.pth")


if __name__ == "__main__":
    main()
