"""A second form of a model, with the same weights, for inference beside training."""

from __future__ import annotations

from torch import nn

from .detector import fuse_detector
from .forms import shallow_copy


def fused_twin(model: nn.Module) -> nn.Module:
    """Make the fused form of a model that stays as it is.

    Both share their parameters and buffers; only what fusing computes from them is new, and does not follow when they
    change later.

    Args:
        model: Any model; its hooks go along where their modules are not replaced.

    Returns:
        The fused form, in eval mode.
    """
    return fuse_detector(_twin(model, {}).eval())


def _twin(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """Copy the tree of modules, but nothing in it."""
    if id(module) not in made:
        made[id(module)] = twin = shallow_copy(module)
        twin._modules = {name: None if child is None else _twin(child, made) for name, child in module._modules.items()}
    return made[id(module)]
