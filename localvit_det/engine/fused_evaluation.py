"""Validation and test on a fused copy of the model: the same results, faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, Runner, TestLoop, ValLoop
from torch import nn

from ..config.utils import registered
from ..fused import fused_copy
from .processes import unwrapped


@HOOKS.register_module()
class FusedEvaluationHook(Hook):
    """Ask for evaluation on a fused copy: `ReliableRunner` then builds the loops of this file instead of MMEngine's."""

    def before_val_epoch(self, runner: Runner) -> None:
        """Report a loop that does not fuse."""
        _report_unfused(runner, runner.val_loop)

    def before_test_epoch(self, runner: Runner) -> None:
        """Report a loop that does not fuse."""
        _report_unfused(runner, runner.test_loop)


class _OnFusedCopy(BaseLoop):
    """Evaluate a fused copy of the model, made at the first batch of each evaluation and dropped at the end.

    Hooks have put their weights in place by then (EMAHook the averaged ones). The model itself stays as it is and is
    the runner's again after each batch, also after an error, so that checkpoints are of the model. Where forward hooks
    listen to parts of the model, which fusing would take away, the model is evaluated as it is.
    """

    evaluated: nn.Module | None = None

    def run(self) -> dict:
        """Evaluate, and return the metrics."""
        try:
            return super().run()
        finally:
            self.evaluated = None

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Evaluate one batch."""
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
