"""Lets evaluators read what their datasets read."""

import logging
import os
from collections.abc import Sequence

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import print_log

from ..datasets.normalize import is_copy
from .parts import dataset_paths, find_datasets, is_plain_coco, registered, walk

_OF_COCO = ("CocoMetric", "FastCocoMetric", "ExactCocoMetric")


def evaluators_follow(cfg: Config, typed: Sequence[str]) -> None:
    """Give evaluators the annotation file, and the panoptic maps, of their dataset, but for what is typed.

    Args:
        typed: Dotted keys of the options.
    """
    for split in ("val", "test"):
        leaves = [dataset for _, dataset in find_datasets(cfg, split)]
        if len(leaves) != 1 or not _is_of_coco(leaves[0]):
            continue
        file = dataset_paths(leaves[0])[0]
        for path, node in walk(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
            if file is None or not _reads_file(node, leaves[0]) or _is_typed(f"{path}.ann_file", typed):
                continue
            own, node["ann_file"] = node.get("ann_file"), file
            maps = (leaves[0].get("data_prefix") or {}).get("seg")
            if maps and node.get("seg_prefix") and not _is_typed(f"{path}.seg_prefix", typed):
                node["seg_prefix"] = os.path.join(leaves[0].get("data_root") or "", maps)
            if own and not _is_same(own, file) and not _is_typed(f"{split}_dataloader.dataset.ann_file", typed):
                print_log(
                    f"{path}.ann_file is {own}, and its dataset reads {file}: the latter is scored; for another one "
                    f"give the option {path}.ann_file=FILE.",
                    "current",
                    logging.WARNING,
                )


def _is_of_coco(dataset: dict) -> bool:
    from mmdet.datasets import CocoDataset

    cls = registered(DATASETS, dataset)
    return isinstance(cls, type) and issubclass(cls, CocoDataset)


def _reads_file(node: dict, dataset: dict) -> bool:
    if isinstance(node.get("ann_file"), str):
        return True
    kind = str(node.get("type")).removeprefix("mmdet.")
    return "ann_file" not in node and kind in _OF_COCO and is_plain_coco(dataset)


def _is_same(first: str, second: str) -> bool:
    """Whether two names mean one file; one that is absent, or an older tidy copy, is no other file."""
    return is_copy(first) or not os.path.isfile(first) or os.path.realpath(first) == os.path.realpath(second)


def _is_typed(key: str, typed: Sequence[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in typed)
