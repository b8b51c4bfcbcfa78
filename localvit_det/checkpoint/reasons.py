"""Why a checkpoint does not fit, in the words of someone who knows what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .classes import common_class_counts
from .families import Origin, backbones_in, find_origin
from .report import LoadReport, shortened


def sentence(report: LoadReport, module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """One sentence: that it does not fit, the first few tensors, the likely reason and what to do.

    Args:
        report: What does not fit.
        module: The model.
        state: The file's tensors, under the file's names.
    """
    first = shortened(report.problems)
    return (
        f"{report.source} does not fit {report.target} ({len(report.found)} of {report.size} tensors do; {first}): "
        f"{_reason(report, module, state)}."
    )


def no_weights(source: str, target: str, content: Mapping[str, Any]) -> str:
    """The sentence for a file without tensors."""
    keys = shortened([str(key) for key in content if key != "meta"]) or "nothing"
    if {"optimizer", "param_groups"} & set(content):
        return (
            f"{source} cannot be loaded into {target}, because it holds only the state of an optimiser ({keys}) and "
            "no weights: give the checkpoint that was saved with the model."
        )
    return f"{source} cannot be loaded into {target}, because it holds no weights ({keys}): give another checkpoint."


def _reason(report: LoadReport, module: nn.Module, state: Mapping[str, Tensor]) -> str:
    prefix, backbone = next(iter(backbones_in(module).items()))
    wanted = Origin.of(backbone)
    inner = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    if not prefix and inner:
        return (
            "it is a whole detector and not a backbone; give it to --load-from (in a config: load_from), or take "
            "only its backbone with init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')"
        )
    origin = find_origin(inner or state)
    if prefix and not inner and (origin or not _parts_found(module, state)):
        what = f"the backbone {origin}" if origin else "another kind of model, perhaps a classifier"
        return (
            f"it is {what} and not a detector; give it to --pretrained (in a config: pretrained, or the init_cfg of "
            "model.backbone)"
        )
    if origin is None:
        if prefix and not any(name.startswith(prefix) for name in report.found):
            return f"its backbone is none of this package's families, and the model's is {wanted}; use its own config"
        if not prefix and not report.found:
            return f"it belongs to none of this package's families, and the model is {wanted}; use its own weights"
    elif origin.family is not wanted.family:
        return f"its backbone is {origin} and the model's is {wanted}; use a config of that family"
    elif (origin.embed_dims, origin.depths) != (wanted.embed_dims, wanted.depths):
        return f"its backbone is {origin} and the model's is {wanted}; use a config of that size"
    counts = common_class_counts(module, ((name, *shapes) for name, shapes in report.mismatched.items()))
    if counts and len(report.problems) == len(report.mismatched):
        return (
            f"it was trained for {counts[0]} classes and the model has {counts[1]}; test it with its own classes, or "
            "fine-tune it with new heads by tools/train.py --load-from (in a config: load_policy='finetune')"
        )
    return (
        "it was made with other settings; use the config that it was trained with, or take what fits with "
        "load_policy='partial'"
        if prefix
        else "it was made with other settings; give the backbone the same, or take what fits with partial=True in its "
        "init_cfg"
    )


def _parts_found(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    parts = {name.partition(".")[0] for name in state}
    return bool(parts & {name for name, _ in module.named_children()})
