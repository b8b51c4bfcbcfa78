"""Validation and test with the fused form of the model."""

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..fused import fused_copy

_STEPS = ("val_step", "test_step")


@HOOKS.register_module()
class FusedEvaluationHook(Hook):
    """Lets validation and test run the fused form of the model: the same results, faster.

    The model itself, its parameters and its state dict stay as they are, so training goes on with it. The fused form
    is made from the weights at the start of each evaluation (with EMAHook the averaged ones) and given up at its end.
    Where forward hooks listen to parts of the model, which fusing would take away, the model runs as it is.
    """

    priority = "VERY_LOW"  # after EMAHook has put the averaged weights in place

    def before_val_epoch(self, runner: Runner) -> None:
        """Makes the fused form."""
        self._lend(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Gives it up."""
        self._take_back(runner)

    def before_test_epoch(self, runner: Runner) -> None:
        """Makes the fused form."""
        self._lend(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Gives it up."""
        self._take_back(runner)

    def _lend(self, runner: Runner) -> None:
        model = _unwrapped(runner)
        heard = next((name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks), None)
        if heard is not None:
            runner.logger.info("Evaluation runs the model unfused, because forward hooks listen to %r.", heard)
            return
        twin = fused_copy(model)
        for step in _STEPS:
            setattr(model, step, getattr(twin, step))

    def _take_back(self, runner: Runner) -> None:
        model = _unwrapped(runner)
        for step in _STEPS:
            vars(model).pop(step, None)


def _unwrapped(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
