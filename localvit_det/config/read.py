"""Read the file of a config: a program in a .py file, data in a checkpoint."""

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS
from mmengine.utils import import_modules_from_strings

from ..checkpoint.config_text import as_text
from ..checkpoint.exported import is_exported, read_info
from ..checkpoint.read import BuildLimit, load_weights_only, split_key
from ..checkpoint.safe_config import read_config
from ..checkpoint.safe_pickle import TooLarge
from ..checkpoint.search import newest_for_test
from ..config_names import CHECKPOINT_SUFFIXES, EXPORTED_SUFFIXES, config_folder, existing_config
from ..errors import CheckpointError, ConfigError, UserError
from ..requirements import require_named
from .pipelines import task_of
from .run import run_config
from .utils import SPLITS, find_datasets

# Where data, schedule and hooks come from for a model out of a file of weights.
_TASKS = {"mmseg": "semantic segmentation", "mmpretrain": "classification"}  # by scope; a detector says by its pipeline
_DEFAULTS = {
    "object detection": "faster_rcnn_1x",
    "instance segmentation": "mask_rcnn_1x",
    "panoptic segmentation": "panoptic_fpn_1x",
    "semantic segmentation": "sem_fpn_80k",
    "classification": "pretrain_in1k",
}


def read_config_file(path: Path, trusted: bool) -> Config:
    """Read a config, or the one inside a checkpoint.

    Args:
        path: A file, or what else `find_config` knows; or a work dir, whose own config is taken whole.
        trusted: Take the whole config inside a checkpoint, with its imports, types and addresses of others.

    Raises:
        ConfigError: The file is missing or cannot be read.
        CheckpointError: Likewise for a checkpoint, or its config is no plain data.
    """
    path = existing_config(split_key(path)[0])
    if path.is_dir():
        return _read_run(path, trusted)
    try:
        if path.suffix in (*CHECKPOINT_SUFFIXES, *EXPORTED_SUFFIXES):
            return _read_embedded(path, trusted)
        return Config.fromfile(path)
    except UserError:
        raise
    # A config is a program: whatever it raises is a mistake in it.
    except Exception as error:
        if isinstance(error, ModuleNotFoundError):
            require_named(str(error))  # a parent of the config is in a sister library
        if reason := _user_error(error):  # what importing our own package found
            raise reason from error
        raise ConfigError(f"The config {path} cannot be read: {one_line(error)}.") from error


def _read_embedded(path: Path, trusted: bool) -> Config:
    exported = is_exported(path)
    content = {"meta": {"cfg": read_info(path).config}} if exported else load_weights_only(path, mmap=True)
    values = read_config(content, path, trusted)
    if not exported and not trusted:
        _check_model(values, path)
    return _imported(values) if trusted else _completed(values, path)


def _check_model(values: dict[str, Any], path: Path) -> None:
    """Check that a model is not much larger than the weights which it came with, before memory is taken for it.

    One that cannot be built is not looked at: what builds it says why.

    Raises:
        CheckpointError: It is.
    """
    for device in ("meta", "cpu"):  # some parts ask a tensor for its value while they are built
        try:
            with (
                BuildLimit(path.stat().st_size),
                torch.device(device),
                torch.random.fork_rng(devices=[]),
                MODELS.switch_scope_and_registry(values.get("default_scope") or "mmdet") as registry,
            ):
                registry.build(copy.deepcopy(values["model"]))
            return
        except TooLarge as error:
            raise CheckpointError(
                f"The config in {path} is refused: it describes a model that is many times larger than its weights; "
                "give a config file of your own instead of it."
            ) from error
        # Another package's model may raise anything.
        except Exception:
            continue


def _read_run(folder: Path, trusted: bool) -> Config:
    """Return the config that the last training in a work dir has left there, else what its newest checkpoint has."""
    if found := run_config(folder):
        return _imported(read_config({"meta": {"cfg": as_text(found[1])}}, found[0], trusted=True))
    return _read_embedded(newest_for_test(folder), trusted)


def _imported(values: dict[str, Any]) -> Config:
    cfg = Config(values)
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg.custom_imports)
    return cfg


def _completed(values: dict[str, Any], path: Path) -> Config:
    """Return the config of what a file gives, with data, schedule and hooks of ours for its task."""
    steps = values.get("test_pipeline")
    if not steps:
        return Config(values)
    task = _TASKS.get(values.get("default_scope") or "mmdet") or task_of(steps)
    cfg = Config.fromfile(config_folder() / f"_base_/{_DEFAULTS[task]}.py")
    for key in values.keys() - {"metainfo"}:  # not by `update`, which would merge the model into ours
        cfg[key] = values[key]
    metainfo = values.get("metainfo") or {}
    if task in ("object detection", "instance segmentation") and metainfo:
        cfg.classes = tuple(metainfo["classes"])
    for split in SPLITS:
        for _, dataset in find_datasets(cfg, split):
            if split != "train":
                dataset["pipeline"] = copy.deepcopy(steps)
            if metainfo and "classes" not in cfg:
                dataset["metainfo"] = dict(metainfo)
    print_log(f"{path} gives model, classes and test pipeline; all else is the default for {task}.", "current")
    return Config(cfg.to_dict())  # without the name of our own file


def _user_error(error: BaseException | None) -> UserError | None:
    """Return the first error behind another one that is written for users; MMEngine wraps what imports raise."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def one_line(error: BaseException) -> str:
    """Return the kind and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(".: ")
