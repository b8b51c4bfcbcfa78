"""Weights and a model brought together: converted, compared, and refused where they do not fit.

Nothing here needs MMDetection: `load_backbone` is for plain PyTorch, :mod:`.load` is MMEngine's gate to the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor, nn

from ..backbones.base import LocalViT
from ..errors import CheckpointError
from .identify import Origin, backbones_in, common_class_counts
from .layouts import RESIZERS, below, describe_choice, fit_shapes, plain_names, rename_key, split_joint, weights_in
from .official import OFFICIAL, official_address
from .read import load_weights_only
from .report import LoadReport, misfit, no_weights

# strict: everything must fit; finetune: heads for other classes start new; partial: whatever fits is taken.
Policy = Literal["strict", "finetune", "partial"]
POLICIES: tuple[str, ...] = get_args(Policy)


def load_backbone(backbone: LocalViT, source: str | os.PathLike, prefix: str = "backbone.") -> LoadReport:
    """Load a file into a backbone.

    Args:
        backbone: The backbone.
        source: Path or https address of official weights as they are, of a backbone's state dict, or of a detector,
            whose backbone is taken. `FILE#model_ema` takes the weights under that key of the file; 'official'
            downloads what the backbone's authors published.
        prefix: Of the backbone's names in a detector.

    Returns:
        What happened to every tensor; print it.

    Raises:
        CheckpointError: The file cannot be read, or its weights do not fit.
    """
    if source == OFFICIAL and not os.path.exists(source):
        source = official_address(type(backbone), {"arch": Origin.of(backbone).arch})
    content = load_weights_only(source)
    state, report = prepare(backbone, below(weights_in(content) or {}, prefix) or content, source=os.fspath(source))
    report.choice = describe_choice(content)
    backbone.load_state_dict(state, strict=False)
    return report


def prepare(
    module: nn.Module, content: Mapping[str, Any], policy: Policy = "strict", source: str = "a state dict"
) -> tuple[dict[str, Tensor], LoadReport]:
    """Convert weights for a model with a backbone of this package; the model stays as it is.

    Args:
        module: The model.
        content: Tensors by name in any known layout, or a checkpoint with such a dict in it.
        policy: What may fail to fit.
        source: The file's name.

    Returns:
        What can be loaded into ``module``, and the report.

    Raises:
        CheckpointError: The weights do not fit; the sentence names the likely reason.
    """
    weights = weights_in(content)
    if weights is None:
        raise CheckpointError(no_weights(source, _title(module), content))
    weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    parts = [name for name, _ in module.named_children()]
    weights = plain_names(weights, "" in backbones_in(module), parts)
    report, state = compare(module, weights, source)
    report.choice = describe_choice(content)
    counts = common_class_counts(module, ((name, *shapes) for name, shapes in report.mismatched.items()))
    if policy == "finetune" and counts:
        report.new |= set(report.mismatched)
        report.mismatched = {}
    if report.problems and (policy != "partial" or not report.found):
        raise CheckpointError(misfit(report, module, weights))
    return {name: state[name] for name in report.found}, report


def compare(module: nn.Module, weights: Mapping[str, Any], source: str) -> tuple[LoadReport, dict[str, Tensor]]:
    """Bring weights into the model's layout and compare them with it.

    Returns:
        The report, and the weights under the model's names.
    """
    target = module.state_dict()
    report = LoadReport(source, _title(module), tuple(name for name, _ in module.named_children()))
    state = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    backbones = backbones_in(module)
    if "" in backbones:
        report.parts = ()
    for prefix, backbone in backbones.items():
        state = _convert_backbone(state, prefix, backbone, target, report)
    for name, tensor in state.items():
        if name not in target:
            report.unexpected.add(name)
        elif target[name].is_floating_point() and not is_plain_float(tensor):
            report.encoded[name] = tensor.dtype
        elif tensor.shape == target[name].shape:
            report.found.add(name)
        else:
            report.mismatched[name] = (tensor.shape, target[name].shape)
    # A count of batches that nothing but cumulative averages uses; MMEngine lets it be missing, too.
    absent = (name for name in target if name not in state and not name.endswith("num_batches_tracked"))
    report.missing |= set(absent)
    for prefix, backbone in backbones.items():
        if not prefix:  # inside a detector everything has to fit
            _allow_optional(report, backbone)
    return report, state


def is_plain_float(tensor: Tensor) -> bool:
    """Whether numbers mean themselves; integers and eight-bit floats in place of weights come with a scale."""
    return tensor.is_floating_point() and tensor.element_size() > 1


def _convert_backbone(
    state: dict[str, Tensor], prefix: str, backbone: LocalViT, target: Mapping[str, Tensor], report: LoadReport
) -> dict[str, Tensor]:
    """Rename, reshape and resize what belongs to a backbone; notes in ``report`` what it did."""
    others = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    own = {name: tensor for name, tensor in state.items() if name not in others}
    state = split_joint(own, backbone.joint_weights) | others
    inside = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    renamed = {name: rename_key(short, backbone.official_layout) for name, short in inside.items()}
    ours, official = (
        sum(short is not None and prefix + short in target for short in names.values()) for names in (inside, renamed)
    )
    names = renamed if official > ours else inside
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new_name = name
        if name in names:
            short = names[name]
            if short is None:
                report.unexpected.add(name)
                report.allowed.add(name)
                continue
            new_name = prefix + short
        converted[new_name] = tensor
        if new_name != name:
            report.converted.add(new_name)
    fitted = fit_shapes(converted, target)
    report.converted |= {name for name, tensor in fitted.items() if tensor is not converted[name]}
    for name, tensor in fitted.items():
        if name.startswith(prefix) and name in target and tensor.shape != target[name].shape:
            for pattern, kind in backbone.resizable_weights:
                if re.search(pattern, name) and (resized := RESIZERS[kind](tensor, target[name].shape)) is not None:
                    fitted[name] = resized
                    report.resized.add(name)
    report.converted &= set(target)
    return fitted


def _allow_optional(report: LoadReport, backbone: LocalViT) -> None:
    """Classifiers have no output norms, which may be missing together or be left over, and a head."""
    optional = {name for name in report.missing if re.search(backbone.optional_weights, name)}
    if not any(re.search(backbone.optional_weights, name) for name in report.found):
        report.allowed |= optional
    report.allowed |= {name for name in report.unexpected if re.search(rf"^head\.|{backbone.optional_weights}", name)}


def _title(module: nn.Module) -> str:
    backbones = list(backbones_in(module).items())
    name = type(module).__name__
    if not backbones:
        return name
    prefix, backbone = backbones[0]
    return f"{name} with {Origin.of(backbone)}" if prefix else str(Origin.of(backbone))
