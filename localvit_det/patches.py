"""The one table of what this package changes in other libraries.

`import localvit_det` applies it. A row can go when its last column holds; everything else of ours reaches MMEngine as a
subclass that configs name, as a hook, or as a method of our runner. `LOCALVIT_NO_PATCH=coordinates,whole_files` in the
environment leaves rows out, `LOCALVIT_NO_PATCH=all` the whole table. `python -m localvit_det.patches` prints it as
docs/architecture.md has it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RequirementError, did_you_mean
from .requirements import EXTRAS, distribution, has_compiled_operators, has_mmdetection, is_onedl

VARIABLE = "LOCALVIT_NO_PATCH"
_ABSENT = object()
Replacement = tuple[Any, str, Any]  # an object or a mapping, the name in it, and what is put there


@dataclass(frozen=True)
class Patch:
    """A row of the table."""

    name: str  # what the environment variable calls it
    what: str  # is changed
    why: str  # the fault without it
    source: str  # the issue or the source of the fault
    versions: str  # where it was seen; others that this package supports are not excluded
    until: str  # when the row can go
    replacements: Callable[[], Iterable[Replacement]]  # what takes the place of what
    needs_mmdetection: bool = True  # or MMCV, which may not be installed


_applied: dict[str, list[Replacement]] = {}  # by the names of rows, what was there before


def apply() -> None:
    """Apply all rows that the environment does not leave out (RequirementError: no such row); twice changes nothing."""
    left_out = _left_out()
    installed = has_mmdetection()
    for patch in PATCHES:
        if patch.name not in _applied and patch.name not in left_out and (installed or not patch.needs_mmdetection):
            _apply(patch)


@contextmanager
def without(name: str) -> Iterator[None]:
    """Take an applied row back, to see what it is for."""
    for owner, key, before in reversed(_applied.pop(name)):
        _put(owner, key, before)
    try:
        yield
    finally:
        _apply(next(patch for patch in PATCHES if patch.name == name))


def table() -> str:
    """Return the table in Markdown."""
    rows = [(f"`{p.name}`", p.what, p.why, p.source, p.versions, p.until) for p in PATCHES]
    head = ("name", "what is changed", "what happens without it", "source", "seen in", "can go when")
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def _apply(patch: Patch) -> None:
    before = []
    for owner, key, value in patch.replacements():
        # As it is: `getattr` turns a static method into a function. What is inherited comes back by itself.
        there = owner if isinstance(owner, MutableMapping) else vars(owner)
        before.append((owner, key, there.get(key, _ABSENT)))
        _put(owner, key, value)
    _applied[patch.name] = before


def _put(owner: Any, key: str, value: Any) -> None:
    if isinstance(owner, MutableMapping):
        if value is _ABSENT:
            owner.pop(key, None)
        else:
            owner[key] = value
    elif value is _ABSENT:
        delattr(owner, key)
    else:
        setattr(owner, key, value)


def _left_out() -> set[str]:
    known = [patch.name for patch in PATCHES]
    names = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
    if wrong := sorted(names - {*known, "all"}):
        raise RequirementError(f"{VARIABLE} names {wrong[0]}, which is none of {known}{did_you_mean(wrong[0], known)}.")
    return set(known) if "all" in names else names


# ---- what takes the place of what


def _operators() -> Iterator[Replacement]:
    if not has_compiled_operators():
        from .ops import mmcv_ops

        if mmcv_ops.NAME not in sys.modules:
            module = mmcv_ops.make_module()
            yield sys.modules, mmcv_ops.NAME, module
            yield importlib.import_module("mmcv"), "_ext", module
        return
    extension = importlib.import_module("mmcv._ext")
    compiled = extension.roi_align_forward

    def roi_align_forward(input: Any, rois: Any, *args: object, **settings: object) -> None:
        compiled(input.contiguous(), rois.contiguous(), *args, **settings)

    yield extension, "roi_align_forward", roi_align_forward


def _panopticapi() -> Iterator[Replacement]:
    from .ops import panopticapi

    if panopticapi.NAME not in sys.modules and importlib.util.find_spec(panopticapi.NAME) is None:
        for name, module in panopticapi.make_modules().items():
            yield sys.modules, name, module


def _coordinates() -> Iterator[Replacement]:
    from .ops import coordinates

    yield from coordinates.replacements()


def _checkpoint_files() -> Iterator[Replacement]:
    from mmengine.infer import infer
    from mmengine.runner.checkpoint import CheckpointLoader

    from .checkpoint.loading import load_for_inference, loaders

    schemes = {**CheckpointLoader._schemes, **loaders()}
    yield CheckpointLoader, "_schemes", OrderedDict(sorted(schemes.items(), reverse=True))  # longer prefixes first
    yield infer, "_load_checkpoint", load_for_inference


def _checkpoint_fit() -> Iterator[Replacement]:
    from mmengine.runner import checkpoint

    from .checkpoint.loading import load_state_dict

    yield checkpoint, "load_state_dict", load_state_dict


def _pretrained() -> Iterator[Replacement]:
    from mmengine.registry import WEIGHT_INITIALIZERS

    from .checkpoint.loading import PretrainedInit

    yield WEIGHT_INITIALIZERS.module_dict, "Pretrained", PretrainedInit


def _whole_files() -> Iterator[Replacement]:
    from mmengine.config import Config
    from mmengine.fileio import LocalBackend

    from .checkpoint.publish import dump, put, put_text

    yield LocalBackend, "put", put
    yield LocalBackend, "put_text", put_text
    yield Config, "dump", dump


def _config_names() -> Iterator[Replacement]:
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    from .config_names import PREFIX, find_config

    original = Config._get_cfg_path

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(PREFIX):
            return str(find_config(cfg_path)), None
        scope, _, name = cfg_path.rpartition("::")
        spec = importlib.util.find_spec(scope) if scope.isidentifier() else None
        for folder in (spec and spec.submodule_search_locations) or ():
            # As MMEngine in the end, which reads all metafiles of the package before that, for each file anew.
            if (path := Path(folder, ".mim/configs", name)).is_file():
                return str(path), scope
        with warnings.catch_warnings():  # for each config of another package, which no user can change
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
            return original(cfg_path, filename)

    yield Config, "_get_cfg_path", staticmethod(get_cfg_path)
    if is_onedl():
        for module in EXTRAS:
            yield MODULE2PACKAGE, module, distribution(module)[0]


def _image_files() -> Iterator[Replacement]:
    from mmdet.registry import TRANSFORMS

    from .datasets.load_image import LoadImageFromFile

    yield TRANSFORMS.module_dict, "LoadImageFromFile", LoadImageFromFile


# In the order in which they are applied: the first two before anything imports `mmdet.models`.
PATCHES = (
    Patch(
        "operators",
        "`mmcv._ext`: operators of torchvision and PyTorch where none are compiled; else `roi_align_forward` copies "
        "its inputs into the usual memory layout",
        "`mmdet` cannot be imported with `mmcv-lite`; a compiled RoIAlign reads channels-last feature maps wrongly",
        "[mmdetection#10619](https://github.com/open-mmlab/mmdetection/issues/10619), "
        "[mmcv#2203](https://github.com/open-mmlab/mmcv/issues/2203)",
        "mmcv 2.1",
        "MMDetection imports without compiled operators, and MMCV's RoIAlign checks strides",
        _operators,
    ),
    Patch(
        "panopticapi",
        "`panopticapi`: ids, colors and PQ, where the package is not installed",
        "no panoptic dataset or metric: the package is on no index",
        "`mmdet/evaluation/metrics/coco_panoptic_metric.py`, first lines",
        "mmdet 3.3",
        "`panopticapi` is on PyPI, or MMDetection does not need it",
        _panopticapi,
    ),
    Patch(
        "coordinates",
        "anchors, points, RoI extractors, four DETR heads, RTMDet-Ins' masks and deformable attention compute places "
        "in fp32",
        "under mixed precision boxes are up to 4 px off",
        "`base_roi_extractor.py`, `anchor_generator.py`, `point_generator.py` of MMDetection",
        "mmdet 3.3",
        "MMDetection leaves boxes and priors in fp32",
        _coordinates,
    ),
    Patch(
        "checkpoint_files",
        "`CheckpointLoader`: all addresses but `pavi://` load through our reader, which runs nothing, `http://` from "
        "this machine alone; MMEngine's inferencers take from the config in a checkpoint what is plain data",
        "PyTorch 2.6 and later refuse MMEngine's own checkpoints; with `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD` a file runs "
        "code",
        "[mmengine#1655](https://github.com/open-mmlab/mmengine/issues/1655)",
        "mmengine 0.10",
        "MMEngine loads with `weights_only=True` and an allow-list",
        _checkpoint_files,
        needs_mmdetection=False,
    ),
    Patch(
        "checkpoint_fit",
        "`mmengine.runner.checkpoint.load_state_dict`: converts, reports, and refuses what does not fit",
        "weights that fit nothing are a warning, and training starts from random ones",
        "`mmengine/runner/checkpoint.py`, `load_state_dict`",
        "mmengine 0.10",
        "MMEngine has a hook between file and model",
        _checkpoint_fit,
    ),
    Patch(
        "pretrained",
        "`init_cfg=dict(type='Pretrained')`: the keys `partial` and `warm_start`; official files of our networks",
        "the keys are refused; where MMDetection is not installed, official files do not fit",
        "`mmengine/model/weight_init.py`, `PretrainedInit`; `BaseModule.init_weights` knows it by this name",
        "mmengine 0.10",
        "`BaseModule.init_weights` lets other initializers load files",
        _pretrained,
        needs_mmdetection=False,
    ),
    Patch(
        "whole_files",
        "`LocalBackend.put` and `put_text`, `Config.dump`: a file appears whole or not at all",
        "a kill or a full disk leaves torn checkpoints and predictions under their final names",
        "[mmengine#1519](https://github.com/open-mmlab/mmengine/issues/1519) (the same for downloads)",
        "mmengine 0.10",
        "MMEngine writes to a temporary file and renames it",
        _whole_files,
    ),
    Patch(
        "config_names",
        "`Config._get_cfg_path`: `localvit_det::NAME` in `_base_`; with OneDL also `mmseg::` and `mmpretrain::`; "
        "files of `mmdet::` and others without their metafiles",
        "MMEngine knows OpenMMLab's packages only, and OneDL's by names that they do not have; each file of `mmdet::` "
        "costs 0.2 s, in which 100 metafiles are read that do not decide anything",
        "`mmengine/config/utils.py`, `MODULE2PACKAGE` and `_get_cfg_metainfo`",
        "mmengine 0.10",
        "packages can register their configs",
        _config_names,
    ),
    Patch(
        "image_files",
        "`LoadImageFromFile` in pipelines of MMDetection: a subclass, which does what MMCV's does until "
        "`BrokenImagesHook` of our configs lets `broken_images`, `max_pixels` and `pixel_range` hold",
        "one broken image ends a training, a cut-off one trains with what is missing in gray, and a few kB of a file "
        "can take all memory",
        "`mmcv/transforms/loading.py`, `LoadImageFromFile`",
        "mmcv 2.1",
        "MMCV's transform can skip and name what it cannot load, and has a limit of pixels",
        _image_files,
    ),
)

if __name__ == "__main__":
    sys.stdout.write(table())
