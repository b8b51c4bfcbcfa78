"""Bring weights and a model together: convert, compare, report, and refuse what does not fit, with the reason.

In a warm start, which is asked for by name, a backbone takes from another network's weights whatever means the same in
both (`warm_starts` of its class).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Size, Tensor, nn

from ..backbones.base import LocalViT
from ..errors import CheckpointError, did_you_mean, shortened
from .layouts import (
    RESIZERS,
    describe_choice,
    is_swin,
    official_swin,
    plain_names,
    rename_key,
    several_models,
    split_joint,
    weights_in,
)
from .networks import Origin, backbones_in, common_class_counts, families_from, find_origin

# strict: everything must fit; finetune: heads for other classes start new; partial: whatever fits is taken.
Policy = Literal["strict", "finetune", "partial"]
POLICIES: tuple[str, ...] = get_args(Policy)
_COLUMNS = ("found", "converted", "resized", "new", "missing", "unexpected", "mismatched")


@dataclass
class LoadReport:
    """The names of tensors, by what happened to them.

    A name stands in one of found, new, zeroed, missing, mismatched and encoded (all tensors of the model) or in
    unexpected.
    """

    source: str  # the file
    target: str  # what was loaded into
    parts: tuple[str, ...]  # of the model, a row for each
    found: set[str] = field(default_factory=set)  # taken from the file
    converted: set[str] = field(default_factory=set)  # those found under another name or in another form
    resized: set[str] = field(default_factory=set)  # those found that were made for another window size
    new: set[str] = field(default_factory=set)  # left as initialised, because they depend on the number of classes
    zeroed: set[str] = field(default_factory=set)  # set to zero by a warm start
    missing: set[str] = field(default_factory=set)  # not in the file
    unexpected: set[str] = field(default_factory=set)  # in the file only, under the file's names
    mismatched: dict[str, tuple[Size, Size]] = field(default_factory=dict)  # other shapes, in the file and the model
    encoded: dict[str, torch.dtype] = field(default_factory=dict)  # INT8 and others, where the model has floats
    allowed: set[str] = field(default_factory=set)  # those missing or unexpected that need not fit
    choice: str = ""  # which of the file's sets of weights was taken, where that is not clear by itself

    @property
    def problems(self) -> list[str]:
        """What must not happen in silence, each as a short phrase; shapes come first, as they say most."""
        shapes = sorted(self.mismatched.items())
        return [
            *(f"{name} is {str(kind).removeprefix('torch.')}" for name, kind in sorted(self.encoded.items())),
            *(f"{name} is {tuple(old)} instead of {tuple(new)}" for name, (old, new) in shapes),
            *(f"{name} is missing" for name in sorted(self.missing - self.allowed)),
            *(f"{name} is unexpected" for name in sorted(self.unexpected - self.allowed)),
        ]

    @property
    def size(self) -> int:
        """Tensors of the model."""
        kinds = (self.found, self.new, self.zeroed, self.missing, self.mismatched, self.encoded)
        return sum(map(len, kinds))

    def __str__(self) -> str:
        rows = [("part", *_COLUMNS), *self._rows()]
        width = max(len(row[0]) for row in rows)
        lines = [f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in rows]
        return "\n  ".join([f"Loading {self.source} into {self.target}:", *lines, *self._notes()])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        known = tuple(f"{part}." for part in self.parts)
        for part in (*self.parts, ""):
            counts = []
            for column in _COLUMNS:
                names = getattr(self, column)
                # The last row is of what belongs to no part, such as whatever else the file holds.
                counts.append(sum(n.startswith(f"{part}.") if part else not n.startswith(known) for n in names))
            if any(counts):
                yield (part or ("other" if self.parts else "backbone"), *map(str, counts))

    def _notes(self) -> Iterator[str]:
        if self.choice:
            yield f"weights of the file: {self.choice}"
        for what, names in (
            ("not needed", self.unexpected & self.allowed),
            ("not in the file, left as initialised", self.missing & self.allowed),
            ("left as initialised for other classes", self.new),
            ("set to zero", self.zeroed),
            ("quantized, left as initialised", self.encoded),
        ):
            if names:
                yield f"{what}: {shortened(sorted(names))}"


def prepare(
    module: nn.Module, content: Mapping[str, Any], policy: Policy = "strict", source: str = "a state dict"
) -> tuple[dict[str, Tensor], LoadReport]:
    """Convert weights for a model with a backbone of this package; the model stays as it is.

    Args:
        content: Tensors by name in any known layout, or a checkpoint with such a dict in it.
        policy: What may fail to fit.
        source: The file's name.

    Returns:
        What can be loaded into ``module``, and the report.

    Raises:
        CheckpointError: The weights do not fit; the sentence names the likely reason.
    """
    weights = tensors_in(content, source, _title(module))
    weights = plain_names(weights, "" in backbones_in(module), [name for name, _ in module.named_children()])
    report, state = compare(module, weights, source)
    report.choice = describe_choice(content)
    if policy == "finetune" and common_class_counts(module, report.mismatched):
        report.new |= set(report.mismatched)
        report.mismatched = {}
    if report.problems and (policy != "partial" or not report.found):
        raise CheckpointError(
            f"{source} does not fit {report.target} ({len(report.found)} of {report.size} tensors do; "
            f"{shortened(report.problems)}): {_reason(report, module, weights)}."
        )
    return {name: state[name] for name in report.found}, report


def compare(module: nn.Module, weights: Mapping[str, Any], source: str) -> tuple[LoadReport, dict[str, Tensor]]:
    """Bring weights under the model's names and into its shapes, and return the report on them, and the weights."""
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
        # Integers and eight-bit floats in place of weights come with a scale.
        elif target[name].is_floating_point() and not (tensor.is_floating_point() and tensor.element_size() > 1):
            report.encoded[name] = tensor.dtype
        elif tensor.shape == target[name].shape:
            report.found.add(name)
        else:
            report.mismatched[name] = (tensor.shape, target[name].shape)
    # A count of batches that nothing but cumulative averages uses; MMEngine lets it be missing, too.
    absent = (name for name in target if name not in state and not name.endswith("num_batches_tracked"))
    report.missing |= set(absent)
    for prefix, backbone in backbones.items():
        own = {name for name in report.unexpected if name.startswith(prefix)}
        report.allowed |= {name for name in own if backbone.lacks(name.removeprefix(prefix))}
        if not prefix:  # inside a detector everything has to fit; classifiers have a head, and no output norms
            pattern = backbone.optional_weights
            if not any(re.search(pattern, name) for name in report.found):  # they may be missing together
                report.allowed |= {name for name in report.missing if re.search(pattern, name)}
            report.allowed |= {name for name in report.unexpected if re.search(rf"^head\.|{pattern}", name)}
    return report, state


def _convert_backbone(
    state: dict[str, Tensor], prefix: str, backbone: LocalViT, target: Mapping[str, Tensor], report: LoadReport
) -> dict[str, Tensor]:
    """Rename, reshape and resize what belongs to a backbone; note in ``report`` what was done."""
    others = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name not in others}
    own = split_joint(own, backbone.joint_weights)
    ours: dict[str, str | None] = {name: name for name in own}
    official = {name: rename_key(name, backbone.official_layout) for name in own}
    fits = [sum(n is not None and prefix + n in target for n in names.values()) for names in (ours, official)]
    result: dict[str, Tensor] = {}
    for old, new in (official if fits[1] > fits[0] else ours).items():
        if new is None:
            report.unexpected.add(prefix + old)
            report.allowed.add(prefix + old)
            continue
        result[prefix + new] = own[old]
        if new != old:
            report.converted.add(prefix + new)
    result |= others
    report.converted &= set(target)
    for name in result.keys() & target.keys():
        tensor, shape = result[name], target[name].shape
        if tensor.ndim == 2 and shape == (*tensor.shape, 1, 1):  # a Linear's weight for a 1×1 convolution
            tensor = tensor[..., None, None]
            report.converted.add(name)
        kinds = [kind for pattern, kind in backbone.resizable_weights if re.search(pattern, name)]
        resizable = kinds and name.startswith(prefix) and tensor.shape != shape
        if resizable and (resized := RESIZERS[kinds[0]](tensor, shape)) is not None:
            tensor = resized
            report.resized.add(name)
        result[name] = tensor
    return result


def _title(module: nn.Module) -> str:
    name = type(module).__name__
    for prefix, backbone in backbones_in(module).items():  # the first
        return f"{name} with {Origin.of(backbone)}" if prefix else str(Origin.of(backbone))
    return name


# ---- why it does not fit, in the words of someone who knows what to do about it


def tensors_in(content: Mapping[str, Any], source: str, target: str) -> dict[str, Tensor]:
    """Return the tensors in a checkpoint by name; raise CheckpointError, which names source and target, without any."""
    weights = weights_in(content)
    if weights is not None:
        return {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    keys = shortened([str(key) for key in content if key != "meta"]) or "nothing"
    parts = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    what, advice = f"no weights ({keys})", "give another checkpoint"
    if any("optim" in str(key) or key == "param_groups" for key in content):
        what = f"only the state of an optimiser ({keys}) and no weights"
        advice = "give the checkpoint that was saved with the model"
    elif any(isinstance(value, np.ndarray) for part in parts for value in part.values()):
        what, advice = f"NumPy's arrays and no tensors ({keys})", "save it again after torch.from_numpy"
    raise CheckpointError(f"{source} cannot be loaded into {target}, because it holds {what}: {advice}.")


def _reason(report: LoadReport, module: nn.Module, state: Mapping[str, Tensor]) -> str:
    if report.encoded:
        return "it is quantized; give the floating-point weights that it was made from"
    parts = [name for name, _ in module.named_children()]
    if several := several_models(state, parts):
        return f"it holds several models ({', '.join(several)}); take one of them with FILE#{several[0]}"
    prefix, backbone = next(iter(backbones_in(module).items()))
    wanted = Origin.of(backbone)
    inner = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    if not prefix and inner:
        return (
            "it is a whole detector and not a backbone; give it to --load-from (in a config: load_from), or take "
            "only its backbone with --pretrained FILE#backbone"
        )
    swin = is_swin(inner or state)  # whose names are those of our families for more than a half
    origin = None if swin else find_origin(inner or state)
    if prefix and not inner and (origin or not {name.partition(".")[0] for name in state} & set(parts)):
        what = f"the backbone {origin}" if origin else "another kind of model, perhaps a classifier"
        return (
            f"it is {what} and not a detector; give it to --pretrained (in a config: pretrained, or the init_cfg of "
            "model.backbone)"
        )
    if swin:
        return (
            f"it is a Swin Transformer's and the model's backbone is {wanted}; use its own weights, or take what means "
            f"the same with warm_start=swin, which {', '.join(cls.title for cls in families_from('swin'))} have"
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
    counts = common_class_counts(module, report.mismatched)
    if counts and len(report.problems) == len(report.mismatched):
        return (
            f"it was trained for {counts[0]} classes and the model has {counts[1]}; test it with its own classes, or "
            "fine-tune it with new heads by --load-from (in a config: load_policy='finetune')"
        )
    same, partial = (
        ("use the config that it was trained with", "load_policy='partial'")
        if prefix
        else ("give the backbone the same", "partial=True in its init_cfg")
    )
    return f"it was made with other settings; {same}, or take what fits with {partial}"


# ---- weights of another network, which are asked for by its name

NAMES = ("swin",)  # networks whose layout is known here


def warm_start(module: nn.Module, weights: Mapping[str, Tensor], name: str, source: str) -> LoadReport:
    """Load what fits of another network's weights into a backbone of this package; return what became of every tensor.

    Args:
        weights: The other backbone's, in its official layout, timm's, Hugging Face's, MMDetection's or
            MMPretrain's.
        name: What network that is.
        source: The file's name.

    Raises:
        CheckpointError: There is no such warm start, or the weights are of another network or size.
    """
    if name not in NAMES:
        raise CheckpointError(f"There is no warm start '{name}'{did_you_mean(name, NAMES)}: choose from {NAMES}.")
    recipe = getattr(module, "warm_starts", {}).get(name)
    if recipe is None:
        known = ", ".join(cls.__name__ for cls in families_from(name))
        raise CheckpointError(f"A {type(module).__name__} has no warm start from {name}, only {known}: leave it out.")
    official = official_swin(weights)
    if "layers.0.blocks.0.attn.qkv.weight" not in official:
        first = shortened(sorted(official))
        raise CheckpointError(f"{source} holds no weights of a Swin ({first}): give Swin's, or leave warm_start out.")
    official = split_joint(official, recipe.splits)
    target = module.state_dict()
    state, left_out = {}, set()
    for key, tensor in official.items():
        new = rename_key(key, recipe.rules)
        if new is None or (new not in target and re.search(recipe.surplus, key)):
            left_out.add(key)
        else:
            state[new] = tensor
    report, state = compare(module, state, source)
    report.unexpected |= left_out
    report.allowed |= left_out | report.missing
    report.converted = set(report.found)
    report.zeroed = {key for key in report.missing if re.search(recipe.zeros, key)}
    report.missing -= report.zeroed
    if report.problems or not report.found:
        raise CheckpointError(
            f"{source} does not fit a warm start of {report.target} from {name} ({shortened(report.problems)}): give "
            f"the weights of the same size ({recipe.size})."
        )
    values = {key: state[key] for key in report.found}
    values |= {key: torch.zeros_like(target[key]) for key in report.zeroed}
    module.load_state_dict(values, strict=False)
    return report
