"""What the validations of a training have brought so far, in a file of its work dir, and early stopping by it.

Checkpoints lack the validation that follows them. Validations run on a fused copy of the model: the same results,
faster.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS, LOOPS
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner, TestLoop, ValLoop
from torch import nn

from ..config.utils import registered
from ..files import write_text
from ..fused import fused_copy
from .checkpoint_hook import SafeCheckpointHook
from .processes import unwrapped

VALIDATIONS = "validations.json"
Point = dict[str, Any]  # iteration, metrics, and whether the validation was complete


def begin_validations(runner: Runner) -> list[Point]:
    """Return the validations up to the iteration at which a training starts, and forget later ones.

    From here on they are `runner.validations`. All processes call it together and get the same; doing so again changes
    nothing.
    """
    points: list[Any] = [[]]
    file = Path(runner.work_dir, VALIDATIONS)
    if dist.is_main_process() and file.is_file():
        if runner.iter:
            points = [[point for point in _read(file, runner) if point["iteration"] <= runner.iter]]
        write_text(file, json.dumps(points[0]))
    dist.broadcast_object_list(points)
    runner.validations = points[0]
    return points[0]


def add_validation(runner: Runner, metrics: Mapping[str, Any] | None, complete: bool = False) -> None:
    """Add the present validation, also to the file; a repeated one takes the place of the first.

    Args:
        metrics: Those that are no numbers are left out.
        complete: Whether nothing of it is left to do.
    """
    numbers = {key: float(value) for key, value in (metrics or {}).items() if _is_number(value)}
    runner.validations = [one for one in runner.validations if one["iteration"] < runner.iter]
    runner.validations.append({"iteration": runner.iter, "metrics": numbers, "complete": complete})
    if dist.is_main_process():
        write_text(Path(runner.work_dir, VALIDATIONS), json.dumps(runner.validations))


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) or getattr(value, "ndim", None) == 0  # NumPy's and PyTorch's


def _read(file: Path, runner: Runner) -> list[Point]:
    try:
        points = json.loads(file.read_text())
        return [point for point in points if isinstance(point["iteration"] + 0, int) and point["metrics"].keys()]
    except (OSError, ValueError, TypeError, KeyError) as error:
        runner.logger.warning(f"What earlier validations have brought is lost: {error!r}")
        return []


@HOOKS.register_module()
class EarlyStopHook(Hook):
    """Stop after `patience` validations without a new best one, with a final checkpoint and exit code 0.

    The metric is the one that `save_best` of the checkpoint hook names, else the first. With MMEngine's
    EarlyStoppingHook a resumed training would count anew, the metric would have to be named, and the last weights would
    be lost where no checkpoint is due.

    Args:
        patience: Validations without a new best one.
        min_delta: What a new best one has to gain at least.
    """

    priority = "LOWEST"  # after the best checkpoint is saved, and averaged weights are back in their place

    def __init__(self, patience: int = 5, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = patience, min_delta
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Take over the validations up to the iteration at which the training starts."""
        self._training = True
        points = begin_validations(runner)
        metric, sign = _metric_of(runner, points[-1]["metrics"] if points else {})
        if self._best(points, metric, sign)[2] >= self.patience:
            runner.train_loop.stop_training = True
            runner.logger.info(
                "Nothing is left to train: this training has stopped early after iteration "
                f"{points[-1]['iteration']}. More patience than {self.patience}, or --without early-stop, goes on with "
                "it."
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Count, and ask the loop to stop."""
        if not self._training:
            return
        add_validation(runner, metrics)
        metric, sign = _metric_of(runner, metrics or {})
        at, best, since = self._best(runner.validations, metric, sign)
        if since < self.patience:
            return
        runner.train_loop.stop_training = True
        if checkpoints := _checkpoints(runner):
            checkpoints.save_final(runner)
        runner.logger.info(
            f"Stopping early after iteration {runner.iter}: {metric} has not improved in {self.patience} validations "
            f"(its best is {best:.4g}, after iteration {at})."
        )

    def after_train(self, runner: Runner) -> None:
        """Leave out later validations, which are no part of the training."""
        self._training = False

    def _best(self, points: Sequence[Point], metric: str, sign: int) -> tuple[int, float, int]:
        """Return iteration and value of the best validation, and how many have followed it."""
        at, best, since = 0, -math.inf, 0
        for index, point in enumerate(points):
            value = sign * point["metrics"].get(metric, math.nan)
            since += 1
            if index == 0 or (math.isfinite(value) and value > best + self.min_delta):
                at, best, since = point["iteration"], value if math.isfinite(value) else -math.inf, 0
        return at, sign * best, since


def _checkpoints(runner: Runner) -> SafeCheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)


def _metric_of(runner: Runner, metrics: Mapping[str, Any]) -> tuple[str, int]:
    """Return the metric by which a checkpoint is the best, and 1 or -1: whether larger or smaller is better."""
    checkpoints = _checkpoints(runner)
    if checkpoints is not None and checkpoints.save_best and "auto" not in checkpoints.key_indicators:
        return checkpoints.key_indicators[0], -1 if checkpoints.rules[0] == "less" else 1
    name = next(iter(metrics), "the metric")  # none where nothing at all has been found
    return name, -1 if "loss" in name.lower() else 1


@HOOKS.register_module()
class FusedEvaluationHook(Hook):
    """Ask for evaluation on a fused copy: `ReliableRunner` then builds the loops of this file instead of MMEngine's."""

    def before_val_epoch(self, runner: Runner) -> None:
        _report_unfused(runner, runner.val_loop)

    def before_test_epoch(self, runner: Runner) -> None:
        _report_unfused(runner, runner.test_loop)


class _OnFusedCopy(BaseLoop):
    """Evaluate a fused copy of the model, made at the first batch of each evaluation and dropped at the end.

    Hooks have put their weights in place by then (EMAHook the averaged ones). The model itself stays as it is and is
    the runner's again after each batch, also after an error, so that checkpoints are of the model. Where forward hooks
    listen to parts of the model, which fusing would take away, the model is evaluated as it is.
    """

    evaluated: nn.Module | None = None

    def run(self) -> dict:
        try:
            return super().run()
        finally:
            self.evaluated = None

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        if self.evaluated is None:
            self.evaluated = _to_evaluate(self.runner)
        model, self.runner.model = self.runner.model, self.evaluated
        try:
            super().run_iter(idx, data_batch)
        finally:
            self.runner.model = model


class FusedValLoop(_OnFusedCopy, ValLoop):
    """MMEngine's ValLoop on a fused copy of the model."""


class FusedTestLoop(_OnFusedCopy, TestLoop):
    """MMEngine's TestLoop on a fused copy of the model."""


def fused_loop(loop: Any, kind: type[BaseLoop], hooks: Sequence[Hook]) -> Any:
    """Return the settings of a loop of MMEngine's, with the fused kind where FusedEvaluationHook is among the hooks."""
    wanted = any(isinstance(hook, FusedEvaluationHook) for hook in hooks)
    if not wanted or not isinstance(loop, dict):
        return loop
    named = registered(LOOPS, loop) if "type" in loop else kind
    return {**loop, "type": kind} if named in (kind, ValLoop, TestLoop) else loop


def _to_evaluate(runner: Runner) -> nn.Module:
    model = unwrapped(runner.model)
    heard = next((name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks), None)
    if heard is None:
        return fused_copy(model)
    runner.logger.info("Evaluation runs the model unfused, because forward hooks listen to %r.", heard)
    return runner.model


def _report_unfused(runner: Runner, loop: BaseLoop) -> None:
    if not isinstance(loop, _OnFusedCopy):
        runner.logger.info("Evaluation runs the model unfused, because its loop is %s.", type(loop).__name__)
