"""Repair the annotation files that a config names itself, as those that were discovered, and let evaluators follow."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from ..datasets.annotations import read_annotations
from ..datasets.layouts import TRAIN, absent_images, find_images, look_into
from ..datasets.normalize import file_names, is_copy, normalized
from ..errors import DataError
from .utils import dataset_paths, find_datasets, is_coco, is_coco_metric, walk

DEFAULT_FOLDERS = tuple(f"{split}2017/" for split in ("train", "val", "test"))
_ORIGINALS = "originals"  # in the config's `recognized`: what datasets were set to before


def is_typed(split: str, part: str, typed: Sequence[str]) -> bool:
    """Whether an option sets a part of a split's dataset."""
    return any(key.startswith(f"{split}_dataloader.") and part in key.split(".") for key in typed)


def originals(cfg: Config) -> Mapping[str, Mapping[str, str]]:
    """Return what a config itself names for splits that have copies: their `ann_file` and the `img` of their prefix."""
    return (cfg.get("recognized") or {}).get(_ORIGINALS) or {}


def restore_files(cfg: Config, datasets: Mapping[str, dict], typed: Sequence[str]) -> None:
    """Let datasets name their own files again, where a config was saved with copies in their place."""
    for split, old in originals(cfg).items():
        dataset = datasets.get(split)
        if dataset is not None and is_copy(dataset.get("ann_file") or ""):
            dataset["ann_file"] = old["ann_file"]
            if not is_typed(split, "data_prefix", typed):
                set_image_folder(dataset, old["img"])
    if originals(cfg):
        cfg.recognized = {key: value for key, value in cfg.recognized.items() if key != _ORIGINALS}


def normalize_files(
    cfg: Config, root: Path, datasets: Mapping[str, dict], typed: Sequence[str]
) -> dict[str, list[str]]:
    """Exchange annotation files for normalized copies, and folders of images for those that hold them, where needed.

    A good file is read once, by `read_annotations`, whose result preflight takes.

    Args:
        datasets: Of each split, below the root.
        typed: Dotted keys of the options.

    Returns:
        For each split what was changed, in words.

    Raises:
        DataError: Names of images and files cannot be brought together.
    """
    objects = bool(cfg.get("crowds_as_objects"))
    order = class_order(cfg, datasets.get(TRAIN))
    changes: dict[str, list[str]] = {}
    kept: dict[str, dict[str, str]] = {}
    for split, dataset in datasets.items():
        file, folder = dataset_paths(dataset)
        if file is None or not os.path.isfile(file):
            continue
        try:
            names = file_names(Path(file))
        except DataError:  # preflight reports it
            continue
        old = {"ann_file": dataset["ann_file"], "img": (dataset.get("data_prefix") or {}).get("img") or ""}
        named = old["img"] not in DEFAULT_FOLDERS or is_typed(split, "data_prefix", typed)
        prefix, renames = _images(root, file, folder, old["img"], named, names)
        copy, changed = normalized(Path(file), renames, None, order, objects)
        if changed:
            dataset["ann_file"] = str(copy)
        if prefix != old["img"]:
            set_image_folder(dataset, prefix)
            changed = changed or [f"images in {prefix or './'}"]
        if changed:
            changes[split], kept[split] = changed, old
        if split == TRAIN and not order:
            with suppress(DataError):  # preflight reports it
                order = read_annotations(copy).categories
    if kept:
        cfg.recognized = {**(cfg.get("recognized") or {}), _ORIGINALS: kept}
    return changes


def class_order(cfg: Config, dataset: dict | None) -> tuple[str, ...]:
    """Return the order of classes that a config or a dataset of it sets; empty where the files decide."""
    chosen = cfg.get("classes")
    if chosen in (None, "auto"):
        chosen = ((dataset or {}).get("metainfo") or {}).get("classes") if chosen is None else None
    return (chosen,) if isinstance(chosen, str) else tuple(chosen or ())


def set_image_folder(dataset: dict, folder: str) -> None:
    """Set the folder of a dataset's images, below its root."""
    dataset["data_prefix"] = {**(dataset.get("data_prefix") or {}), "img": folder}


def _images(
    root: Path, file: str, folder: str | None, own: str, named: bool, names: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Return the prefix of a dataset's images, and their right names where the annotation file has others.

    Args:
        own: The prefix as it is.
        named: Whether somebody has set it, so that images are below it alone.
    """
    if folder is None or (os.path.isdir(folder) and not absent_images(folder, names)):
        return own, {}
    if named and not os.path.isdir(folder):  # preflight reports it
        return own, {}
    found, renames = find_images(look_into(folder if named else root), os.path.relpath(file, root), names)
    prefix = os.path.join(own, found) if named else found
    return (f"{prefix}/" if prefix and not prefix.endswith("/") else prefix), renames


def evaluators_follow(cfg: Config, typed: Sequence[str]) -> None:
    """Give evaluators the annotation file, and the panoptic maps, of their dataset, but for what is typed.

    Args:
        typed: Dotted keys of the options.
    """
    for split in ("val", "test"):
        leaves = [dataset for _, dataset in find_datasets(cfg, split)]
        if len(leaves) != 1 or not is_coco(leaves[0]):
            continue
        dataset = leaves[0]
        file = dataset_paths(dataset)[0]
        before = dataset_paths({**dataset, **originals(cfg).get(split, {})})[0]
        plain = is_coco(dataset, plain=True)
        for path, node in walk(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
            own = node.get("ann_file")
            reads = plain and "ann_file" not in node and is_coco_metric(node)
            if file is None or not (isinstance(own, str) or reads):
                continue
            # A copy takes the place of the file that it is made of, whoever has named that.
            as_before = bool(own and before and os.path.abspath(own) == os.path.abspath(before))
            if _sets(f"{path}.ann_file", typed) and not as_before:
                continue
            node["ann_file"] = file
            maps = (dataset.get("data_prefix") or {}).get("seg")
            if maps and node.get("seg_prefix") and not _sets(f"{path}.seg_prefix", typed):
                node["seg_prefix"] = os.path.join(dataset.get("data_root") or "", maps)
            chosen = as_before or _sets(f"{split}_dataloader.dataset.ann_file", typed)
            # One that is absent, or an older normalized copy, is no other file.
            other = own and not is_copy(own) and os.path.isfile(own) and os.path.realpath(own) != os.path.realpath(file)
            if other and not chosen:
                print_log(
                    f"{path}.ann_file is {own}, and its dataset reads {file}: the latter is scored; for another one "
                    f"give the option {path}.ann_file=FILE.",
                    "current",
                    logging.WARNING,
                )


def _sets(key: str, typed: Sequence[str]) -> bool:
    """Whether an option sets a key, or what it is in."""
    return any(key == one or key.startswith(f"{one}.") for one in typed)
