"""What a load did to every tensor, as one short table, and why it does not fit, as one sentence.

The sentences are in the words of someone who knows what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor, nn

from ..errors import shortened
from .identify import Origin, backbones_in, common_class_counts, find_origin
from .layouts import is_swin, several_models

COLUMNS = ("found", "converted", "resized", "new", "missing", "unexpected", "mismatched")


@dataclass
class LoadReport:
    """The names of tensors, by what happened to them.

    A name stands in one of found, new, zeroed, missing, mismatched and encoded (all tensors of the model) or in
    unexpected.

    Args:
        source: The file.
        target: What was loaded into.
        found: Taken from the file.
        converted: Those found under another name or in another form.
        resized: Those found that were made for another window size.
        zeroed: Set to zero by a warm start.
        new: Left as initialised, because they depend on the number of classes.
        missing: Not in the file.
        unexpected: In the file only, under the file's names.
        mismatched: Shapes in the file and in the model, where they differ.
        encoded: Types of tensors that are no plain floats, such as INT8 ones, where the model has floats.
        allowed: Those missing or unexpected that need not fit.
        choice: Which of the file's sets of weights was taken, where that is not clear by itself.
    """

    source: str
    target: str
    parts: tuple[str, ...]
    found: set[str] = field(default_factory=set)
    converted: set[str] = field(default_factory=set)
    resized: set[str] = field(default_factory=set)
    new: set[str] = field(default_factory=set)
    zeroed: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    mismatched: dict[str, tuple[Size, Size]] = field(default_factory=dict)
    encoded: dict[str, torch.dtype] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)
    choice: str = ""

    @property
    def problems(self) -> list[str]:
        """What must not happen silently, each as a short phrase; shapes first, they say most."""
        shapes = [
            f"{name} is {tuple(old)} instead of {tuple(new)}" for name, (old, new) in sorted(self.mismatched.items())
        ]
        missing = [f"{name} is missing" for name in sorted(self.missing - self.allowed)]
        unexpected = [f"{name} is unexpected" for name in sorted(self.unexpected - self.allowed)]
        encoded = [f"{name} is {str(kind).removeprefix('torch.')}" for name, kind in sorted(self.encoded.items())]
        return encoded + shapes + missing + unexpected

    @property
    def size(self) -> int:
        """Tensors of the model."""
        return (
            len(self.found)
            + len(self.new)
            + len(self.zeroed)
            + len(self.missing)
            + len(self.mismatched)
            + len(self.encoded)
        )

    def __str__(self) -> str:
        rows = [("part", *COLUMNS), *self._rows()]
        width = max(len(row[0]) for row in rows)
        lines = [f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in rows]
        lines += list(self._notes())
        return "\n  ".join([f"Loading {self.source} into {self.target}:", *lines])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        known = tuple(f"{part}." for part in self.parts)
        for part in (*self.parts, ""):
            counts = []
            for column in COLUMNS:
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


def misfit(report: LoadReport, module: nn.Module, state: Mapping[str, Tensor]) -> str:
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
    if any("optim" in str(key) or key == "param_groups" for key in content):
        return (
            f"{source} cannot be loaded into {target}, because it holds only the state of an optimiser ({keys}) and "
            "no weights: give the checkpoint that was saved with the model."
        )
    if any(isinstance(value, np.ndarray) for part in (content, *_mappings(content)) for value in part.values()):
        return (
            f"{source} cannot be loaded into {target}, because it holds NumPy's arrays and no tensors ({keys}): save "
            "it again after torch.from_numpy."
        )
    return f"{source} cannot be loaded into {target}, because it holds no weights ({keys}): give another checkpoint."


def _mappings(content: Mapping[str, Any]) -> list[Mapping]:
    return [value for value in content.values() if isinstance(value, Mapping)]


def _reason(report: LoadReport, module: nn.Module, state: Mapping[str, Tensor]) -> str:
    if report.encoded:
        return "it is quantized; give the floating-point weights that it was made from"
    if several := several_models(state, [name for name, _ in module.named_children()]):
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
    if prefix and not inner and (origin or not _parts_found(module, state)):
        what = f"the backbone {origin}" if origin else "another kind of model, perhaps a classifier"
        return (
            f"it is {what} and not a detector; give it to --pretrained (in a config: pretrained, or the init_cfg of "
            "model.backbone)"
        )
    if swin:
        return (
            f"it is a Swin Transformer's and the model's backbone is {wanted}; use its own weights, or take what means "
            "the same with warm_start=swin, which GG-Transformer, DWNet and MSG-Transformer have"
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
            "fine-tune it with new heads by --load-from (in a config: load_policy='finetune')"
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
