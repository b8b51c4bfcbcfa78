"""What a family declares about its weights: where its authors' files are, how their names map to ours, which other
networks' weights it can start from, and which learn without decay. `checkpoint` and `engine` do the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import LayerNorm2d

# A name in an official state dict as a regular expression, and ours; None where the tensor is left out.
Rename = tuple[str, str | Callable[[re.Match[str]], str] | None]
# The name of a fused tensor that our layout splits; the names of its parts, and how many equal shares of its rows each
# takes.
WeightSplit = tuple[str, Sequence[tuple[str, int]]]


@dataclass(frozen=True)
class Release:
    """What the authors of a network published for one of its sizes.

    Attributes:
        address: Where they have the file; empty where they released none.
        direct: Where it can be downloaded from; empty where only a person with a browser gets it.
        size: As they state it.
        top1: ImageNet-1k top-1 accuracy in per cent, as published.
        warm_start: A Swin's file from which it can start instead, where they released none.
    """

    address: str = ""
    direct: str = ""
    size: str | None = None
    top1: float | None = None
    warm_start: str = ""


@dataclass(frozen=True)
class WarmStart:
    """How a family takes weights of another network.

    Attributes:
        rules: Names in the other network's official layout and ours; None: left out.
        zeros: Pattern of what of ours starts at zero.
        surplus: Pattern of theirs that may have no place in ours.
        splits: Of tensors that are one in theirs and have names of their own in the rules.
        size: What must be the same in both.
    """

    rules: Sequence[Rename]
    zeros: str = r"(?!)"
    surplus: str = r"(?!)"
    splits: Sequence[WeightSplit] = ()
    size: str = "embed_dims and depths"


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
