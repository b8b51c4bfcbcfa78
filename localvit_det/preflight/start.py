"""What each part of a model starts from: reported in one line before a training, with a warning where it is chance."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.logging import print_log

from ..backbones import LocalViT
from ..checkpoint.baselines import KINDS, fit_published
from ..checkpoint.layouts import describe_choice, plain_names, weights_in
from ..checkpoint.loading import under_prefix
from ..checkpoint.matching import LoadReport, Policy, compare, prepare
from ..checkpoint.networks import backbones_in, official_file
from ..checkpoint.read import classes_in, download, load_weights_only
from ..config.utils import find_datasets, registered
from ..config_names import split_key, type_name
from ..errors import CheckpointError
from .classes import dataset_classes
from .resources import build_on_meta, pretrained_init

_RANDOM = "random"
_UNPUBLISHED = (
    "no published weights of it are known here, so take a size that `localvit weights` lists, or add --pretrained FILE "
    "with weights of your own (docs/tasks.md has the pretraining)"
)
_HEAD = re.compile(r"(?:^|\.)(?:head|fc|classifier)(?:\.fc)?\.weight$")
_DETECTOR = re.compile(r"(?:^|\.)(?:neck|rpn_head|roi_head|bbox_head|mask_head|decode_head|panoptic_fusion_head)\.")


def check_start(cfg: Config, resumed: str | None) -> None:
    """Say what the parts of the model start from, and warn where a backbone starts at random for no good reason.

    Files at addresses are downloaded here, by the first process, and what a backbone or a model shall start from is
    compared with it.

    Args:
        resumed: The checkpoint that the training goes on from, if it does.

    Raises:
        CheckpointError: A file cannot be had, or does not fit.
    """
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
        return
    if resumed or cfg.get("load_from"):
        print_log(f"Starts from: {f'resumed from {resumed}' if resumed else _detector(cfg)}.", "current")
        return
    model = cfg.get("model") or {}
    whole = pretrained_init(model)
    if whole:
        print_log(f"Starts from: all from {whole['checkpoint']}.", "current")
        return
    found = {name: _start_of(name, part) for name, part in _parts(model)}
    backbone = model.get("backbone") or {}
    kind = type_name(backbone)
    at_random = found.get("backbone") == _RANDOM
    texts = [f"backbone {kind} {_RANDOM}"] if at_random else []
    texts += [f"{name} {text}" for name, text in found.items() if text != _RANDOM]
    others = [name for name, text in found.items() if text == _RANDOM and name != "backbone"]
    if others:
        texts.append(", ".join(dict.fromkeys("heads" if "head" in name else name for name in others)) + f" {_RANDOM}")
    print_log(f"Starts from: {'; '.join(texts)}.", "current")
    sets = [registered(DATASETS, dataset) for _, dataset in find_datasets(cfg, "train")]
    is_trial = cfg.get("default_scope") == "mmpretrain" or any(hasattr(cls, "prepare") for cls in sets)
    if at_random and not is_trial:  # a pretraining itself, or one on synthetic shapes
        cls = registered(MODELS, backbone)
        line = official_file(cls, backbone)
        advice = line.advice if line else _UNPUBLISHED
        print_log(
            f"The backbone {kind} starts at random, while published results are of backbones that were trained on "
            f"ImageNet before: {advice}.",
            "current",
            logging.WARNING,
        )


def _parts(model: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the trained parts of a model: its backbone, neck, heads and others."""
    for name, part in model.items():
        first = part[0] if isinstance(part, (list, tuple)) and part else part
        if isinstance(first, Mapping) and "type" in first and name not in ("data_preprocessor", "init_cfg"):
            yield name, part


def _start_of(name: str, part: Any) -> str:
    init = pretrained_init(part)
    if init is None:
        return _RANDOM
    source = str(init["checkpoint"])
    if init.get("warm_start"):
        _local(source)
        return f"from {source} (warm start from {init['warm_start']})"
    cls = registered(MODELS, part)
    ours = isinstance(cls, type) and name == "backbone" and issubclass(cls, (LocalViT, *KINDS))
    if _is_alias(source) or cls is None or not ours:
        return f"from {source}"
    # MMDetection's ask tensors for their values while they are built.
    with torch.device("meta" if issubclass(cls, LocalViT) else "cpu"), torch.random.fork_rng(devices=[]):
        backbone = MODELS.build({key: value for key, value in part.items() if key != "init_cfg"})
    content = load_weights_only(_local(source), mmap=True)
    weights = weights_in(content) or {}
    if isinstance(backbone, LocalViT):
        inside = under_prefix(weights, init["prefix"], source) if init.get("prefix") else content
        policy: Policy = "partial" if init.get("partial") else "strict"
        report = prepare(backbone, inside, policy, source)[1]
    else:
        report = fit_published(backbone, content, source)[0]
    return f"from {source} ({_kind(weights)}, {_counts(report)})"


def _kind(weights: Mapping[str, Any]) -> str:
    """Return what a file's weights are of, by their names."""
    rows = [len(tensor) for name, tensor in weights.items() if _HEAD.search(name)]
    if any(map(_DETECTOR.search, weights)):
        return "detector"
    return (
        "backbone"
        if not rows
        else f"{'ImageNet classifier' if rows[-1] == 1000 else f'classifier of {rows[-1]} classes'}"
    )


def _counts(report: LoadReport) -> str:
    text = f"{len(report.found)} of {report.size} weights"
    if report.missing and all(re.search(r"norm", name) for name in report.missing):
        text += ", output norms new"
    return text + (f"; {report.choice}" if report.choice else "")


def _detector(cfg: Config) -> str:
    source = str(cfg.load_from)
    model = None if _is_alias(source) else build_on_meta(cfg)
    if model is None:
        return f"all from {source}"
    content = load_weights_only(_local(source), mmap=True)
    saved = classes_in(content)
    wanted = next((dataset_classes(path, dataset) for path, dataset in find_datasets(cfg, "train")), None)
    saved, wanted = saved or (), wanted or ()
    by_name = bool(saved and wanted and saved != wanted)
    if backbones_in(model) and not by_name:
        report = prepare(model, content, cfg.get("load_policy") or "strict", source)[1]
    else:  # rows of heads go to their classes before they have to fit
        parts = [name for name, _ in model.named_children()]
        report = compare(model, plain_names(weights_in(content) or {}, False, parts), source)[0]
        report.choice = describe_choice(content)
    text = f"all from {source} ({_counts(report)})"
    if by_name:
        return f"{text}, heads for {len({*saved} & {*wanted})} of {len(wanted)} classes, by name"
    return f"{text}, {len(report.new)} tensors of heads new" if report.new else text


def _is_alias(source: str) -> bool:
    """Whether it is a name such as torchvision://resnet50, which is resolved in the run."""
    return "://" in source and not source.startswith(("http://", "https://"))


def _local(source: str) -> str:
    """Return a file's path, after a download where it has an address."""
    file, key = split_key(source)
    if "://" not in file:
        return source
    try:
        path = os.fspath(download(file))
    except CheckpointError as error:
        cause = str(error).rpartition(": ")[0]
        raise CheckpointError(
            f"{cause}: download it by hand and give the path of the file (--pretrained FILE)."
        ) from error
    return f"{path}#{key}" if key else path
