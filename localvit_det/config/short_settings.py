"""Short settings, by the names that Ultralytics gave them, and schedules that fit the length of a training.

`epochs=50 batch=4 lr=1e-4 imgsz=800 workers=4`, as options of the commands and in `load_config`: each stands for the
settings of a config that go together. Schedules are MMEngine's, whose settings are fitted before they are built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..config_names import type_name
from ..errors import ConfigError
from .utils import SPLITS

_WARM_UP_LIMIT = 1 / 3  # of a training: recipes for COCO warm up for a hundredth of it, the demo's for an eighth
_SHORT_WARM_UP = 1 / 10
_RATE = "optim_wrapper.optimizer.lr"
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


def expand_short(cfg: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with what short settings stand for in their place; the log says what that is.

    What a setting itself stands for takes its place among the options, of which later ones count. What follows from it
    (schedules of another length, a rate for another batch) leaves alone what is set by its own name. A rate that is
    set so means what it means in MMEngine: `auto_scale_lr` stays as the config has it.

    Args:
        cfg: The config without the options.
        options: Dotted keys and values that have been read.

    Raises:
        ConfigError: A value makes no sense, or the config has no place for it.
    """
    expanded: dict[str, Any] = {}
    following: dict[str, Any] = {}
    said = []
    for name, value in options.items():
        if name not in SHORT:
            expanded[name] = value
            continue
        own, follows = SHORT[name](cfg, value)
        if name == "batch" and options.keys() & {"lr", _RATE}:  # the rate has been chosen
            follows = {}
        expanded |= own
        following |= follows
        set_now = ", ".join(f"{key}={new}" for key, new in {**own, **follows}.items() if key not in options)
        said.append(f"{name}={value}: {set_now}")
    if said:
        print_log(f"{'; '.join(said)}.", "current")
    return {**{key: value for key, value in following.items() if key not in expanded}, **expanded}


_Settings = dict[str, Any]


def _epochs(cfg: Config, value: object) -> tuple[_Settings, _Settings]:
    new, loop = _count("epochs", value, 1), cfg.get("train_cfg") or {}
    old = loop.get("max_epochs")
    if old is None:
        raise ConfigError(
            f"epochs={value} does not fit a config that counts iterations ({loop.get('max_iters', 'none')}): set "
            "train_cfg.max_iters."
        )
    return {"train_cfg.max_epochs": new}, follow_length(cfg, old, new)


def _batch(cfg: Config, value: object) -> tuple[_Settings, _Settings]:
    if "train_dataloader" not in cfg:
        raise ConfigError(f"batch={value} has no effect: the config has no train_dataloader.")
    scaled = {"auto_scale_lr.enable": True} if "base_batch_size" in (cfg.get("auto_scale_lr") or {}) else {}
    return {"train_dataloader.batch_size": _count("batch", value, 1)}, scaled


def _rate(cfg: Config, value: object) -> tuple[_Settings, _Settings]:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"lr={value} is no learning rate: give a number above 0, for example 1e-4.")
    old = cfg.get("optim_wrapper", {}).get("optimizer", {}).get("lr")
    follows: _Settings = {  # the rate at which a schedule ends hangs on the one at which it begins
        f"param_scheduler.{index}.eta_min": one["eta_min"] * value / old
        for index, one in enumerate(cfg.get("param_scheduler") or [])
        if old and one.get("eta_min")
    }
    if cfg.get("auto_scale_lr"):
        follows["auto_scale_lr.enable"] = False  # the rate is for the batch that it was given with
    return {_RATE: float(value)}, follows


def _workers(cfg: Config, value: object) -> tuple[_Settings, _Settings]:
    count = _count("workers", value, 0)
    own: _Settings = {}
    for loader in (f"{split}_dataloader" for split in SPLITS):
        if cfg.get(loader):
            own[f"{loader}.num_workers"] = count
            if not count:  # PyTorch refuses both without workers
                own[f"{loader}.persistent_workers"] = False
                if "prefetch_factor" in cfg[loader]:
                    own[f"{loader}.prefetch_factor"] = None
    return own, {}


def _count(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}={value} is no count: give a whole number from {least} on.")
    return value


SHORT: dict[str, Callable[[Config, Any], tuple[_Settings, _Settings]]] = {
    "epochs": _epochs,
    "batch": _batch,
    "lr": _rate,
    "imgsz": lambda cfg, value: ({"image_size": value}, {}),
    "workers": _workers,
}

# The short names of settings that stand alone elsewhere, for whoever asks for them by a third one.
SHORTER = {
    "train_cfg.max_epochs": "epochs",
    "train_dataloader.batch_size": "batch",
    _RATE: "lr",
    "image_size": "imgsz",
    "train_dataloader.num_workers": "workers",
}
