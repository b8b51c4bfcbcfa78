"""Losses and gradients that are NaN, infinite or running away: found before the step, named, and dealt with."""

from __future__ import annotations

import enum
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import ConfigError, NonFiniteError, shortened
from .data_loader import batch_size_of, seed_iteration
from .optim import optim_wrappers
from .processes import all_reduce_max, unwrapped

ACTIONS = ("stop", "go_back")
_RECENT = 50  # iterations whose losses say what is usual
_SMALLEST_SCALE = 1e-4  # of a loss scaler: it halves its scale at each infinite gradient, without a word
_MOST_IMAGES = 8  # that are named


class Rollback(Exception):
    """The training has to return to its last good checkpoint."""


class StopValidation(Exception):
    """A signal, whose number is the argument, has come while the training was being validated."""


class _BadGradients(Exception):
    pass


class Fault(enum.Enum):
    """What is wrong with an iteration."""

    LOSS = enum.auto()  # NaN or infinite
    RUNAWAY = enum.auto()  # a loss far above the usual
    GRADIENTS = enum.auto()
    ELSEWHERE = enum.auto()  # one of these, in another process


class FiniteGuard:
    """Check losses and gradients before every step of the optimizer: one that is not finite is not taken.

    After `patience` of them in a row the training ends with a sentence, or goes back. Running statistics of BatchNorm,
    which a forward pass spoils, are put back as well. MMEngine's AmpOptimWrapper skips steps without a word, and
    `detect_anomalous_params` looks at the graph, not at numbers.

    Args:
        action: 'stop', or 'go_back' to the last good checkpoint with a lower learning rate.
        patience: Iterations in a row after which that is done; 1 for the first.
        runaway: A loss above this, and above so many times what is usual, counts, too.
        lower_lr: Factor of the learning rate at each return.
        returns: How often the training may go back.

    Raises:
        ConfigError: There is no such action, or a number makes no sense.
    """

    def __init__(
        self,
        runner: Any,
        action: str = "stop",
        patience: int = 3,
        runaway: float = 1000.0,
        lower_lr: float = 0.5,
        returns: int = 3,
    ) -> None:
        if action not in ACTIONS or patience < 1 or runaway <= 1 or not 0 < lower_lr <= 1:
            raise ConfigError(
                f"non_finite has action='{action}', patience={patience}, runaway={runaway}, lower_lr={lower_lr}: the "
                f"action is one of {ACTIONS}, patience at least 1, runaway above 1, and lower_lr at most 1."
            )
        self.runner, self.action, self.patience, self.runaway = runner, action, patience, runaway
        self.lower_lr, self.returns = lower_lr, returns
        self.lr_factor = 1.0  # by which returns have changed the config's learning rates so far
        self._went_back: Counter[str] = Counter()  # checkpoint: how often
        self._in_row = 0
        self._fault: Fault | None = None  # of the present iteration
        self._loss = 0.0  # the last
        self._statistics: list[Tensor] = []
        self._remembered: list[Tensor] = []

    # ---- every iteration

    def watch(self, optim: OptimWrapper | OptimWrapperDict) -> None:
        """Put the guard before the steps of each wrapper; doing so again changes nothing."""
        for wrapper in optim_wrappers(optim):
            if "update_params" not in vars(wrapper):
                wrapper.update_params = self._guarded(wrapper, wrapper.update_params)
                wrapper.optimizer.register_step_pre_hook(_check_gradients)

    def remember(self) -> None:
        """Keep the running statistics at the start of an iteration."""
        if not self._remembered:
            self._statistics = list(_running_statistics(self.runner.model))
            self._remembered = [torch.empty_like(tensor) for tensor in self._statistics]
        if self._statistics:
            torch._foreach_copy_(self._remembered, self._statistics)

    def _guarded(self, wrapper: OptimWrapper, update_params: Callable) -> Callable:
        def guarded(loss: Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None) -> None:
            self._loss = loss.item()
            own = None
            if not math.isfinite(self._loss):
                own = Fault.LOSS
            elif self._runs_away(self._loss):
                own = Fault.RUNAWAY
            if all_reduce_max(int(own is not None))[0]:
                self._fault = own or Fault.ELSEWHERE
                self._drop(wrapper)
                wrapper._inner_count += 1  # as the backward pass would have done
                return
            try:
                update_params(loss, step_kwargs, zero_kwargs)
            except _BadGradients:
                self._fault = Fault.GRADIENTS
                self._drop(wrapper)
            scaler = getattr(wrapper, "loss_scaler", None)
            if scaler is not None:
                if self._fault is not None:
                    scaler.update()  # its step was cut short
                if scaler.get_scale() < _SMALLEST_SCALE:
                    self._fault = Fault.GRADIENTS

        return guarded

    def _drop(self, wrapper: OptimWrapper) -> None:
        wrapper.zero_grad()  # with what had been accumulated
        self._restore()

    def _restore(self) -> None:
        if self._remembered:
            with torch.no_grad():
                torch._foreach_copy_(self._statistics, self._remembered)

    def _runs_away(self, value: float) -> bool:
        if value <= self.runaway or "train/loss" not in self.runner.message_hub.log_scalars:
            return False
        recent = self.runner.message_hub.get_scalar("train/loss").data[0][-_RECENT:]
        recent = recent[np.isfinite(recent)]
        return len(recent) >= 10 and value > self.runaway * max(0.0, float(np.median(recent)))

    # ---- after an iteration that was not finite

    def report(self, data_batch: Any, outputs: dict[str, Any] | None) -> None:
        """Name what was wrong, if anything was; all processes call it together after each iteration.

        Raises:
            NonFiniteError: It has happened `patience` times in a row.
            Rollback: Likewise, where the action is to go back.
        """
        if self._fault is None:
            self._in_row = 0
            return
        own, self._fault = self._fault, None
        self._in_row += 1
        causes = dist.all_gather_object(self._cause(own, data_batch, outputs or {}))
        cause = next(filter(None, causes), "a process was not finite")
        iteration = self.runner.iter + 1
        if self._in_row < self.patience:
            # Formatted here: MMEngine's logger drops a warning whose unformatted text it has seen.
            self.runner.logger.warning(
                f"Iteration {iteration}: {cause}. The step is skipped ({self._in_row} of at most {self.patience - 1} "
                "in a row)."
            )
            return
        times = f", {self._in_row} times in a row" if self._in_row > 1 else ""
        text = f"Iteration {iteration}: {cause}{times}"
        self._in_row = 0
        if self.action == "go_back":
            raise Rollback(text)
        raise NonFiniteError(
            f"{text}: no such step was taken, and the checkpoints are good; lower the learning rate, or look at these "
            "images, then go on with --resume."
        )

    def _cause(self, fault: Fault, data_batch: Any, outputs: dict[str, Any]) -> str:
        """Return what was wrong in this process; empty where it was in another one."""
        layer = ""
        if fault is not Fault.RUNAWAY:
            # In all processes, because layers may talk to each other.
            layer = first_layer(self.runner, data_batch)
            self._restore()
        if fault is Fault.ELSEWHERE:
            return ""
        if fault is Fault.GRADIENTS:
            cause = "the gradients are not finite"
        else:
            losses = {name: torch.as_tensor(value).item() for name, value in outputs.items() if "loss" in name}
            terms = {name: value for name, value in losses.items() if name != "loss"} or losses
            bad = {name: value for name, value in terms.items() if not math.isfinite(value)}
            if fault is Fault.RUNAWAY and terms:
                bad = dict([max(terms.items(), key=lambda item: item[1])])
            cause = (
                ", ".join(f"{name} is {_format_value(value)}" for name, value in bad.items())
                or f"the loss is {_format_value(self._loss)}"
            )
            if fault is Fault.RUNAWAY:
                cause += f", far above the usual (more than {self.runaway:g} times)"
            else:
                layer = layer or "every layer's output is finite: the loss itself is not"
        images = images_of(data_batch)
        details = list(filter(None, [f"images {shortened(images, _MOST_IMAGES)}" if images else "", layer]))
        return f"{cause} ({'; '.join(details)})" if details else cause

    # ---- going back

    def count_rollback(self, checkpoint: str) -> float:
        """Count a return to a checkpoint, and return the factor for the learning rates in it.

        Raises:
            NonFiniteError: There have been enough.
        """
        if self._went_back.total() >= self.returns:
            raise NonFiniteError(
                f"The training has gone back {self.returns} times and is still not finite: lower the learning rate or "
                "look at the images named in the log, then go on with --resume."
            )
        self._went_back[checkpoint] += 1
        return self.lower_lr ** self._went_back[checkpoint]


class GuardHook(Hook):
    """Look after each iteration for what has to end the training; hooks of the lowest priority may still follow.

    MMEngine's training loops are exchanged for ours, which stop between two iterations. Loops of others know nothing of
    that, so this hook stops them before the next iteration.
    """

    priority = "LOWEST"

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Do for a loop of others what ours do themselves."""
        if not hasattr(runner.train_loop, "position"):
            runner.between_iterations()
            runner.guard.remember()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        runner.guard.report(data_batch, outputs)

    def after_train(self, runner: Any) -> None:
        """Stop a loop of others where a signal has come in its last iteration or validation."""
        if not hasattr(runner.train_loop, "position"):
            runner.between_iterations()

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """End a validation early where a signal asks for it; all processes together, as long as all have images."""
        signals = runner._signals
        if signals is None or not hasattr(runner.train_loop, "position"):
            return
        loader = runner.val_dataloader
        if batch_idx >= len(loader.dataset) // (batch_size_of(loader) * runner.world_size):
            return
        if received := all_reduce_max(signals.received)[0]:
            raise StopValidation(received)


def scale_learning_rates(runner: Any, factor: float) -> None:
    """Multiply the learning rates, those to come included."""
    for wrapper in optim_wrappers(runner.optim_wrapper):
        for group in wrapper.param_groups:  # with the one of MMEngine's `base_lr`
            for key in ("lr", "initial_lr"):
                if key in group:
                    group[key] *= factor
    schedulers = runner.param_schedulers or []
    several = schedulers.values() if isinstance(schedulers, dict) else [schedulers]  # one list for each optimizer
    for scheduler in itertools.chain.from_iterable(several):
        if scheduler.param_name == "lr":
            scheduler.base_values = [value * factor for value in scheduler.base_values]


# ---- what is not finite


def check_finite(runner: Any) -> None:
    """Check that no weight is NaN or infinite, in every process alike.

    Raises:
        NonFiniteError: One is: nothing is saved.
    """
    name = first_non_finite(runner.model)
    if all_reduce_max(int(name is not None))[0]:
        raise NonFiniteError(
            f"The weights are not finite after iteration {runner.iter + 1} (first: {name or 'in another process'}), so "
            "they are not saved and earlier checkpoints are intact: lower the learning rate or check the data, then "
            "go on with --resume."
        )


def first_non_finite(model: nn.Module) -> str | None:
    """Return the name of the first parameter or running statistic that holds NaN or infinity."""
    names, tensors = [], []
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and ("running_" in name or isinstance(tensor, nn.Parameter)):
            names.append(name)
            tensors.append(tensor.detach())
    # The sum of absolute values is NaN or infinite where one of them is: one reading of the weights, one number each.
    # In float64, because half precision overflows.
    norms = list(torch._foreach_norm(tensors, 1, dtype=torch.float64)) if tensors else []
    if not norms or torch.isfinite(torch.stack(norms)).all():
        return None
    return next(name for name, norm in zip(names, norms, strict=True) if not torch.isfinite(norm))


def first_layer(runner: Any, data_batch: Any) -> str:
    """Run the forward pass of the present iteration again, with its random numbers, and watch every layer.

    Returns:
        Half a sentence with the first layer whose output is not finite, or with what else is known; empty where all
        outputs are finite.
    """
    model: Any = unwrapped(runner.model)
    weight = first_non_finite(model)
    if weight is not None:
        return f"the weight {weight} is not finite"
    found: list[str] = []

    def watch(name: str, layer: nn.Module) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            # A layer that only hands on what it was given is not the first.
            tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            if not found and not all(t.isfinite().all() for t in tensors if t.is_floating_point()):
                found.append(f"{name} ({type(layer).__name__})")

        return layer.register_forward_hook(look)

    handles = [watch(name, layer) for name, layer in model.named_modules() if name]
    try:
        seed_iteration(runner.train_loop.base_seed, runner.iter)
        with torch.no_grad(), optim_wrappers(runner.optim_wrapper)[0].optim_context(model):
            model._run_forward(model.data_preprocessor(data_batch, True), mode="loss")
    except Exception as error:  # a diagnosis is never worth a second failure
        if not found:
            return f"a second look failed with {type(error).__name__}"
    finally:
        for handle in handles:
            handle.remove()
    return f"first in the output of {found[0]}" if found else ""


def images_of(data_batch: Any) -> list[str]:
    """Return the paths of the images of a batch, as far as the samples know them."""
    samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else None
    samples = samples if isinstance(samples, (list, tuple)) else ()
    infos = [sample if isinstance(sample, dict) else getattr(sample, "metainfo", {}) for sample in samples]
    paths = [info.get("img_path") or info.get("img_id") for info in infos]
    return [str(path) for path in paths if path is not None]


def _check_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [grad for grad in gradients if not grad.is_sparse]
    if gradients and not math.isfinite(sum(torch.stack(torch._foreach_norm(gradients)).tolist())):
        raise _BadGradients


def _running_statistics(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            yield from (buffer for buffer in module.buffers(recurse=False))


def _format_value(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite" if math.isinf(value) else f"{value:.4g}"
