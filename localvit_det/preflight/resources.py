"""What a run needs of its machine: processes, a folder to write to with room for checkpoints, and those it loads."""

import copy
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.device import is_mlu_available, is_musa_available, is_npu_available
from torch import nn

from ..checkpoint.read import check_is_checkpoint
from ..checkpoint.safe_config import is_pretrained
from ..checkpoint.search import check_saves_locally, search
from ..config.utils import parts_of, walk
from ..config_names import split_key, type_name
from ..errors import CheckpointError, ConfigError, OutputError
from ..files import what_is_there

# Of each launcher: the variable that every process of it has, the one with how many share a machine, and what
# starts it.
_LAUNCHERS = {
    "pytorch": ("RANK", "LOCAL_WORLD_SIZE", "tools/dist_train.sh or tools/dist_test.sh"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS_PER_NODE", "tools/slurm_train.sh or srun"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "mpirun"),
}
_HOOKS = ("CheckpointHook", "SafeCheckpointHook")
_UNKNOWN = 2  # copies of the trained parameters in an optimizer that is not listed
_COPIES = {"SGD": 0, "ASGD": 1, "Adagrad": 1, "RMSprop": 1, "Lion": 1, "Adadelta": 2, "Adafactor": 0}
_OVERHEAD = 1 << 20  # schedulers, the history of losses, the config


def check_processes(cfg: Config) -> None:
    """Check that the processes of a distributed run find each other, and a GPU each where there are any.

    Raises:
        ConfigError: They were not started by their launcher, or there are fewer GPUs.
    """
    launcher = cfg.get("launcher", "none")
    if launcher not in _LAUNCHERS:
        return
    sign, together, starter = _LAUNCHERS[launcher]
    if sign not in os.environ:
        raise ConfigError(
            f"--launcher {launcher} is for processes that {starter} starts (the variable {sign} is not set): "
            "use that, or leave --launcher out."
        )
    if is_npu_available() or is_mlu_available() or is_musa_available():
        return
    gpus = torch.cuda.device_count()
    if not gpus and launcher == "pytorch":
        return  # on CPUs, by gloo
    if not gpus:
        raise ConfigError(
            f"--launcher {launcher} needs GPUs, and PyTorch finds none here: start the processes with "
            "tools/dist_train.sh or tools/dist_test.sh, which also work on CPUs."
        )
    processes = int(os.environ.get(together, 1))
    if processes > gpus:
        raise ConfigError(
            f"{processes} processes were started on this machine, and PyTorch finds only {gpus} GPU(s): start {gpus}."
        )


def check_work_dir(cfg: Config) -> None:
    """Check that `cfg.work_dir`, which need not exist yet, can be written.

    Raises:
        ConfigError: It cannot, or is no folder of this machine.
    """
    if cfg.get("work_dir") is None:
        return
    if "://" in str(cfg.work_dir):
        raise ConfigError(f"The work-dir {cfg.work_dir} is no folder of this machine: give one with --work-dir.")
    existing = work_dir = Path(cfg.work_dir).absolute()
    try:
        str(work_dir).encode()
    except UnicodeEncodeError:  # PyTorch reads and writes no such paths; a training would end at its first checkpoint
        raise ConfigError(
            f"The name of the work-dir {work_dir} is not in UTF-8: name another one by --work-dir."
        ) from None
    while not existing.exists():
        existing = existing.parent
    try:
        # Trying is the only test that holds for root, read-only mounts and full disks alike.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"The work-dir {work_dir} cannot be written ({existing}: {error.strerror}): "
            "give another one with --work-dir."
        ) from error


def checkpoint_to_resume(cfg: Config) -> str | None:
    """Return the checkpoint that a training goes on from; None where it begins."""
    if not cfg.get("resume"):
        return None
    if cfg.get("load_from"):
        return str(cfg.load_from)
    newest = search(cfg.get("work_dir") or ".").newest(resumable=True, whole=False)
    return None if newest is None else str(newest.path)


def pretrained_init(part: Any) -> dict[str, Any] | None:
    """Return the `init_cfg` of a part that starts from a file; old libraries have a text under `pretrained`."""
    if not isinstance(part, Mapping):
        return None
    inits = part.get("init_cfg") or []
    for init in inits if isinstance(inits, (list, tuple)) else [inits]:
        if is_pretrained(init):
            return dict(init)
    return {"checkpoint": str(part["pretrained"])} if part.get("pretrained") else None


def check_checkpoints(cfg: Config, train: bool) -> None:
    """Check that the local checkpoints which a run will load exist and begin like checkpoints.

    Raises:
        CheckpointError: One does not.
    """
    named = {key: cfg.get(key) for key in ("load_from", "resume")}
    if train:  # a test never initializes weights
        for path, node in walk(cfg.get("model"), "model"):
            if is_pretrained(node):
                named[f"{path}.checkpoint"] = node.get("checkpoint")
    for key, checkpoint in named.items():
        if not isinstance(checkpoint, str) or "://" in checkpoint:
            continue
        file = Path(split_key(checkpoint)[0]).expanduser()
        if file.is_file():
            check_is_checkpoint(file)
            continue
        file = file.absolute()
        what = f"is a folder, not a file: {file}" if file.is_dir() else f"does not exist: {file}"
        raise CheckpointError(f"The checkpoint of {key} {what} ({what_is_there(file)}).")


def check_space(cfg: Config) -> None:
    """Check that the checkpoints which a training keeps at once fit on the disk; they go to no other place.

    Counted are weights, the optimizer's moments, and averaged weights; `max_keep_ckpts` files, the best one, and the
    one that is being written. Without `max_keep_ckpts` it is every checkpoint of the training.

    Raises:
        OutputError: They do not.
        ConfigError: The config saves them elsewhere.
    """
    hook = (cfg.get("default_hooks") or {}).get("checkpoint", {"type": "CheckpointHook", "interval": 1})
    folder = _folder(cfg, hook)
    if folder is None or cfg.get("strategy"):  # of others, who save in their own way
        return
    model = build_on_meta(cfg)
    if model is None:
        return
    weights, full = checkpoint_bytes(cfg, hook, model)
    needed, sentence = _all_files(cfg, hook, weights, full)
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    # A resumed training removes its checkpoints in time, as far as it is known without reading them.
    replaced = [path.stat().st_size for path in folder.glob("*.pth") if path.is_file()] if cfg.get("resume") else []
    if needed <= free + sum(replaced):
        return
    advice = "" if hook.get("max_keep_ckpts", -1) == 1 else "set default_hooks.checkpoint.max_keep_ckpts=1, "
    raise OutputError(
        f"The checkpoints of this training need {_size(needed)} ({sentence}), and {_size(free)} are free at "
        f"{existing}: make room, {advice}or give another place with --work-dir."
    )


def checkpoint_bytes(cfg: Config, hook: dict, model: nn.Module) -> tuple[int, int]:
    """Return the bytes of a checkpoint without and with what a training needs to go on.

    Args:
        hook: The config of the hook that saves.
        model: May be on the meta device.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    if any(parts_of([cfg.get("custom_hooks"), cfg.get("default_hooks")], "EMAHook")):
        weights *= 2
    full = weights + _OVERHEAD
    wrapper = cfg.get("optim_wrapper") or {}
    if hook.get("save_optimizer", True):
        optimizer = wrapper.get("optimizer") or {}
        kind = type_name(optimizer)
        options = ("amsgrad", "centered", *(("momentum",) if kind in ("SGD", "RMSprop") else ()))
        full += trained * (_COPIES.get(kind, _UNKNOWN) + sum(bool(optimizer.get(option)) for option in options))
    if wrapper.get("accumulative_counts", 1) > 1:
        full += trained  # gradients that wait for more
    return weights + _OVERHEAD, full


def _all_files(cfg: Config, hook: dict, weights: int, full: int) -> tuple[int, str]:
    """Return the bytes on the disk at the worst moment, and what they are of."""
    kept, saves, interval = hook.get("max_keep_ckpts", -1), 1, hook.get("interval", -1)
    steps = (cfg.get("train_cfg") or {}).get("max_epochs" if hook.get("by_epoch", True) else "max_iters")
    if interval > 0 and isinstance(steps, int):  # else it depends on the number of images
        saves = max(1, steps // interval + bool(hook.get("save_last", True) and steps % interval))
    count = saves if kept < 1 else min(kept, saves) + 1  # the next one is there before the oldest goes
    count += hook.get("every_minutes") is not None
    best = hook.get("save_best")
    bests = len(best) if isinstance(best, (list, tuple)) else int(bool(best))
    sentence = f"{count} of {_size(full)}"
    if bests:
        sentence += f", {bests} best of {_size(weights)}"
    return count * full + bests * weights, sentence


def _folder(cfg: Config, hook: Any) -> Path | None:
    """Return where checkpoints go; None where nothing is saved."""
    if not isinstance(hook, dict) or type_name(hook) not in _HOOKS or cfg.get("work_dir") is None:
        return None
    check_saves_locally(hook)
    out_dir = hook.get("out_dir")
    return Path(out_dir, Path(cfg.work_dir).name).absolute() if out_dir else Path(cfg.work_dir).absolute()


def build_on_meta(cfg: Config) -> nn.Module | None:
    """Return the model without memory for its weights; None where it cannot be built so."""
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
