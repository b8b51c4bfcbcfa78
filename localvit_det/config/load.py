"""Loads a config and completes what the user should not have to repeat: data root, neck, classes."""

import os
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..checkpoint.config_text import parse
from ..checkpoint.matching import POLICIES
from ..checkpoint.official import OFFICIAL, official_address
from ..datasets.annotations import read_annotations
from ..datasets.data_files import check_hierarchy, read_data_safely
from ..datasets.images import pixel_range_of
from ..datasets.load_image import ON_BROKEN
from ..errors import ConfigError, UserError, did_you_mean, raise_all
from .box_only import use_with_mask
from .channels import match_channels
from .evaluators import evaluators_follow
from .file import one_line, read_config_file
from .found_set import use_found_set
from .image_size import use_image_size
from .options import read_options
from .packaged import config_folder, find_config
from .parts import (
    dataset_paths,
    find_datasets,
    has_stuff,
    heads_with_classes,
    is_semantic,
    prepare_dataset,
    registered,
    walk,
)
from .top_level import top_level_mistakes

RUNNER = "ReliableRunner"  # who builds on our runtime.py has it
SPLITS = ("train", "val", "test")
_DEFAULT_ROOTS = ("data/coco", "data/shapes")  # of MMDetection's configs and of ours


def load_config(
    path: str | Path,
    options: dict | None = None,
    trusted: bool = False,
    data: bool = True,
    unread: list[UserError] | None = None,
) -> Config:
    """Reads a config, merges options and completes it.

    Args:
        path: A config file, or a checkpoint that carries its config.
        options: Dotted keys and values, as `--cfg-options` gives them (see `options`).
        trusted: Let the config inside a checkpoint import modules of others, name their types and any address.
        data: Look into annotation files that are where the config has them; not needed by who only finds objects.
        unread: Gets what is wrong with names that nothing reads, for whoever looks for more mistakes before raising.

    Raises:
        ConfigError: The file is missing or cannot be read, or an option does not fit.
        DataError: `classes='auto'` and the annotation file is missing or unreadable.
    """
    options = options or {}
    read_data_safely()
    cfg = read_config_file(Path(path), trusted)
    if cfg.get("default_scope"):
        init_default_scope(cfg.default_scope)  # as the runner does: what names of types mean depends on it
    old_root = cfg.get("data_root")
    if "data_root" in options:
        _follow_own_root(cfg)  # so that all paths are below the old one
    found = top_level_mistakes(options, cfg, find_config(path))
    if unread is None:
        raise_all(found)
    else:
        unread += found
    options = read_options(options, cfg._cfg_dict)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ConfigError(f"The options {options} do not fit {path}: {one_line(error)}.") from error
    use_safe_data(cfg)
    if "data_root" in options:
        set_data_root(cfg, str(options["data_root"]), old_root)
    else:
        _follow_own_root(cfg)
    use_with_mask(cfg)
    other_images = use_found_set(cfg, tuple(options), data)
    evaluators_follow(cfg, tuple(options))
    use_image_size(cfg, tuple(options), as_in_tests=other_images)
    # Someone who types such an option means it; preflight then says what does not fit.
    match_channels(cfg, typed=tuple(options))
    if cfg.get("classes") is not None:
        use_dataset_classes(cfg)
    if cfg.get("pretrained"):
        use_pretrained(cfg)
    elif cfg.get("warm_start"):
        raise ConfigError(f"warm_start={cfg.warm_start} needs pretrained, the file to start from: give both.")
    keep_hooks(cfg)
    use_load_policy(cfg)
    use_broken_images(cfg)
    return cfg


def use_safe_data(cfg: Config) -> None:
    """Refuse pickles among the data, unless the top-level `allow_pickle` is set.

    Raises:
        DataError: A file that MMDetection unpickles by itself is a pickle.
    """
    allowed = cfg.get("allow_pickle") is True
    read_data_safely(allowed)
    for split in () if allowed else SPLITS:
        for _, dataset in find_datasets(cfg, split):
            check_hierarchy(dataset)


def set_data_root(cfg: Config, root: str, old: str | None) -> None:
    """Moves every path in `cfg`'s dataloaders and evaluators from the folder `old` to `root`.

    Text-style configs paste `data_root` into other values while they are read, so setting the name alone
    changes nothing. Without `old` it is taken from the data sets, if they agree.

    Raises:
        ConfigError: It is unclear which folder to replace.
    """
    if not old:
        roots = {d.get("data_root") or "" for split in SPLITS for _, d in find_datasets(cfg, split)} - {""}
        if len(roots) != 1:
            raise ConfigError(
                f"The option data_root={root} has no effect: the config names no data_root and its data sets "
                f"have {sorted(roots) or 'none'}; set each data set's own data_root."
            )
        old = roots.pop()
    old, root = old.rstrip("/"), os.path.expanduser(root).rstrip("/")

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return type(node)({key: moved(value) for key, value in node.items()})
        if isinstance(node, (list, tuple)):
            return type(node)(map(moved, node))
        if isinstance(node, str) and (node == old or node.startswith(old + "/")):
            return f"{root}/{node[len(old) + 1 :]}"
        return node

    for key in [f"{split}_{part}" for split in SPLITS for part in ("dataloader", "evaluator")]:
        if cfg.get(key) is not None:
            cfg[key] = moved(cfg[key])
    cfg.data_root = root + "/"


def _follow_own_root(cfg: Config) -> None:
    """Lets data sets follow a `data_root` that a config has set over its parent's, whose data sets name the default."""
    roots = {dataset.get("data_root") or "" for split in SPLITS for _, dataset in find_datasets(cfg, split)} - {""}
    root = cfg.get("data_root")
    old = roots.pop() if len(roots) == 1 else ""
    if isinstance(root, str) and old.rstrip("/") in _DEFAULT_ROOTS and root.rstrip("/") != old.rstrip("/"):
        set_data_root(cfg, root, old)


def use_dataset_classes(cfg: Config) -> None:
    """Applies the top-level `classes` to all data sets and heads.

    `classes` is 'auto' (the names in the training annotations, or in the first annotation file that exists),
    one name, or a list of names.

    Raises:
        DataError: 'auto', and no annotation file can be read.
        ConfigError: 'auto', and no data set of the config has an annotation file; or the data sets are panoptic.
    """
    datasets = [dataset for split in SPLITS for _, dataset in find_datasets(cfg, split)]
    if any(map(has_stuff, datasets)):
        raise ConfigError(
            "The option classes names objects, and the data sets of this config are panoptic: set classes, "
            "thing_classes and stuff_classes in their metainfo, and the counts of the heads."
        )
    classes = cfg.classes
    if classes == "auto":
        for dataset in datasets:
            prepare_dataset(dataset, cfg.get("draw", False))
        files = [file for dataset in datasets if (file := dataset_paths(dataset)[0])]
        if not files:
            raise ConfigError("classes='auto' needs train_dataloader.dataset.ann_file: name one, or the classes.")
        # In the order of the file, not of the ids: that is the order of MMDetection's labels.
        classes = read_annotations(next(filter(os.path.isfile, files), files[0])).categories
    cfg.classes = classes = (classes,) if isinstance(classes, str) else tuple(map(str, classes))
    for dataset in datasets:
        # no palette = random colours; the one of the dataset's class may be shorter than the classes
        palette = {} if is_semantic(dataset) else {"palette": None}  # MMSegmentation looks after that by itself
        dataset["metainfo"] = {**palette, **(dataset.get("metainfo") or {}), "classes": classes}
    for _, head, key in heads_with_classes(cfg):
        head[key] = len(classes)
        weights = (head.get("loss_cls") or {}).get("class_weight")
        if key == "num_things_classes" and weights:  # one for each class, then one for no object
            head["loss_cls"]["class_weight"] = [1.0] * len(classes) + [weights[-1]]


def use_pretrained(cfg: Config) -> None:
    """Lets the backbone start from the checkpoint that the top-level `pretrained` names.

    With `warm_start` the checkpoint is of that other network. 'official' stands for the address of the file that the
    backbone's authors published.

    Raises:
        ConfigError: The model has no backbone.
        CheckpointError: There is no official file, or it cannot be downloaded without a browser.
    """
    backbones = [node["backbone"] for _, node in walk(cfg.get("model")) if isinstance(node.get("backbone"), dict)]
    official = cfg.pretrained == OFFICIAL and not os.path.exists(OFFICIAL)
    if not backbones:
        raise ConfigError(f"pretrained={cfg.pretrained} has no effect: the model of the config has no backbone.")
    for backbone in backbones:
        file = cfg.pretrained
        if official:
            file = official_address(registered(MODELS, backbone), backbone, bool(cfg.get("warm_start")))
        backbone["init_cfg"] = {"type": "Pretrained", "checkpoint": file}
        if cfg.get("warm_start"):
            backbone["init_cfg"]["warm_start"] = cfg.warm_start


def keep_hooks(cfg: Config) -> None:
    """Lets `custom_hooks` of a config that builds on ours add to ours instead of replacing them: lists do not merge.

    The top-level `omit_hooks` names those of ours that are not wanted.

    Raises:
        ConfigError: It names one that there is not.
    """
    if cfg.get("runner_type") != RUNNER:
        return
    ours = parse((config_folder() / "_base_/plugin.py").read_text(encoding="utf-8"))["custom_hooks"]
    known, omitted = [hook["type"] for hook in ours], cfg.get("omit_hooks") or []
    omitted = [omitted] if isinstance(omitted, str) else omitted
    if wrong := [name for name in omitted if name not in known]:
        raise ConfigError(f"omit_hooks names {wrong[0]}, which is none of {known}{did_you_mean(wrong[0], known)}.")
    own = [hook for hook in cfg.get("custom_hooks") or [] if hook.get("type") not in omitted]
    there = {hook.get("type") for hook in own}
    # Behind the config's own, whose numbers options name.
    cfg.custom_hooks = [*own, *(hook for hook in ours if hook["type"] not in {*there, *omitted})]


def use_load_policy(cfg: Config) -> None:
    """Lets the top-level `load_policy` decide what in the checkpoint of `load_from` may fail to fit.

    Raises:
        ConfigError: There is no such policy.
    """
    policy = cfg.get("load_policy")
    if policy is not None and policy not in POLICIES:
        raise ConfigError(f"load_policy='{policy}' is none of {POLICIES}{did_you_mean(policy, POLICIES)}; correct it.")
    _add_hook(cfg, "LoadPolicyHook")


def use_broken_images(cfg: Config) -> None:
    """Let the top-level `broken_images`, `max_broken_images`, `max_pixels` and `pixel_range` say how images are read.

    Raises:
        ConfigError: One of them makes no sense.
    """
    pixel_range_of(cfg.get("pixel_range"))
    choice = cfg.get("broken_images", "skip")
    if choice not in ON_BROKEN:
        raise ConfigError(f"broken_images='{choice}' is none of {ON_BROKEN}{did_you_mean(choice, ON_BROKEN)}.")
    for key in ("max_broken_images", "max_pixels"):
        value = cfg.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise ConfigError(f"{key}={value!r} is no count: give a number from 0 on.")
    _add_hook(cfg, "BrokenImagesHook")


def _add_hook(cfg: Config, kind: str) -> None:
    hooks = cfg.get("custom_hooks") or []
    if not any(hook.get("type") == kind for hook in hooks):
        cfg.custom_hooks = [*hooks, {"type": kind}]
