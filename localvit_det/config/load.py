"""Load a config and complete what the user should not have to repeat.

`load_config` is the whole way, from top to bottom: read → options → data → augmentation → sizes → channels and classes
→ hooks. What is read is a program in a .py file, or data in a checkpoint.
"""

import copy
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from ..checkpoint.exported import is_exported, read_info
from ..checkpoint.matching import POLICIES
from ..checkpoint.read import check_build_size, load_weights_only
from ..checkpoint.safe_config import read_config, without_its_run
from ..checkpoint.search import newest_for_test
from ..config_names import (
    CHECKPOINT_SUFFIXES,
    EXPORTED_SUFFIXES,
    config_folder,
    existing_config,
    split_key,
    type_name,
)
from ..datasets.data_files import check_hierarchy, read_data_safely
from ..datasets.images import pixel_range_of
from ..datasets.load_image import ON_BROKEN
from ..errors import ConfigError, UserError, did_you_mean, raise_all
from ..requirements import require_named
from .discovery import discover_data, evaluators_follow
from .model import leave_out_masks, match_channels, set_classes, set_pretrained, unfit_channels
from .options import OF_LOADING, read_options, unread_names
from .pipelines import is_crop, load_bitmaps, scale_images, set_augmentation, task_of
from .run import STARTED, run_config
from .short_settings import SHORT, expand_short
from .utils import SPLITS, find_datasets, share_with, value_at, walk

# Where data, schedule and hooks come from for a model out of a file of weights.
_TASKS = {"mmseg": "semantic segmentation", "mmpretrain": "classification"}  # by scope; a detector says by its pipeline
_DEFAULTS = {
    "object detection": "faster_rcnn_1x",
    "instance segmentation": "mask_rcnn_1x",
    "panoptic segmentation": "panoptic_fpn_1x",
    "semantic segmentation": "sem_fpn_80k",
    "classification": "pretrain_in1k",
}
RUNNER = "ReliableRunner"  # who builds on our runtime.py has it
_SETS_ROOT = re.compile(r"^data_root\s*=\s*['\"](.*?)['\"]", re.MULTILINE)


def load_config(
    path: str | Path,
    options: dict | None = None,
    trusted: bool = False,
    data: bool = True,
    unread: list[UserError] | None = None,
) -> Config:
    """Read a config, merge options and complete it.

    Args:
        path: A config file, or a checkpoint that carries its config.
        options: Dotted keys and values, as `--cfg-options` gives them (see `options`).
        trusted: Let the config inside a checkpoint import modules of others, name their types and any address.
        data: Look into annotation files that are where the config has them; not needed for inference, which names in
            the config's files that nothing reads do not stop either.
        unread: Gets what is wrong with names that nothing reads, for whoever looks for more mistakes before raising.

    Raises:
        ConfigError: The file is missing or cannot be read, or an option does not fit.
        DataError: `classes='auto'` and the annotation file is missing or unreadable.
    """
    options = options or {}
    read_data_safely()
    cfg = read_config_file(path, trusted)
    if cfg.get("default_scope"):
        init_default_scope(cfg.default_scope)  # as the runner does: what names of types mean depends on it
    share_with(cfg.get("default_scope"))

    follow_own_root(cfg)
    own_root = data_root_of(cfg) if "data_root" in options else None
    mistakes = unread_names(options, cfg, data)
    if unread is None:
        raise_all(mistakes)
    else:
        unread += mistakes
    options = read_options(options, cfg._cfg_dict)
    options = expand_short(cfg, options)
    typed = tuple(options)  # what these set stays; preflight reports what does not fit
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ConfigError(f"The options {options} do not fit {path}: {one_line(error)}.") from error
    check_settings(cfg)
    refuse_pickles(cfg)
    if "data_root" in options:
        set_data_root(cfg, str(options["data_root"]), own_root)

    if cfg.get("with_mask") is False:
        leave_out_masks(cfg)
    is_other_data = discover_data(cfg, typed, data)
    if cfg.get("crowds_as_objects"):
        load_bitmaps(cfg)
    evaluators_follow(cfg, typed, data)
    if cfg.get("augment") is not None:
        set_augmentation(cfg)
    scale_images(cfg, typed, as_in_tests=is_other_data)
    match_channels(cfg, typed)
    if cfg.get("classes") is not None:
        set_classes(cfg)
    if cfg.get("pretrained") or cfg.get("warm_start"):
        set_pretrained(cfg)
    add_hooks(cfg)
    cfg.completed_with = {key: cfg[key] for key in _asked(cfg)}
    return cfg


def read_config_file(name: str | Path, trusted: bool) -> Config:
    """Read a config, or the one that a work dir, a checkpoint or an exported model carries.

    Args:
        name: Of a file, or what else `find_config` knows; or of a work dir, whose own config is taken whole.
        trusted: Take the whole config inside a checkpoint, with its imports, types and addresses of others.

    Raises:
        ConfigError: The file is missing or cannot be read.
        CheckpointError: Likewise for a checkpoint, or its config is no plain data.
    """
    path = existing_config(split_key(name)[0])
    try:
        if path.is_dir():  # what the last training has left there, else what its newest checkpoint has
            if found := run_config(path):
                return _imported(without_its_run(found[1]))
            path = newest_for_test(path)
        if path.suffix not in (*CHECKPOINT_SUFFIXES, *EXPORTED_SUFFIXES):
            return Config.fromfile(path)
        if is_exported(path):
            values = read_config({"meta": {"cfg": read_info(path).config}}, path, trusted)
        else:
            values = read_config(load_weights_only(path, mmap=True), path, trusted)
            if not trusted:
                check_build_size(values, path)
        return _imported(values) if trusted else _completed(values, path)
    except UserError:
        raise
    # A config is a program: whatever it raises is a mistake in it.
    except Exception as error:
        if isinstance(error, ModuleNotFoundError):
            require_named(str(error))  # a parent of the config is in a sister library
        reason: BaseException | None = error  # MMEngine wraps what importing our own package found
        while reason is not None and not isinstance(reason, UserError):
            reason = reason.__cause__ or reason.__context__
        if reason is not None:
            raise reason from error
        raise ConfigError(f"The config {path} cannot be read: {one_line(error)}.") from error


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


def check_settings(cfg: Config) -> None:
    """Check what the top level of a config says about reading data and weights.

    Raises:
        ConfigError: A value makes no sense.
    """
    pixel_range_of(cfg.get("pixel_range"))
    for key, choices in (("load_policy", POLICIES), ("broken_images", ON_BROKEN)):
        value = cfg.get(key, choices[0])
        if value not in choices and (key, value) != ("load_policy", None):
            raise ConfigError(f"{key}='{value}' is none of {choices}{did_you_mean(value, choices)}; correct it.")
    for key in ("max_broken_images", "max_pixels"):
        value = cfg.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise ConfigError(f"{key}={value!r} is no count: give a number from 0 on.")
    for key in ("with_mask", "crowds_as_objects"):
        if not isinstance(cfg.get(key), (bool, NoneType)):
            raise ConfigError(f"{key}={cfg[key]!r} is neither True nor False: give one of them.")
    share = cfg.get("val_split")
    if share is not None and (isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1):
        raise ConfigError(f"val_split={share!r} is no share of the images: give a number like 0.1.")


def refuse_pickles(cfg: Config) -> None:
    """Refuse pickles among the data.

    Raises:
        DataError: A file that MMDetection unpickles by itself is a pickle, without the top-level `allow_pickle`.
    """
    allowed = cfg.get("allow_pickle") is True
    datasets = [dataset for split in SPLITS for _, dataset in find_datasets(cfg, split)]
    read_data_safely(allowed)
    for dataset in () if allowed else datasets:
        check_hierarchy(dataset)


def follow_own_root(cfg: Config) -> None:
    """Let datasets follow a `data_root` that a config has set over its parent's, which they have pasted in.

    A dataset's root that no file of the config has as its `data_root` was given by hand, and stays.
    """
    for old in _inherited_roots(cfg):
        set_data_root(cfg, cfg.data_root, old)


def _inherited_roots(cfg: Config) -> list[str]:
    """Return the roots of datasets that are some parent's `data_root`, where the config's own is another one."""
    root = cfg.get("data_root")
    if not isinstance(root, str) or _lie_below(root, _roots(cfg)):
        return []
    earlier = {old.rstrip("/") for old in _SETS_ROOT.findall(cfg.text)}  # the parents' text comes first
    return sorted({one.rstrip("/") for one in _roots(cfg)} & earlier)


def data_root_of(cfg: Config) -> str | None:
    """Return the folder below which the datasets of a config are; None where they do not agree on one."""
    root, roots = cfg.get("data_root"), _roots(cfg)
    if root and (len(roots) != 1 or _lie_below(root, roots)):
        return root
    return roots[0] if len(roots) == 1 else None


def _lie_below(root: str, folders: Sequence[str]) -> bool:
    return any(f"{folder.rstrip('/')}/".startswith(f"{root.rstrip('/')}/") for folder in folders)


def set_data_root(cfg: Config, root: str, old: str | None) -> None:
    """Move every path in `cfg`'s dataloaders and evaluators from the folder `old` to `root`.

    Text-style configs paste `data_root` into other values while they are read, so setting the name alone
    changes nothing. Without `old` it is taken from the datasets, if they agree.

    Raises:
        ConfigError: No path is below the old folder, or it is unclear which one to replace.
    """
    old, root = (old or data_root_of(cfg) or "").rstrip("/"), os.path.expanduser(root).rstrip("/")
    keys = [f"{split}_{part}" for split in SPLITS for part in ("dataloader", "evaluator")]
    moved = {key: _moved(cfg[key], old, root) for key in keys if old and cfg.get(key) is not None}
    if old != root and all(value == cfg[key] for key, value in moved.items()):
        raise ConfigError(
            f"The option data_root={root} has no effect: no path of the config is below "
            f"{old or 'a data_root'}, and its datasets have {_roots(cfg) or 'none'}; set each dataset's own data_root."
        )
    for key, value in moved.items():
        cfg[key] = value
    cfg.data_root = root + "/"


def _roots(cfg: Config) -> Sequence[str]:
    datasets = (dataset for split in SPLITS for _, dataset in find_datasets(cfg, split))
    return sorted({dataset.get("data_root") or "" for dataset in datasets} - {""})


def _moved(node: Any, old: str, root: str) -> Any:
    if isinstance(node, dict):
        return type(node)({key: _moved(value, old, root) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)(_moved(value, old, root) for value in node)
    if isinstance(node, str) and (node == old or node.startswith(old + "/")):
        return f"{root}/{node[len(old) + 1 :]}"
    return node


def add_hooks(cfg: Config) -> None:
    """Let `custom_hooks` of a config that builds on ours add to ours instead of replacing them: lists do not merge.

    The top-level `omit_hooks` names those of ours that are not wanted. What applies `load_policy` and `broken_images`
    is added to every other config, too.

    Raises:
        ConfigError: `omit_hooks` names one that does not exist, or whose settings are there.
    """
    hooks = list(cfg.get("custom_hooks") or [])
    there = {type_name(hook) for hook in hooks}
    if cfg.get("runner_type") == RUNNER:
        ours = Config.fromfile(config_folder() / "_base_/plugin.py", import_custom_modules=False).custom_hooks
        known, omitted = [hook.type for hook in ours], _omitted(cfg)
        if wrong := [name for name in omitted if name not in known]:
            raise ConfigError(f"omit_hooks names {wrong[0]}, which is none of {known}{did_you_mean(wrong[0], known)}.")
        # Ours behind the config's own, whose numbers options name.
        hooks += [hook for hook in ours if hook.type not in there]
        hooks = [hook for hook in hooks if type_name(hook) not in omitted]
        for key in ("broken_images", "max_broken_images", "pixel_range"):
            if "BrokenImagesHook" in omitted and cfg.get(key) is not None:
                raise ConfigError(
                    f"{key} has no effect where omit_hooks leaves out BrokenImagesHook: give one of them."
                )
    cfg.custom_hooks = hooks
    add_applying_hooks(cfg)


def add_applying_hooks(cfg: Config) -> None:
    """Add what applies `load_policy`, `broken_images` and others, where it is neither there nor left out."""
    hooks = list(cfg.get("custom_hooks") or [])
    known = {*map(type_name, hooks), *_omitted(cfg)}
    cfg.custom_hooks = hooks + [{"type": name} for name in ("LoadPolicyHook", "BrokenImagesHook") if name not in known]


def _omitted(cfg: Config) -> Sequence[str]:
    names = cfg.get("omit_hooks") or []
    return [names] if isinstance(names, str) else names


def complete_for_runner(values: Config | dict) -> Config:
    """Return a copy of a config with what a run needs at least; in one that `load_config` has completed all is there.

    Raises:
        ConfigError: The config asks for what only `load_config` does.
    """
    cfg = copy.deepcopy(values) if isinstance(values, Config) else Config(values)
    share_with(cfg.get("default_scope"))
    check_settings(cfg)
    add_applying_hooks(cfg)
    done = cfg.get("completed_with", cfg if STARTED in cfg else {})  # earlier versions did not note it
    left = [key for key in _asked(cfg) if done.get(key) != cfg[key]]
    if "completed_with" not in cfg:
        left += [f"{place} ({backbone} gives {wanted})" for place, _, wanted, backbone in unfit_channels(cfg)]
    if left:
        raise ConfigError(
            f"The config leaves {', '.join(left)} to `load_config`, which has not completed it: run it with "
            "`localvit train` or `localvit test` (tools/train.py, tools/test.py of localvit_det), or complete it by "
            "localvit_det.config.load_config."
        )
    return cfg


def _asked(cfg: Config) -> list[str]:
    """Return the names at the top level that ask for what only `load_config` and the options of commands do.

    Configs of MMDetection use some for themselves: a name whose value is where it belongs asks for nothing.
    """
    asked = [key for key, neutral in OF_LOADING.items() if cfg.get(key) not in (None, neutral, [], ())]
    asked = [key for key in asked if key not in _IN_USE or not _IN_USE[key](cfg)]
    return asked + [key for key in SHORT if cfg.get(key) is not None and not _is_expanded(cfg, key)]


def _is_expanded(cfg: Config, short: str) -> bool:
    try:
        own, _ = SHORT[short](cfg, cfg[short])
    except ConfigError:
        return False
    return all(value_at(cfg._cfg_dict, key) == value for key, value in own.items())


def _has_classes(cfg: Config) -> bool:
    datasets = [dataset for split in SPLITS for _, dataset in find_datasets(cfg, split)]
    named = [(dataset.get("metainfo") or {}).get("classes") for dataset in datasets]
    classes = [cfg.classes] if isinstance(cfg.classes, str) else [*cfg.classes]
    return all(one is not None and [*one] == classes for one in named)


def _starts_from_pretrained(cfg: Config) -> bool:
    return any(node.get("checkpoint") == cfg.pretrained for _, node in walk(cfg.get("model")))


_IN_USE: dict[str, Callable[[Config], bool]] = {
    "classes": _has_classes,
    "data_root": lambda cfg: not _inherited_roots(cfg),
    "image_size": is_crop,
    "pretrained": _starts_from_pretrained,
}


def one_line(error: BaseException) -> str:
    """Return the kind and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(".: ")
