"""Published weights of MMDetection's own Swin and PVT load as they are, with the report that ours have.

MMDetection takes Swin's official files only with `convert_weights=True`, timm's not at all, and its own only out of a
detector; what is missing then is not reported.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmdet.models.backbones.pvt import PyramidVisionTransformer, pvt_convert
from mmdet.models.backbones.swin import SwinTransformer, swin_converter
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from ..errors import CheckpointError, shortened
from .layouts import below, describe_choice, official_swin, plain_names, resize_position_bias, weights_in
from .loading import label_of
from .matching import LoadReport, compare, tensors_in

# What a classifier lacks, or has beyond a backbone.
_OPTIONAL = re.compile(r"^norm\d\.|^layers\.\d\.2\.|attn_mask$|^(head|norm|cls_token|mask_token)(\.|$)")
_BIAS, _INDEX = "relative_position_bias_table", "relative_position_index"  # the second one follows from the settings
KINDS = (SwinTransformer, PyramidVisionTransformer)


@contextmanager
def published_weights(model: nn.Module) -> Iterator[None]:
    """Let `init_weights` load any published file into the Swin and PVT of MMDetection in a model, within the block."""
    backbones = [part for part in model.modules() if isinstance(part, KINDS)]
    for backbone in backbones:
        init = backbone.init_cfg
        if isinstance(init, Mapping) and init.get("checkpoint"):
            vars(backbone)["init_weights"] = functools.partial(_init_weights, backbone, init["checkpoint"])
    try:
        yield
    finally:
        for backbone in backbones:
            vars(backbone).pop("init_weights", None)


def _init_weights(backbone: nn.Module, source: str) -> None:
    content = CheckpointLoader.load_checkpoint(source, map_location="cpu")
    facts = {"source": source, **label_of(weights_in(content) or {})}
    report = load_published(backbone, content, facts["source"])
    report.choice = facts.get("choice", "")
    print_log(str(report), "current")


def load_published(backbone: nn.Module, content: Mapping[str, Any], source: str) -> LoadReport:
    """Load a published file into a Swin or PVT of MMDetection; see :func:`fit_published`."""
    report, state = fit_published(backbone, content, source)
    backbone.load_state_dict({name: state[name] for name in report.found}, strict=False)
    return report


def fit_published(backbone: nn.Module, content: Mapping[str, Any], source: str) -> tuple[LoadReport, dict[str, Tensor]]:
    """Bring a published file into the layout of a Swin or PVT of MMDetection, which stays as it is.

    Args:
        content: What the file holds: weights in the official layout, timm's or MMDetection's, alone or in a detector.
        source: The file's name.

    Returns:
        What happened to every tensor, and the tensors.

    Raises:
        CheckpointError: The file has no weights, or they do not fit.
    """
    weights = plain_names(tensors_in(content, source, type(backbone).__name__), backbone_alone=True)
    weights = below(weights, "backbone") or weights
    state = {name: t for name, t in _mmdetection_names(backbone, weights).items() if not name.endswith(_INDEX)}
    resized: dict[str, Tensor] = {}
    for name, wanted in backbone.state_dict().items():
        if name.endswith(_BIAS) and name in state and state[name].shape != wanted.shape:
            table = resize_position_bias(state[name], wanted.shape)
            resized |= {} if table is None else {name: table}
    report, state = compare(backbone, state | resized, source)
    report.parts, report.choice = (), describe_choice(content)
    report.missing = {name for name in report.missing if not name.endswith(_INDEX)}
    report.converted = {name for name in report.found if name not in weights}
    report.resized = set(resized)
    report.allowed = {name for name in report.missing | report.unexpected if _OPTIONAL.search(name)}
    if report.problems:
        raise CheckpointError(
            f"{source} does not fit {type(backbone).__name__} ({len(report.found)} of {report.size} tensors do; "
            f"{shortened(report.problems)}): give the backbone the size and settings that the file was made for."
        )
    return report, state


def _mmdetection_names(backbone: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of an official layout (Swin's also timm's, Hugging Face's) under MMDetection's names."""
    if isinstance(backbone, PyramidVisionTransformer):  # the second version, too
        official = any(re.match(r"block\d\.", name) for name in weights)
        return dict(pvt_convert(weights) if official else weights)
    if any(name.startswith("stages.") for name in weights):  # are MMDetection's already
        return dict(weights)
    weights = official_swin(weights)
    if not any(name.startswith("layers.") for name in weights):
        return weights
    return {name.removeprefix("backbone."): tensor for name, tensor in swin_converter(weights).items()}
