"""Schedules of learning rates that fit the length of a training."""

from collections.abc import Mapping, Sequence
from typing import Any

_TOO_LONG = 1 / 3  # of a training: recipes for COCO warm up for a hundredth of it, the demo's for an eighth
_INSTEAD = 1 / 10
_LEAST = 2  # iterations: MMEngine's LinearLR never leaves its first value where it ends after one


def fit_warm_up(schedulers: Sequence[Mapping[str, Any]], max_iters: int) -> tuple[list[dict[str, Any]], str | None]:
    """Cuts a warm-up that would fill most of a training; what begins at its end begins earlier then.

    Args:
        schedulers: Configs of schedulers.
        max_iters: Length of the training in iterations.

    Returns:
        The schedulers, and a sentence if something has changed.
    """
    result = [dict(scheduler) for scheduler in schedulers]
    warm_up = next(filter(_is_warm_up, result), None)
    if warm_up is None or warm_up["end"] <= _TOO_LONG * max_iters:
        return result, None
    old, new = warm_up["end"], max(_LEAST, round(_INSTEAD * max_iters))
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
    kind = str(scheduler.get("type")).rpartition(".")[2]
    first = scheduler.get("begin", 0) == 0 and scheduler.get("by_epoch", True) is False
    return kind == "LinearLR" and rises and first and isinstance(scheduler.get("end"), int)


def unfit_epochs(
    schedulers: Sequence[Mapping[str, Any]], max_epochs: int, hooks: Sequence[Mapping[str, Any]] = ()
) -> str | None:
    """A sentence where schedules that count epochs end elsewhere than the training does, or hooks switch after it."""
    last = max((one["end"] for one in schedulers if one.get("by_epoch", True) and isinstance(one.get("end"), int)),
               default=max_epochs)  # fmt: skip
    if last == max_epochs or last <= 0:
        late = [(key, epoch) for key, epoch in _switches(hooks).items() if epoch >= max_epochs]
        if not late:
            return None
        key, epoch = late[0]
        return f"{key}={epoch} is never reached in a training of {max_epochs} epochs: give a smaller number."
    found = stretched(schedulers, last, max_epochs, by_epoch=True) | stretched_switches(hooks, last, max_epochs)
    options = [f"{key}={value}" for key, value in found.items()]
    return (
        f"The learning rate's schedule is made for {last} epochs, and the training has {max_epochs}; it would fit with "
        f"--cfg-options {' '.join(options).replace(', ', ',')}."
    )


def _switches(hooks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The epochs at which hooks such as RTMDet's exchange the pipeline, by dotted keys."""
    found = {f"custom_hooks.{index}.switch_epoch": hook.get("switch_epoch") for index, hook in enumerate(hooks)}
    return {key: epoch for key, epoch in found.items() if isinstance(epoch, int)}


def stretched_switches(hooks: Sequence[Mapping[str, Any]], old: int, new: int) -> dict[str, int]:
    """Return the options with which hooks that switch at an epoch fit another length: as many last epochs, if they fit.

    Args:
        hooks: Configs of hooks.
        old: The length in epochs that they are made for.
        new: The other one.
    """
    return {
        key: new - (old - epoch) if 0 < old - epoch < new else round(new * epoch / old)
        for key, epoch in _switches(hooks).items()
    }


def stretched(schedulers: Sequence[Mapping[str, Any]], old: int, new: int, by_epoch: bool) -> dict[str, Any]:
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

    options = {}
    for index, one in own:
        for key in ("begin", "end", "T_max", "total_steps", "milestones"):
            if value := one.get(key):
                fitted = [scaled(each) for each in value] if isinstance(value, (list, tuple)) else scaled(value)
                options[f"param_scheduler.{index}.{key}"] = fitted
        begin, end = (options.get(f"param_scheduler.{index}.{key}", 0) for key in ("begin", "end"))
        if "T_max" in one and one["T_max"] == one.get("end", 0) - one.get("begin", 0):
            options[f"param_scheduler.{index}.T_max"] = end - begin
    return options
