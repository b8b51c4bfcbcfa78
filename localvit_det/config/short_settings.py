"""Short settings, by the names that Ultralytics gave them: each stands for the settings of a config that go together.

`epochs=50 batch=4 lr=1e-4 imgsz=800 workers=4`, as options of the commands and in `load_config`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..errors import ConfigError
from .schedules import follow_length
from .utils import SPLITS


def expand_short(cfg: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with what short settings stand for in their place; the log says what that is.

    What a setting itself stands for takes its place among the options, of which later ones count. What follows from it
    (schedules of another length, a rate for another batch) leaves alone what is set by its own name.

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
        expanded |= own
        following |= follows
        set_now = ", ".join(f"{key}={new}" for key, new in {**own, **follows}.items() if key not in options)
        said.append(f"{name}={value}: {set_now}")
    if said:
        print_log(f"{'; '.join(said)}.", "current")
    if {"lr", "optim_wrapper.optimizer.lr"} & options.keys():
        following["auto_scale_lr.enable"] = False  # the rate is for the batch that it was given with
    if "auto_scale_lr" not in cfg:
        following.pop("auto_scale_lr.enable", None)
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
    follows = {  # the rate at which a schedule ends hangs on the one at which it begins
        f"param_scheduler.{index}.eta_min": one["eta_min"] * value / old
        for index, one in enumerate(cfg.get("param_scheduler") or [])
        if old and one.get("eta_min")
    }
    return {"optim_wrapper.optimizer.lr": float(value)}, follows


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
    "optim_wrapper.optimizer.lr": "lr",
    "image_size": "imgsz",
    "train_dataloader.num_workers": "workers",
}
