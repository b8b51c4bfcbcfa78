"""Ends a training when its validations bring nothing better any more."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..files import write_text
from .checkpoint_hook import SafeCheckpointHook

_SEEN = ".early_stop.json"  # the validations so far: checkpoints lack the one that follows them


@HOOKS.register_module()
class EarlyStopHook(Hook):
    """Stops after `patience` validations without a new best one, with a final checkpoint and exit code 0.

    The metric is the one that `save_best` of the checkpoint hook names, else the first. A resumed training counts on
    where it was; MMEngine's EarlyStoppingHook begins anew.

    Args:
        patience: Validations without a new best one.
        min_delta: What a new best one has to gain at least.
    """

    priority = "LOWEST"  # after the best checkpoint is saved, and averaged weights are back in their place

    def __init__(self, patience: int = 5, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = patience, min_delta
        self._seen: list[tuple[int, float]] = []  # iteration and value, larger is better
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Takes over the validations up to the iteration at which the training starts."""
        self._training = True
        seen: list[Any] = [[]]
        if is_main_process():
            seen = [_read(Path(runner.work_dir, _SEEN), until=runner.iter)]
        broadcast_object_list(seen)
        self._seen = seen[0]
        if self._is_over():
            runner.train_loop.stop_training = True
            runner.logger.info(
                "Nothing is left to train: this training has stopped early after iteration %d. More patience than "
                "%d, or --without early-stop, goes on with it.",
                self._seen[-1][0],
                self.patience,
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Counts, and asks the loop to stop."""
        if not self._training:
            return
        checkpoints = next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)
        metric, sign = _metric_of(checkpoints, metrics or {})
        value = float((metrics or {}).get(metric, math.nan))
        self._seen.append((runner.iter, sign * value if math.isfinite(value) else -math.inf))
        if is_main_process():
            write_text(Path(runner.work_dir, _SEEN), json.dumps(self._seen))
        if not self._is_over():
            return
        runner.train_loop.stop_training = True
        if checkpoints is not None:
            checkpoints.save_final(runner)
        at, best = self._best()
        runner.logger.info(
            "Stopping early after iteration %d: %s has not improved in %d validations (its best is %.4g, after "
            "iteration %d).",
            runner.iter,
            metric,
            self.patience,
            sign * best,
            at,
        )

    def after_train(self, runner: Runner) -> None:
        """Later validations are no part of the training."""
        self._training = False

    def _best(self) -> tuple[int, float]:
        best = self._seen[0]
        for at, value in self._seen[1:]:
            if value > best[1] + self.min_delta:
                best = (at, value)
        return best

    def _is_over(self) -> bool:
        if not self._seen:
            return False
        at = self._best()[0]
        return sum(iteration > at for iteration, _ in self._seen) >= self.patience


def _metric_of(checkpoints: SafeCheckpointHook | None, metrics: dict[str, Any]) -> tuple[str, int]:
    """The metric that decides which checkpoint is the best, and 1 or -1: whether larger or smaller is better."""
    if checkpoints is not None and checkpoints.save_best and "auto" not in checkpoints.key_indicators:
        return checkpoints.key_indicators[0], -1 if checkpoints.rules[0] == "less" else 1
    name = next(iter(metrics), "the metric")  # none where nothing at all has been found
    return name, -1 if "loss" in name.lower() else 1


def _read(file: Path, until: int) -> list[tuple[int, float]]:
    if until == 0 or not file.is_file():
        return []
    try:
        return [(int(at), float(value)) for at, value in json.loads(file.read_text()) if at <= until]
    except (OSError, ValueError, TypeError):
        return []
