"""Warm starts: a backbone takes from another network's weights whatever means the same in both.

Swin, GG-Transformer and DWNet share a skeleton: patches, norms, merging, MLPs. MSG-Transformer has Swin's blocks,
but steps of its own between them. Asked for by name, never guessed:
`init_cfg=dict(type="Pretrained", checkpoint="swin.pth", warm_start="swin")`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..backbones.base import LocalViT
from ..backbones.dwnet import DWNet
from ..backbones.gg_transformer import GGTransformer
from ..backbones.msg_transformer import MSGTransformer
from ..errors import CheckpointError, did_you_mean, shortened
from .layouts import official_swin, rename_key, split_joint
from .matching import LoadReport, compare

if TYPE_CHECKING:
    from ..backbones.base import Rename, WeightSplit

_SKELETON: Sequence[Rename] = (
    (r"^(head|norm)\.|attn_mask$|relative_position_index$", None),  # of the classifier; buffers
    (r"^patch_embed\.", "stem."),
    (r"^layers\.(\d)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
    (r"^layers\.(\d)\.", r"stages.\1."),
    (r"^norm(\d)\.", r"out_norms.\1."),
)


@dataclass(frozen=True)
class _Recipe:
    """How a family takes weights.

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


_QKV = ((r"\.attn\.qkv\.", ((".attn.query.", 1), (".attn.key.", 1), (".attn.value.", 1))),)
# Without the Gaze, GG is Swin on other windows and without its position table.
_GG = _Recipe((*_SKELETON, (r"\.attn\.", ".mixer.")), zeros=r"\.mixer\.gaze\.", surplus="relative_position")
_DWNET = _Recipe(
    (
        *_SKELETON,
        # Its norms inside stages are BatchNorms, whose statistics no LayerNorm has.
        (r"\.blocks\.\d+\.norm\d\.|^out_norms\.|\.attn\.(query|key|relative)|\.attn\.(proj|value)\.bias", None),
        (r"\.attn\.value\.", ".mixer.expand."),
        (r"\.attn\.proj\.", ".mixer.project."),
    ),
    splits=_QKV,
)
# Its stem and downsampling are other convolutions. Its stages have other depths than Swin's: block n takes block n, as
# a block knows the residual sums after those before it.
_MSG = _Recipe(
    ((r"^patch_embed\.|\.downsample\.", None), *_SKELETON, (r"\.attn\.", ".mixer.")),
    surplus=r"\.blocks\.",
    size="embed_dims, which MSG-S and MSG-B share with Swin-T and Swin-S",
)
_WARM_STARTS: dict[str, dict[type[LocalViT], _Recipe]] = {
    "swin": {GGTransformer: _GG, DWNet: _DWNET, MSGTransformer: _MSG},
}
NAMES = tuple(_WARM_STARTS)


def warm_start(module: nn.Module, weights: Mapping[str, Tensor], name: str, source: str) -> LoadReport:
    """Load what fits of another network's weights.

    Args:
        module: A backbone of this package.
        weights: The other backbone's, in its official layout, timm's, Hugging Face's, MMDetection's or
            MMPretrain's.
        name: What network that is.
        source: The file's name.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: There is no such warm start, or the weights are of another network or size.
    """
    if name not in _WARM_STARTS:
        raise CheckpointError(f"There is no warm start '{name}'{did_you_mean(name, NAMES)}: choose from {NAMES}.")
    families = _WARM_STARTS[name]
    family = next((cls for cls in families if isinstance(module, cls)), None)
    if family is None:
        known = ", ".join(cls.__name__ for cls in families)
        raise CheckpointError(f"A {type(module).__name__} has no warm start from {name}, only {known}: leave it out.")
    recipe = families[family]
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
