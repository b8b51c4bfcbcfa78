"""Room on the disk for the checkpoints of a training."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from ..config.parts import walk
from ..errors import OutputError

_HOOKS = ("CheckpointHook", "mmengine.CheckpointHook", "SafeCheckpointHook", "mmdet.SafeCheckpointHook")
_UNKNOWN = 2  # copies of the trained parameters in an optimizer that is not listed
_COPIES = {
    "SGD": 0,
    "ASGD": 1,
    "Adagrad": 1,
    "RMSprop": 1,
    "Lion": 1,
    "Adadelta": 2,
    "Adafactor": 0,
}
_BESIDE = 1 << 20  # schedulers, the history of losses, the config


def check_space(cfg: Config) -> None:
    """Checks that the checkpoints which a training keeps at once fit on the disk.

    Counted are weights, the optimizer's moments, and averaged weights; `max_keep_ckpts` files, the best one, and the
    one that is being written. Without `max_keep_ckpts` it is every checkpoint of the training.

    Raises:
        OutputError: They do not.
    """
    hook = (cfg.get("default_hooks") or {}).get("checkpoint", {"type": "CheckpointHook", "interval": 1})
    folder = _folder(cfg, hook)
    if folder is None or cfg.get("strategy"):  # of others, who save in their own way
        return
    model = model_on_no_device(cfg)
    if model is None:
        return
    weights, full = checkpoint_bytes(cfg, hook, model)
    needed, sentence = _all_files(cfg, hook, weights, full)
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    replaced = _replaced(folder) if cfg.get("resume") else 0
    if needed <= free + replaced:
        return
    advice = "" if hook.get("max_keep_ckpts", -1) == 1 else "set default_hooks.checkpoint.max_keep_ckpts=1, "
    raise OutputError(
        f"The checkpoints of this training need {_size(needed)} ({sentence}), and {_size(free)} are free at "
        f"{existing}: make room, {advice}or give another place with --work-dir."
    )


def checkpoint_bytes(cfg: Config, hook: dict, model: nn.Module) -> tuple[int, int]:
    """Bytes of a checkpoint without and with what a training needs to go on.

    Args:
        hook: The config of the hook that saves.
        model: May be on the meta device.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    hooks = [*(cfg.get("custom_hooks") or []), *(cfg.get("default_hooks") or {}).values()]
    if any(isinstance(node, dict) and node.get("type") in ("EMAHook", "mmengine.EMAHook") for node in hooks):
        weights *= 2
    full = weights + _BESIDE
    wrapper = cfg.get("optim_wrapper") or {}
    if hook.get("save_optimizer", True):
        full += trained * _moments(wrapper.get("optimizer") or {})
    if wrapper.get("accumulative_counts", 1) > 1:
        full += trained  # gradients that wait for more
    return weights + _BESIDE, full


def _moments(optimizer: dict) -> int:
    """Copies of the trained parameters that an optimizer keeps."""
    kind = str(optimizer.get("type", "")).rpartition(".")[2]
    copies = _COPIES.get(kind, _UNKNOWN)
    if kind == "SGD" or (kind == "RMSprop" and optimizer.get("momentum")):
        copies += bool(optimizer.get("momentum"))
    return copies + bool(optimizer.get("amsgrad")) + bool(optimizer.get("centered"))


def _all_files(cfg: Config, hook: dict, weights: int, full: int) -> tuple[int, str]:
    """Bytes on the disk at the worst moment, and of what they are."""
    kept = hook.get("max_keep_ckpts", -1)
    saves = _saves(cfg, hook)
    count = saves if kept < 1 else min(kept, saves) + 1  # the next one is there before the oldest goes
    count += hook.get("every_minutes") is not None
    best = hook.get("save_best")
    bests = len(best) if isinstance(best, (list, tuple)) else int(bool(best))
    sentence = f"{count} of {_size(full)}"
    if bests:
        sentence += f", {bests} best of {_size(weights)}"
    return count * full + bests * weights, sentence


def _saves(cfg: Config, hook: dict) -> int:
    """How often a training saves; 1 where that hangs on the number of its images."""
    interval = hook.get("interval", -1)
    train = cfg.get("train_cfg") or {}
    steps = train.get("max_epochs" if hook.get("by_epoch", True) else "max_iters")
    if interval < 1 or not isinstance(steps, int):
        return 1
    return max(1, steps // interval + bool(hook.get("save_last", True) and steps % interval))


def _folder(cfg: Config, hook: Any) -> Path | None:
    """Where checkpoints go; None where nothing is saved, or not to a local disk."""
    if not isinstance(hook, dict) or hook.get("type") not in _HOOKS or cfg.get("work_dir") is None:
        return None
    out_dir = hook.get("out_dir")
    if "://" in str(out_dir) or hook.get("file_client_args") or hook.get("backend_args"):
        return None
    return Path(out_dir, Path(cfg.work_dir).name).absolute() if out_dir else Path(cfg.work_dir).absolute()


def _replaced(folder: Path) -> int:
    """Bytes of what a resumed training removes in time, as far as it can be told without reading: its checkpoints."""
    return sum(path.stat().st_size for path in folder.glob("*.pth") if path.is_file())


def model_on_no_device(cfg: Config) -> nn.Module | None:
    """The model without memory for its weights; None where it cannot be built so."""
    model = copy.deepcopy(cfg.model)
    for _, node in walk(model):
        node.pop("init_cfg", None)  # which may name files
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return MODELS.build(model)
    except Exception:  # another package's model: the run itself will say what is wrong with it
        return None


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
