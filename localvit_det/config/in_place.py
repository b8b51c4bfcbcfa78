"""Puts right what stands in the annotation files that a config names itself, as is done with files that were found."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from ..datasets.annotations import read_annotations
from ..datasets.layouts import TRAIN, absent_images, find_images, look_into
from ..datasets.normalize import file_names, is_copy, is_normalized, normalized
from ..errors import DataError
from .parts import dataset_paths, walk

DEFAULT_FOLDERS = tuple(f"{split}2017/" for split in ("train", "val", "test"))
_ORIGINALS = "originals"  # in the config's `recognized`: what datasets were set to before


def is_typed(split: str, part: str, typed: Sequence[str]) -> bool:
    """Whether an option sets a part of a split's dataset."""
    return any(key.startswith(f"{split}_dataloader.") and part in key.split(".") for key in typed)


def originals(cfg: Config) -> Mapping[str, Mapping[str, str]]:
    """What a config itself names for splits that have copies: their `ann_file` and the `img` of their prefix."""
    return (cfg.get("recognized") or {}).get(_ORIGINALS) or {}


def restore_files(cfg: Config, datasets: Mapping[str, dict], typed: Sequence[str]) -> None:
    """Let datasets name their own files again, where a config was saved with copies in their place."""
    for split, old in originals(cfg).items():
        dataset = datasets.get(split)
        if dataset is not None and is_copy(dataset.get("ann_file") or ""):
            dataset["ann_file"] = old["ann_file"]
            if not is_typed(split, "data_prefix", typed):
                _set_prefix(dataset, old["img"])
    if originals(cfg):
        cfg.recognized = {key: value for key, value in cfg.recognized.items() if key != _ORIGINALS}


def tidy_in_place(cfg: Config, root: Path, datasets: Mapping[str, dict], typed: Sequence[str]) -> dict[str, list[str]]:
    """Exchange annotation files for tidy copies, and folders of images for those that hold them, where it is needed.

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
        file, _ = dataset_paths(dataset)
        if file is None or not os.path.isfile(file):
            continue
        try:
            summary = read_annotations(file)
            names = [name for name, _, _ in summary.images.values()]
        except DataError:  # that a copy may be free of
            summary = None
            try:
                names = file_names(Path(file))
            except DataError:  # preflight reports it
                continue
        old = {"ann_file": dataset["ann_file"], "img": (dataset.get("data_prefix") or {}).get("img") or ""}
        prefix, renames = _images(root, dataset, split, names, typed)
        told: list[str] = []
        if renames or summary is None or not is_normalized(summary, order, objects):
            copy, told = normalized(Path(file), renames, None, order, objects)
            if told:
                dataset["ann_file"] = str(copy)
                _let_evaluators_follow(cfg, split, file, str(copy))
        if prefix != old["img"]:
            _set_prefix(dataset, prefix)
            told = told or [f"images in {prefix or './'}"]
        if told:
            changes[split], kept[split] = told, old
        if split == TRAIN and not order:
            order = _categories(dataset)
    if kept:
        cfg.recognized = {**(cfg.get("recognized") or {}), _ORIGINALS: kept}
    return changes


def class_order(cfg: Config, dataset: dict | None) -> tuple[str, ...]:
    """The order of classes that a config sets, at its top level or for a dataset; empty where the files decide."""
    chosen = cfg.get("classes")
    if chosen in (None, "auto"):
        chosen = ((dataset or {}).get("metainfo") or {}).get("classes") if chosen is None else None
    return (chosen,) if isinstance(chosen, str) else tuple(chosen or ())


def _categories(dataset: dict) -> tuple[str, ...]:
    path = dataset_paths(dataset)[0]
    try:
        return read_annotations(path).categories if path else ()
    except DataError:
        return ()


def _images(
    root: Path, dataset: dict, split: str, names: Sequence[str], typed: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """The prefix of a dataset's images, and their right names where the annotation file has others."""
    own = (dataset.get("data_prefix") or {}).get("img")
    folder = dataset_paths(dataset)[1]
    if folder is None or (os.path.isdir(folder) and not absent_images(folder, names)):
        return own or "", {}
    named = own not in DEFAULT_FOLDERS or is_typed(split, "data_prefix", typed)
    if named and not os.path.isdir(folder):  # preflight reports it
        return own or "", {}
    place = os.path.relpath(dataset_paths(dataset)[0] or "", root)
    found, renames = find_images(look_into(folder if named else root), place, names)
    prefix = os.path.join(own or "", found) if named else found
    return (f"{prefix}/" if prefix and not prefix.endswith("/") else prefix), renames


def _set_prefix(dataset: dict, prefix: str) -> None:
    dataset["data_prefix"] = {**(dataset.get("data_prefix") or {}), "img": prefix}


def _let_evaluators_follow(cfg: Config, split: str, file: str, copy: str) -> None:
    for _, node in walk(cfg.get(f"{split}_evaluator")):
        own = node.get("ann_file")
        if isinstance(own, str) and os.path.abspath(own) == os.path.abspath(file):
            node["ann_file"] = copy
