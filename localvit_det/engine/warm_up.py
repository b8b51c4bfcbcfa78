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


def unfit_epochs(schedulers: Sequence[Mapping[str, Any]], max_epochs: int) -> str | None:
    """A sentence where schedules that count epochs end elsewhere than the training does."""
    by_epoch = [(index, one) for index, one in enumerate(schedulers) if one.get("by_epoch", True)]
    by_epoch = [(index, one) for index, one in by_epoch if isinstance(one.get("end"), int)]
    last = max((one["end"] for _, one in by_epoch), default=max_epochs)
    if last == max_epochs or last <= 0:
        return None
    options = []
    for index, one in by_epoch:
        for key in ("begin", "end", "T_max", "milestones"):
            value = one.get(key)
            if value:
                scaled = [max(1, round(max_epochs * v / last)) for v in (value if isinstance(value, list) else [value])]
                options.append(f"param_scheduler.{index}.{key}={scaled if isinstance(value, list) else scaled[0]}")
    return (
        f"The learning rate's schedule is made for {last} epochs, and the training has {max_epochs}; it would fit with "
        f"--cfg-options {' '.join(options).replace(', ', ',')}."
    )
