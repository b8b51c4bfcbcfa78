"""What a family declares: its sizes, settings for each stage, what it reports about them; and about its weights.

That is where its authors' files are, how their names map to ours, which other networks' weights it can start from, and
which learn without decay. `checkpoint` and `engine` do the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import LayerNorm2d

Number = TypeVar("Number", int, float)
Value = TypeVar("Value")

# A name in an official state dict as a regular expression, and ours; None where the tensor is left out.
Rename = tuple[str, str | Callable[[re.Match[str]], str] | None]
# The name of a fused tensor that our layout splits; the names of its parts, and how many equal shares of its rows each
# takes.
WeightSplit = tuple[str, Sequence[tuple[str, int]]]

SWIN_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dims": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dims": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dims": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}


def swin_sizes(heads: bool = True, **drop_path_rates: float) -> dict[str, dict[str, Any]]:
    """Return the ``arch_settings`` of a family with Swin's widths and depths, and attention heads if it has some.

    The drop path rates are the family's own, by size; sizes that are not named are left out.
    """
    dropped = () if heads else ("num_heads",)
    return {
        name: {key: value for key, value in SWIN_SIZES[name].items() if key not in dropped} | {"drop_path_rate": rate}
        for name, rate in drop_path_rates.items()
    }


def stage_widths(embed_dims: int | Sequence[int], stages: int) -> tuple[int, ...]:
    """Return the channels of each stage: as :func:`for_each_stage`, one doubled from stage to stage."""
    if isinstance(embed_dims, int):
        return tuple(embed_dims * 2**i for i in range(stages))
    return for_each_stage("embed_dims", embed_dims, stages)


def for_each_stage(name: str, value: Number | Sequence[Number], stages: int) -> tuple[Number, ...]:
    """Return a setting for each stage, which is given per stage or once for all; a ValueError names another number."""
    if isinstance(value, (int, float)):
        return (value,) * stages
    if len(value) != stages:
        raise ValueError(f"{name}={tuple(value)} must be one number, or {stages}: one per stage.")
    return tuple(value)


def drop_path_ramp(rate: float, steps: int) -> list[float]:
    """Return probabilities that rise linearly from 0 to ``rate``, as Python's numbers on whatever device one builds."""
    return [rate * step / max(1, steps - 1) for step in range(steps)]


def check_stages(out_indices: Sequence[int], stages: int) -> tuple[int, ...]:
    """Return the stages whose feature maps are returned.

    Raises:
        ValueError: They are no stages, or not each one once in ascending order.
    """
    asked, known = tuple(out_indices), tuple(range(stages))
    if not asked or not set(asked) <= set(known):
        raise ValueError(f"out_indices={asked} must name stages among {known}.")
    if asked != (ordered := tuple(sorted(set(asked)))):
        raise ValueError(f"out_indices={asked} must name each stage once, in ascending order: write {ordered}.")
    return asked


def check_odd(name: str, sides: int | Sequence[int]) -> None:
    """Refuse sides of kernels that are even or below 1, by a ValueError."""
    if any(side < 1 or side % 2 == 0 for side in ([sides] if isinstance(sides, int) else sides)):
        raise ValueError(
            f"{name}={sides} must be odd: it is the side of a convolution's kernel, which has no middle otherwise."
        )


@dataclass(frozen=True)
class FeatureInfo:
    """Channels, strides and modules of a backbone's stages, under the names of timm's `model.feature_info`."""

    all_channels: Sequence[int]  # of every stage
    strides: Sequence[int]  # pixels of the image per token, of every stage
    modules: Sequence[str]  # where each stage's feature map comes from: the output norm if it has one
    out_indices: Sequence[int]  # stages whose feature maps are returned

    def channels(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """Return the channels of the returned feature maps, or of the stages ``idx``."""
        return self._of(self.all_channels, idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """Return the strides of the returned feature maps, or of the stages ``idx``."""
        return self._of(self.strides, idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> str | list[str]:
        """Return the names of the modules that make the returned feature maps, or those of the stages ``idx``."""
        return self._of(self.modules, idx)

    def _of(self, values: Sequence[Value], idx: int | Sequence[int] | None) -> Value | list[Value]:
        if isinstance(idx, int):
            return values[idx]
        return [values[i] for i in (self.out_indices if idx is None else idx)]

    def __len__(self) -> int:
        return len(self.out_indices)


@dataclass(frozen=True)
class Release:
    """What the authors of a network published for one of its sizes."""

    address: str = ""  # where they have the file; empty where they released none
    direct: str = ""  # where it can be downloaded from; empty where only a person with a browser gets it
    size: str | None = None  # as they state it
    top1: float | None = None  # ImageNet-1k top-1 accuracy in per cent, as published
    warm_start: str = ""  # a Swin's file from which it can start instead, where they released none


@dataclass(frozen=True)
class WarmStart:
    """How a family takes weights of another network."""

    rules: Sequence[Rename]  # names in the other network's official layout and ours; None: left out
    zeros: str = r"(?!)"  # pattern of what of ours starts at zero
    surplus: str = r"(?!)"  # pattern of theirs that may have no place in ours
    splits: Sequence[WeightSplit] = ()  # of tensors that are one in theirs and have names of their own in the rules
    size: str = "embed_dims and depths"  # what must be the same in both


def _swin_release(size: str, top1: float) -> Release:
    folder = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
    address = f"{folder}/swin_{size}_patch4_window7_224.pth"
    return Release(address, address, top1=top1)


SWIN_RELEASES = {size: _swin_release(size, top1) for size, top1 in (("tiny", 81.2), ("small", 83.2), ("base", 83.5))}
# Swin's skeleton under our names: patches, norms, merging.
SWIN_SKELETON: Sequence[Rename] = (
    (r"^(head|norm)\.|attn_mask$|relative_position_index$", None),  # of the classifier; buffers
    (r"^patch_embed\.", "stem."),
    (r"^layers\.(\d)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
    (r"^layers\.(\d)\.", r"stages.\1."),
    (r"^norm(\d)\.", r"out_norms.\1."),
)


class Declarations:
    """What a family says of itself, as attributes of its class."""

    title: ClassVar[str] = ""  # as the paper calls the family
    short_name: ClassVar[str] = ""  # in names of configs and in tables
    paper: ClassVar[tuple[str, str]] = ("", "")  # title, address
    # By size: embed_dims, depths and drop_path_rate; optional mlp_ratio; and what a family reads by `setting`, such as
    # num_heads.
    arch_settings: ClassVar[dict[str, dict[str, Any]]] = {}
    releases: ClassVar[Mapping[str, Release]] = {}  # of the authors, by size; a subclass has its own
    official_layout: ClassVar[Sequence[Rename]] = ()  # of their files; applied in turn
    joint_weights: ClassVar[Sequence[WeightSplit]] = ()  # split before that
    optional_weights: ClassVar[str] = r"^out_norms\."  # that a pretrained backbone may lack or have left over
    # That fit another window size once resized: names, and which of checkpoint.layouts.RESIZERS does it.
    resizable_weights: ClassVar[Sequence[tuple[str, str]]] = ((r"\.relative_position_bias_table$", "position_bias"),)
    warm_starts: ClassVar[Mapping[str, WarmStart]] = {}  # by the name of the other network
    # Parts of names of parameters without weight decay, in addition to norms'; as the official recipes have it.
    no_weight_decay_keywords: ClassVar[tuple[str, ...]] = ("relative_position_bias_table",)
    has_windows: ClassVar[bool] = False  # or kernels, of `window_size`; a family says so if it has
    classifier_norm: ClassVar[bool] = True  # whether the paper's classifier has a norm before its pooling
    default_norm_cfg: ClassVar[dict] = {"type": "BN"}
    default_act_cfg: ClassVar[dict] = {"type": "GELU"}

    @classmethod
    def resolve_arch(cls, arch: str | dict) -> dict[str, Any]:
        """Look up a size by its name; raise a ValueError that names all sizes if the family has no such one."""
        if isinstance(arch, dict):
            return dict(arch)
        if arch not in cls.arch_settings:
            raise ValueError(f"{cls.__name__} has no arch '{arch}'; choose from {sorted(cls.arch_settings)}.")
        return cls.arch_settings[arch]


def parameters_without_decay(network: nn.Module, keywords: Sequence[str]) -> set[str]:
    """Return the names of a network's norms' parameters, and of those with one of some keywords in their name."""
    norms = (nn.LayerNorm, nn.GroupNorm, LayerNorm2d, _BatchNorm)
    names = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, norms)
        for name, _ in module.named_parameters(recurse=False)
    }
    return names | {name for name, _ in network.named_parameters() if any(word in name for word in keywords)}
