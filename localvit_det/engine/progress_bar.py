"""A progress bar with the time left, for people at a terminal."""

import sys
from contextlib import ExitStack

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Shows a bar for training, validation and test if stderr is a terminal, else nothing.

    The bar of the training spans all iterations, so that its time left is that of the whole training
    (validations not counted). There is only ever one bar; it goes when its loop ends.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._redirection = ExitStack()

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
        if self._bar is None:
            self._open("train", runner.max_iters, done=runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Advances, and shows the loss that mmengine has recorded."""
        if self._bar is not None:
            if "train/loss" in runner.message_hub.log_scalars:
                loss = runner.message_hub.get_scalar("train/loss").current()
                self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            self._bar.update()

    def after_train(self, runner: Runner) -> None:
        """Removes the bar."""
        self._close()

    def before_val_epoch(self, runner: Runner) -> None:
        """Replaces the bar of the training."""
        self._open("val", len(runner.val_dataloader))

    def before_test_epoch(self, runner: Runner) -> None:
        """Shows the bar of the test."""
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
