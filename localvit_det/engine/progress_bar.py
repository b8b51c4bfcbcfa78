"""A progress bar with the time left, for people at a terminal; elsewhere a few lines until the log has its own."""

import math
import sys
import time
from contextlib import ExitStack
from datetime import timedelta

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

_TOLD = (1, 2, 5, 10, 20)  # steps


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Shows a bar for training, validation and test if stderr is a terminal.

    The bar of the training spans all iterations, so that its time left is that of the whole training
    (validations not counted). There is only ever one bar; it goes when its loop ends. Without a terminal the log tells
    of the first steps instead: on a CPU its first line of its own may be minutes away.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._redirection = ExitStack()
        self._steps, self._started = 0, 0.0  # since the training, a validation or a test has begun

    def before_run(self, runner: Runner) -> None:
        """Lets the logger's lines pass above the bar."""
        if _wanted():
            self._redirection.enter_context(logging_redirect_tqdm(loggers=[runner.logger]))

    def after_run(self, runner: Runner) -> None:
        """Takes everything back."""
        self._close()
        self._redirection.close()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Shows the bar again after the start, a resume or a validation."""
        if self._bar is None and _wanted():
            self._open("train", runner.max_iters, done=runner.iter)
        if not self._steps:
            self._started = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Advances, and shows the loss that mmengine has recorded."""
        if self._bar is not None:
            if "train/loss" in runner.message_hub.log_scalars:
                loss = runner.message_hub.get_scalar("train/loss").current()
                self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            self._bar.update()
        self._tell(runner, "train", runner.max_iters - runner.iter - 1)

    def before_train(self, runner: Runner) -> None:
        """Counts from here."""
        self._steps = 0

    def after_train(self, runner: Runner) -> None:
        """Removes the bar."""
        self._close()

    def before_val_epoch(self, runner: Runner) -> None:
        """Replaces the bar of the training."""
        self._open("val", len(runner.val_dataloader))

    def before_test_epoch(self, runner: Runner) -> None:
        """Shows the bar of the test."""
        self._steps, self._started = 0, time.perf_counter()
        self._open("test", len(runner.test_dataloader))

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: object = None,
        mode: str = "train",
    ) -> None:
        """Advances in validation and test; the last image removes the bar, evaluators print."""
        if self._bar is not None:
            self._bar.update()
            if self._bar.n >= self._bar.total:
                self._close()
        if mode == "test":
            self._tell(runner, mode, len(runner.test_dataloader) - batch_idx - 1)

    def _tell(self, runner: Runner, mode: str, left: int) -> None:
        """Logs some of the first steps where there is no bar, as long as the log itself has not begun."""
        self._steps += 1
        now = time.perf_counter()
        log = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), math.inf)
        if self._steps in _TOLD and self._steps < log and is_main_process() and not sys.stderr.isatty():
            seconds = (now - self._started) / max(1, self._steps - 1)
            told = f"step {self._steps} is done"
            if self._steps > 1:
                told += f", {seconds:.2g} s each, about {timedelta(seconds=round(seconds * left))} left"
            runner.logger.info("%s: %s.", mode, told)
        if self._steps == 1:
            self._started = now  # the first step takes longest

    def _open(self, title: str, total: int, done: int = 0) -> None:
        self._close()
        if _wanted():
            self._bar = tqdm(total=total, initial=done, desc=title, leave=False, dynamic_ncols=True, smoothing=0.05)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _wanted() -> bool:
    return is_main_process() and sys.stderr.isatty()
