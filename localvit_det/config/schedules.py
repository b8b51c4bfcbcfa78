"""Schedules of the learning rate that fit the training: MMEngine's, whose settings are fitted before they are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config_names import type_name

_WARM_UP_LIMIT = 1 / 3  # of a training: recipes for COCO warm up for a hundredth of it, the demo's for an eighth
_SHORT_WARM_UP = 1 / 10
_SHORTEST_WARM_UP = 2  # iterations: MMEngine's LinearLR never leaves its first value where it ends after one


def fit_warm_up(schedulers: Sequence[Mapping[str, Any]], max_iters: int) -> tuple[list[dict[str, Any]], str | None]:
    """Cut a warm-up that would fill most of a training; what begins at its end begins earlier then.

    Args:
        schedulers: Configs of schedulers.
        max_iters: Length of the training in iterations.

    Returns:
        The schedulers, and a sentence if something has changed.
    """
    result = [dict(scheduler) for scheduler in schedulers]
    warm_up = next(filter(_is_warm_up, result), None)
    if warm_up is None or warm_up["end"] <= _WARM_UP_LIMIT * max_iters:
        return result, None
    old, new = warm_up["end"], max(_SHORTEST_WARM_UP, round(_SHORT_WARM_UP * max_iters))
    if new >= old:
        return result, None
    warm_up["end"] = new
    for scheduler in result:
        if scheduler.get("by_epoch", True) is False and scheduler.get("begin") == old:
            scheduler["begin"] = new
            if "T_max" in scheduler:
                scheduler["T_max"] += old - new
    return result, (
        f"The warm-up of {old} iterations would fill most of this training of {max_iters}: it is cut to {new} "
        "(fit_warmup=False keeps it)."
    )


def _is_warm_up(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler raises the learning rate over the first iterations."""
    rises = scheduler.get("start_factor", 1 / 3) < scheduler.get("end_factor", 1.0)
    first = scheduler.get("begin", 0) == 0 and scheduler.get("by_epoch", True) is False
    return type_name(scheduler) == "LinearLR" and rises and first and isinstance(scheduler.get("end"), int)


def explain_unfit_epochs(
    schedulers: Sequence[Mapping[str, Any]], max_epochs: int, hooks: Sequence[Mapping[str, Any]] = ()
) -> str | None:
    """Return a sentence where schedules that count epochs end elsewhere than the training, or hooks switch after it."""
    ends = [one.get("end") for one in schedulers if one.get("by_epoch", True)]
    last = max((end for end in ends if isinstance(end, int)), default=max_epochs)
    if last == max_epochs or last <= 0:
        late = [f"{key}={epoch}" for key, epoch in _switches(hooks).items() if epoch >= max_epochs]
        if not late:
            return None
        return f"{late[0]} is never reached in a training of {max_epochs} epochs: give a smaller number."
    found = stretch_schedules(schedulers, last, max_epochs, by_epoch=True) | stretch_switches(hooks, last, max_epochs)
    options = " ".join(f"{key}={value}" for key, value in found.items()).replace(", ", ",")
    return (
        f"The learning rate's schedule is made for {last} epochs, and the training has {max_epochs}; it would fit with "
        f"--cfg-options {options}."
    )


def _switches(hooks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the epochs at which hooks such as RTMDet's exchange the pipeline, by dotted keys."""
    found = {f"custom_hooks.{index}.switch_epoch": hook.get("switch_epoch") for index, hook in enumerate(hooks)}
    return {key: epoch for key, epoch in found.items() if isinstance(epoch, int)}


def follow_length(cfg: Mapping[str, Any], old: int, new: int, by_epoch: bool = True) -> dict[str, Any]:
    """Return the options with which all of a config that is made for a length of training fits another one.

    Args:
        cfg: The config.
        old: The length, in epochs or iterations.
        new: The other one.
        by_epoch: Which of the two.
    """
    schedules = cfg.get("param_scheduler") or []
    options = stretch_schedules(schedules, old, new, by_epoch) if isinstance(schedules, list) else {}
    if by_epoch:
        options |= stretch_switches(cfg.get("custom_hooks") or [], old, new)
        if intervals := (cfg.get("train_cfg") or {}).get("dynamic_intervals"):
            moved = [(_from_the_end(begin, old, new), interval) for begin, interval in intervals]
            options["train_cfg.dynamic_intervals"] = moved
    return options


def stretch_switches(hooks: Sequence[Mapping[str, Any]], old: int, new: int) -> dict[str, int]:
    """Return the options with which hooks that switch at an epoch fit another length: as many last epochs, if they fit.

    Args:
        hooks: Configs of hooks.
        old: The length in epochs that they are made for.
        new: The other one.
    """
    return {key: _from_the_end(epoch, old, new) for key, epoch in _switches(hooks).items()}


def _from_the_end(epoch: int, old: int, new: int) -> int:
    return new - (old - epoch) if 0 < old - epoch < new else round(new * epoch / old)


def stretch_schedules(schedulers: Sequence[Mapping[str, Any]], old: int, new: int, by_epoch: bool) -> dict[str, Any]:
    """Return the options with which schedules that are made for a length fit another one.

    Args:
        schedulers: Configs of schedulers.
        old: The length, in epochs or iterations.
        new: The other one.
        by_epoch: Which of the two. A warm-up in iterations keeps its length, and what follows it its begin.

    Returns:
        Values by dotted keys; none where no schedule ends with the length.
    """
    own = [(index, one) for index, one in enumerate(schedulers) if bool(one.get("by_epoch", True)) == by_epoch]
    kept = max((one["end"] for _, one in own if _is_warm_up(one)), default=0)
    own = [(index, one) for index, one in own if not _is_warm_up(one)]
    if old not in [one.get("end", one.get("begin", 0) + one.get("T_max", 0)) for _, one in own]:
        return {}

    def scaled(value: int) -> int:
        return value if value <= kept else max(1, round(new * value / old))

    options: dict[str, Any] = {}
    for index, one in own:
        for key in ("begin", "end", "T_max", "total_steps", "milestones"):
            if value := one.get(key):
                fitted = [scaled(each) for each in value] if isinstance(value, (list, tuple)) else scaled(value)
                options[f"param_scheduler.{index}.{key}"] = fitted
        begin, end = (options.get(f"param_scheduler.{index}.{key}", 0) for key in ("begin", "end"))
        if "T_max" in one and one["T_max"] == one.get("end", 0) - one.get("begin", 0):
            options[f"param_scheduler.{index}.T_max"] = end - begin
    return options
