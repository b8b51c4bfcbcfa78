"""Resume a training with the settings of its config: MMEngine takes rates and schedules from the checkpoint.

Moments, step counts and the place in the data come from the checkpoint. Schedules that the config has changed are run
anew to the present step, so that rates are those of a training which had these settings from its first step on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoint.networks import backbones_in
from ..checkpoint.search import nothing_to_resume, search
from ..config.run import as_table, changes, run_config
from ..errors import CheckpointError, ConfigError, UserError
from .non_finite import scale_learning_rates
from .processes import unwrapped

_MOVING = ("last_step", "_global_step", "_last_value", "optimizer", "verbose")  # of a schedule, with its steps
_OF_THE_SCALER = ("growth_factor", "backoff_factor", "growth_interval")
_STATEFUL = ("amsgrad", "centered")  # an optimizer with one of them needs a state that one without has not kept
_INSTEAD = "begin anew in another work dir, from these weights with --load-from"
_RATES = ("optim_wrapper.optimizer", "param_scheduler", "train_cfg.max", "auto_scale_lr", "train_dataloader.batch_size")


def newest_checkpoint(runner: Any) -> str | None:
    """Return the newest usable checkpoint of a run, None where it has none yet.

    The first process decides for all: they may see a shared disk differently.

    Raises:
        CheckpointError: There are checkpoints, and none can be used.
    """
    answer: list[Any] = [None]
    if dist.is_main_process():
        try:
            answer[0] = _search(runner)
        except UserError as error:
            answer[0] = error
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], UserError):
        raise answer[0]
    return answer[0]


def _search(runner: Any) -> str | None:
    hook = runner.checkpoint_hook
    found = search(hook.folder(runner) if hook else runner.work_dir)
    newest = found.newest(resumable=True)
    if newest is not None:
        ignored = found.complaints()
        runner.logger.info(
            f"Going on from {newest.path.name} ({newest.place}), the newest usable checkpoint of {found.folder}"
            f"{f'; {ignored}' if ignored else ''}."
        )
        return str(newest.path)
    if found.found or found.damaged:
        raise nothing_to_resume(found)
    runner.logger.warning(
        f"There is no checkpoint in {found.folder} to resume from, so the training starts from the beginning: if there "
        "should be one, correct --work-dir."
    )
    return None


class ConfiguredState:
    """Keep what the config has made of optimizers and schedules, before a checkpoint is loaded over it."""

    def __init__(self, runner: Any) -> None:
        self._parts: dict[str, tuple[list[dict], list[dict], dict]] = {}  # groups, schedules, loss scaler
        for name, (wrapper, schedules) in _optimizers(runner).items():
            groups = [{key: value for key, value in one.items() if key != "params"} for one in wrapper.param_groups]
            scaler = wrapper.loss_scaler.state_dict() if hasattr(wrapper, "loss_scaler") else {}
            scaler = {key: value for key, value in scaler.items() if key in _OF_THE_SCALER}
            self._parts[name] = copy.deepcopy((groups, [one.state_dict() for one in schedules], scaler))
        self._shown = False
        self._anew = False  # whether schedules have to be run to the present step

    def compare(self, runner: Any, checkpoint: Mapping[str, Any], file: str) -> None:
        """Compare with the content of a checkpoint file that is about to be loaded, and show what differs.

        Raises:
            ConfigError: A setting differs with which the training cannot be resumed.
            CheckpointError: The checkpoint has no optimizer, or averaged weights, which this training does not have.
        """
        if not {"meta", "message_hub"} <= checkpoint.keys():
            return  # of no training, which is said where it is loaded
        meta, loop = checkpoint["meta"], runner.train_loop
        _refuse_other_seed(runner, meta)
        place = meta.get("position") or {}
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        if place.get("by_epoch", by_epoch) != by_epoch:
            raise ConfigError(
                f"The training to resume counts {'iterations' if by_epoch else 'epochs'}, and train_cfg counts "
                f"{'epochs' if by_epoch else 'iterations'} now: leave that as it was, or {_INSTEAD}."
            )
        factor = runner.guard.lr_factor = meta.get("lr_factor", 1.0)
        self._anew = by_epoch and place.get("batches", len(loop.dataloader)) != len(loop.dataloader)
        if "optimizer" not in checkpoint:
            raise CheckpointError(
                "The checkpoint to resume from has no optimizer, as best ones have none: take a regular one, or start "
                "from its weights with --load-from."
            )
        if "ema_state_dict" in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            # Only EMAHook puts the two back into their places.
            raise CheckpointError(
                "The checkpoint is of a training with averaged weights (--ema), and this one has none: it would go on "
                "from averages, with an optimizer that belongs to other weights. Give --ema again (without "
                f"`--without ema`), or {_INSTEAD}."
            )
        _refuse_other_model(runner.model, checkpoint["state_dict"])
        for name, (wrapper, _) in _optimizers(runner).items():
            _, states, _ = self._parts[name]
            _refuse_other_optimizer(wrapper, checkpoint["optimizer"][name] if name else checkpoint["optimizer"])
            was = checkpoint.get("param_schedulers") or []
            was = was.get(name, []) if isinstance(was, dict) else was
            differ = len(was) != len(states) or not all(
                _same_schedule(one, other, factor) for one, other in zip(states, was, strict=True)
            )
            if differ and any("num_bad_epochs" in one for one in [*states, *was]):
                raise ConfigError(
                    "param_scheduler differs from that of the training to resume, and its ReduceOnPlateau stands where "
                    f"the validations so far have brought it: leave it as it was, or {_INSTEAD}."
                )
            self._anew |= differ
        if not self._shown:
            self._shown = True
            self._log_changes(runner, meta["iter"], file)

    def apply(self, runner: Any) -> None:
        """Put the config's values over what has been loaded."""
        factor = runner.guard.lr_factor
        for name, (wrapper, schedules) in _optimizers(runner).items():
            groups, states, scaler = self._parts[name]
            scheduled = {one.param_name for one in schedules}
            moving = {*scheduled, *(f"initial_{one}" for one in scheduled)}
            moving |= {"betas"} if "momentum" in scheduled else set()
            for group, own in zip(wrapper.param_groups, groups, strict=False):
                rate = group["lr"]
                group.update(own if self._anew else {key: value for key, value in own.items() if key not in moving})
                if "lr" not in scheduled:
                    group["lr"] = rate if _same(own["lr"], rate, factor) else own["lr"] * factor
            _match_layout(wrapper.optimizer)
            if scaler:
                wrapper.loss_scaler.load_state_dict({**wrapper.loss_scaler.state_dict(), **scaler})
            if self._anew:
                _run_to(runner.train_loop, wrapper, schedules, states)
        if self._anew and factor != 1:
            scale_learning_rates(runner, factor)

    def _log_changes(self, runner: Any, done: int, file: str) -> None:
        # A checkpoint's own config is not asked: see `find_run`.
        run = run_config(Path(file).parent)
        found = changes(run[1], runner.cfg) if run else {}
        applied = f"yes, from iteration {done + 1} on"
        anew = f"yes, schedule rebuilt at iteration {done}" if self._anew else applied
        cells = {key: anew if key.startswith(_RATES) else applied for key in found}
        if found:
            runner.logger.info("Settings that have changed:\n" + as_table(found, ("applied", cells)))
        elif self._anew:
            runner.logger.info(f"The schedule has changed: it is rebuilt at iteration {done}.")


def _optimizers(runner: Any) -> dict[str, tuple[Any, list]]:
    """Return wrappers of optimizers and their schedules, by name; a single one has none."""
    optim, schedules = runner.optim_wrapper, runner.param_schedulers or []
    if not isinstance(optim, OptimWrapperDict):
        return {"": (optim, schedules)}
    return {name: (one, schedules[name] if schedules else []) for name, one in optim.items()}


def _refuse_other_seed(runner: Any, meta: Mapping[str, Any]) -> None:
    was, now = meta.get("seed"), runner._randomness_cfg.get("seed")
    if None not in (was, now) and was != now:
        raise ConfigError(
            f"The seed of the training to resume is {was}, and {now} is given: the order of its data follows from "
            f"it; leave it out (or give --seed {was}), or {_INSTEAD}."
        )


def _match_layout(optimizer: Optimizer) -> None:
    """Bring moments into the memory layout of their weights, which was channels-last in earlier versions.

    Fused optimizers take both for one run of numbers, whatever their strides, and would compute something else.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def _refuse_other_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    model = unwrapped(model)
    saved = {name.removeprefix("module."): value for name, value in saved.items()}
    for prefix, backbone in backbones_in(model).items():
        if any(name.startswith(prefix) and backbone.lacks(name.removeprefix(prefix)) for name in saved):
            raise ConfigError(
                f"The training to resume has stages that out_indices={backbone.out_indices} do not need, which earlier "
                "versions built nevertheless, and its optimizer counts parameters by their place: end it with the "
                f"version that began it, or {_INSTEAD}."
            )
    parameters = dict(model.named_parameters())
    for name, own in parameters.items():
        if name in saved and saved[name].shape != own.shape:
            raise ConfigError(
                f"{name} has the shape {tuple(saved[name].shape)} in the training to resume, and {tuple(own.shape)} by "
                f"the config: leave model and classes as they were, or {_INSTEAD}."
            )
    orders = [name for name in parameters if name in saved], [name for name in saved if name in parameters]
    for now, was in zip(*orders, strict=True):
        if now != was:
            raise ConfigError(
                f"The model has {now} where that of the training to resume has {was}, and its optimizer counts "
                f"parameters by their place: leave the model as it was, or {_INSTEAD}."
            )


def _refuse_other_optimizer(wrapper: Any, saved: Mapping[str, Any]) -> None:
    own, was = wrapper.optimizer.param_groups, saved["param_groups"]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in was]:
        raise ConfigError(
            f"The optimizer of the training to resume has {len(was)} groups of parameters, and the config makes "
            f"{'others' if len(own) == len(was) else len(own)}: leave the model, optim_wrapper.paramwise_cfg and the "
            f"constructor as they were, or {_INSTEAD}."
        )
    now, then = own[0], was[0]
    if (now.keys() - then.keys()) and (then.keys() - now.keys()):
        raise ConfigError(
            f"The optimizer of the training to resume is another one ({', '.join(sorted(then.keys() - now.keys()))} "
            f"are settings of it): leave optim_wrapper.optimizer.type as it was, or {_INSTEAD}."
        )
    if any(now.get(key) and not then.get(key) for key in _STATEFUL):
        raise ConfigError(
            "optim_wrapper.optimizer needs a state (amsgrad, centered) that the training to resume has not kept: leave "
            f"it as it was, or {_INSTEAD}."
        )


def _same_schedule(one: Mapping[str, Any], other: Mapping[str, Any], factor: float) -> bool:
    keys = {key for key in {*one, *other} if key not in _MOVING and not callable(one.get(key, other.get(key)))}
    if "num_bad_epochs" in one and "num_bad_epochs" in other:  # the rest of it is what it has seen
        keys = {"factor", "patience", "threshold", "threshold_rule", "rule", "cooldown", "min_values", "monitor"}
    scaled = {"base_values"} if one.get("param_name") == "lr" else set()
    return all(_same(one.get(key), other.get(key), factor if key in scaled else 1.0) for key in keys)


def _same(one: Any, other: Any, factor: float) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b, factor) for a, b in zip(one, other, strict=True))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one * factor, other, rel_tol=1e-9)
    return one == other


def _run_to(loop: Any, wrapper: Any, schedules: list, states: list[dict]) -> None:
    """Run schedules from their first step to where a loop is, as the training's hook would have done it."""
    by_epoch, batches = isinstance(loop, EpochBasedTrainLoop), len(loop.dataloader)
    steps = loop._pass * batches + loop._batch if by_epoch else loop._iter
    groups = wrapper.param_groups
    # Groups with the same numbers have the same rates in every step; a detector has hundreds of them.
    keys = [repr(sorted((k, v) for k, v in one.items() if isinstance(v, (int, float, tuple)))) for one in groups]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    few = {key: dict(groups[index]) for key, index in first.items()}
    stand_in = SimpleNamespace(param_groups=list(few.values()), step=wrapper.step, _global_step=0)
    for schedule, state in zip(schedules, states, strict=True):
        schedule.load_state_dict(copy.deepcopy(state))
        schedule.optimizer = stand_in
        schedule.base_values = [state["base_values"][first[key]] for key in few]
    for step in range(1, steps + 1):
        for schedule in schedules:
            if not schedule.by_epoch:
                schedule.step()
        # An epoch whose iterations are all done has still to end where a signal came after the last of them.
        if by_epoch and step % batches == 0 and step // batches <= loop._epoch:
            for schedule in schedules:
                if schedule.by_epoch:
                    schedule.step()
    for group, key in zip(groups, keys, strict=True):
        group.update({name: value for name, value in few[key].items() if name != "params"})
    for schedule, state in zip(schedules, states, strict=True):
        schedule.optimizer, schedule.base_values = wrapper, state["base_values"]
        schedule._last_value = [group[schedule.param_name] for group in groups]
