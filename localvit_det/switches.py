"""Switches of `localvit train`: each is a change of the config that people would have to look up otherwise.

A new switch is a function here and its line in `SWITCHES`: the command takes its arguments from there, a run remembers
it, `--resume` repeats it and `--without` leaves it out. A function imports what it needs of PyTorch and MMDetection by
itself, as arguments are read before these are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .config_names import type_name
from .errors import ConfigError
from .requirements import require_package

if TYPE_CHECKING:
    from mmengine.config import Config

# What --log takes: the backend, and the module that it needs.
LOGGERS = {
    "tensorboard": ("TensorboardVisBackend", "tensorboard"),
    "wandb": ("WandbBackend", "wandb"),
    "mlflow": ("MLflowBackend", "mlflow"),
}
_MODULES = {**dict(LOGGERS.values()), "WandbVisBackend": "wandb", "MLflowVisBackend": "mlflow"}
EMA_MOMENTUM = 2e-4
PATIENCE = 5


def enable_amp(cfg: Config) -> None:
    """`--amp`: mixed precision: float16 on a GPU, bfloat16 on a CPU; raise ConfigError for the config's own wrapper."""
    kind = type_name(cfg.optim_wrapper)
    if kind not in ("", "OptimWrapper", "AmpOptimWrapper", "CpuBf16OptimWrapper"):
        raise ConfigError(f"--amp would replace the optim_wrapper of type {kind}: leave one of the two out.")
    import torch

    if torch.cuda.is_available():
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
        return
    cfg.optim_wrapper.type = "CpuBf16OptimWrapper"
    for key in ("loss_scale", "dtype"):  # of float16
        cfg.optim_wrapper.pop(key, None)


def seed(cfg: Config, number: int) -> None:
    """`--seed`: fix the random numbers."""
    cfg.setdefault("randomness", {})
    cfg.randomness.seed = number


def compute_alike(cfg: Config) -> None:
    """`--deterministic`: take the same way through every operator each time; some are slower, a few refuse."""
    cfg.setdefault("randomness", {})
    cfg.randomness.deterministic = True
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses


def scale_rate(cfg: Config) -> None:
    """`--auto-scale-lr`: scale the learning rate with the batch size; ConfigError where it is for an unknown one."""
    if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
        raise ConfigError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config.")
    cfg.auto_scale_lr.enable = True


def average_weights(cfg: Config, momentum: float) -> None:
    """`--ema`: validate, save and publish a moving average of the weights instead of the last ones.

    RTMDet's: the average forgets fast at first, so that it is of use in short trainings as well, and BatchNorm's
    statistics are averaged with the weights that they belong to. An EMAHook that the config has stays as it is.

    Args:
        momentum: Share of the newest weights, later in the training.

    Raises:
        ConfigError: It is no share, or not that of the EMAHook that the config has.
    """
    if not 0 < momentum < 1:
        raise ConfigError(f"--ema {momentum:g} is no share of the newest weights: give a number between 0 and 1.")
    for number, hook in enumerate(cfg.get("custom_hooks") or []):
        if type_name(hook) == "EMAHook":
            if momentum not in (EMA_MOMENTUM, hook.get("momentum")):
                raise ConfigError(
                    f"--ema {momentum:g} does not change the EMAHook that the config has: give --ema alone, or set "
                    f"custom_hooks.{number}.momentum={momentum:g}."
                )
            return
    hook = {"type": "EMAHook", "ema_type": "ExpMomentumEMA", "momentum": momentum, "update_buffers": True}
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), hook]


def stop_early(cfg: Config, patience: int) -> None:
    """`--early-stop`: end the training after so many validations (`patience`) without a new best one.

    Raises:
        ConfigError: There are no validations, or the patience is no count.
    """
    if patience < 1:
        raise ConfigError(f"--early-stop {patience} is no count of validations: give 1 or more.")
    if not cfg.get("val_dataloader") or not cfg.get("val_cfg"):
        raise ConfigError("--early-stop looks at validations, and the config has none: give it a val_dataloader.")
    others = [hook for hook in cfg.get("custom_hooks") or [] if type_name(hook) != "EarlyStopHook"]
    cfg.custom_hooks = [*others, {"type": "EarlyStopHook", "patience": patience}]


def log_to(cfg: Config, names: Sequence[str]) -> None:
    """`--log`: send losses, metrics and the config to these loggers, too, keys of `LOGGERS`."""
    visualizer = cfg.setdefault("visualizer", {"type": "DetLocalVisualizer", "name": "visualizer"})
    backends = list(visualizer.get("vis_backends") or [{"type": "LocalVisBackend"}])
    there = set(map(type_name, backends))
    name = Path(cfg.work_dir).name
    for logger in dict.fromkeys(names):
        backend = LOGGERS[logger][0]
        if backend not in there:
            backends.append({"type": backend, **({} if logger == "tensorboard" else {"run_name": name})})
    visualizer["vis_backends"] = backends


def check_loggers(cfg: Config) -> None:
    """Raise RequirementError where something that the config logs to is not installed."""
    from .config.utils import walk

    for _, backend in walk((cfg.get("visualizer") or {}).get("vis_backends")):
        if (kind := type_name(backend)) in _MODULES:
            require_package(_MODULES[kind], kind)


def freeze(cfg: Config, stages: int) -> None:
    """`--freeze`: leave the stem and the first stages (0: none) of the backbone as they are.

    Raises:
        ConfigError: The backbone has not so many, cannot do it, or would keep random weights.
    """
    from mmdet.registry import MODELS

    from .config.utils import default_of, registered, walk

    nodes = walk(cfg.get("model"), "model")
    found = [(f"{path}.backbone", node["backbone"]) for path, node in nodes if isinstance(node.get("backbone"), dict)]
    if not found:
        raise ConfigError(f"--freeze {stages} has no effect: the model of the config has no backbone.")
    for path, backbone in found:
        cls = registered(MODELS, backbone)
        if cls is None or default_of(cls, "frozen_stages") is None:  # such a default is a number
            raise ConfigError(f"--freeze: {path} {backbone.get('type')} cannot freeze stages: leave it out.")
        count = _stages(cls, backbone)
        if not 0 <= stages <= count:
            raise ConfigError(f"--freeze {stages}: {path} {backbone['type']} has {count} stages: give 0 to {count}.")
        started = backbone.get("init_cfg") or backbone.get("pretrained") or cfg.get("load_from") or cfg.get("resume")
        if not started:
            raise ConfigError(
                f"--freeze {stages} would keep random weights: give --pretrained, --load-from or --resume as well."
            )
        backbone["frozen_stages"] = stages


def decay_layers(cfg: Config, rate: float) -> None:
    """`--layer-decay`: let learning rates fall from the heads down to the stem, by `rate` from layer to layer.

    Raises ConfigError where it is no such number, or the config has an optimizer's constructor of its own.
    """
    if not 0 < rate <= 1:
        raise ConfigError(f"--layer-decay {rate:g} is no rate: give a number above 0 and up to 1, for example 0.9.")
    own = cfg.optim_wrapper.get("constructor", "LayerDecayConstructor")
    if own not in ("LayerDecayConstructor", "BackboneConstructor", "DefaultOptimWrapperConstructor"):
        raise ConfigError(f"--layer-decay would replace the optim_wrapper.constructor {own}: leave one of the two out.")
    cfg.optim_wrapper.setdefault("paramwise_cfg", {})
    cfg.optim_wrapper.paramwise_cfg["layer_decay"] = rate
    if "constructor" not in cfg.optim_wrapper:  # a recipe in which everything decays
        cfg.optim_wrapper.paramwise_cfg.setdefault("exempt", False)
    cfg.optim_wrapper.constructor = "LayerDecayConstructor"


def _stages(cls: type, backbone: dict) -> int:
    """Return how many stages a backbone has, as far as its config or its class tells; four otherwise."""
    from .backbones import LocalViT
    from .config.utils import default_of

    if issubclass(cls, LocalViT):
        return len(backbone.get("depths") or cls.resolve_arch(backbone.get("arch", default_of(cls, "arch")))["depths"])
    if "num_stages" in backbone:
        return backbone["num_stages"]
    depths = backbone.get("depths", default_of(cls, "depths"))
    return len(depths) if isinstance(depths, (list, tuple)) else 4


class Switch(NamedTuple):
    """A switch of `localvit train`: what changes a config by the value that was given; arguments of `add_argument`."""

    apply: Callable[[Config, Any], None]
    argument: dict[str, Any]


def _on(help: str) -> dict[str, Any]:
    return {"action": "store_const", "const": True, "help": help}


def _takes(kind: type, metavar: str, help: str, alone: float | None = None) -> dict[str, Any]:
    """Return the arguments of an option with a value; `alone` is what the option means without one."""
    given = {"type": kind, "metavar": metavar, "help": help}
    return given if alone is None else {**given, "nargs": "?", "const": alone}


# In this order they are applied; `amp` is `--amp` and so on.
SWITCHES = {
    "amp": Switch(lambda cfg, _: enable_amp(cfg), _on("mixed precision: float16 on GPUs, bfloat16 on CPUs")),
    "auto_scale_lr": Switch(lambda cfg, _: scale_rate(cfg), _on("scale the learning rate with the batch size")),
    "seed": Switch(seed, _takes(int, "N", "the same random numbers in each run")),
    "deterministic": Switch(lambda cfg, _: compute_alike(cfg), _on("the same sums in each run on a GPU, too: slower")),
    "ema": Switch(
        average_weights,
        _takes(float, "MOMENTUM", "validate, save and publish a moving average of the weights", EMA_MOMENTUM),
    ),
    "early_stop": Switch(
        stop_early,
        _takes(
            int, "PATIENCE", f"stop after so many validations without a new best one (default {PATIENCE})", PATIENCE
        ),
    ),
    "log": Switch(
        log_to,
        {"nargs": "+", "choices": [*LOGGERS], "metavar": "LOGGER", "help": f"log there, too: {', '.join(LOGGERS)}"},
    ),
    "freeze": Switch(freeze, _takes(int, "N", "leave the backbone's stem and first N stages as they are")),
    "layer_decay": Switch(decay_layers, _takes(float, "RATE", "let learning rates fall by layer, for example 0.9")),
}
