"""Warm starts: a backbone takes from another network's weights whatever means the same in both.

What that is, each family declares (`warm_starts`). Asked for by name, never guessed:
`init_cfg=dict(type="Pretrained", checkpoint="swin.pth", warm_start="swin")`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, did_you_mean, shortened
from .identify import families_from
from .layouts import official_swin, rename_key, split_joint
from .matching import LoadReport, compare

NAMES = ("swin",)  # networks whose layout is known here


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
