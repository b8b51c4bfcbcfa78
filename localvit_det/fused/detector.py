"""A whole detector for inference: its backbone, and MMDetection's parts around it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ..layers import Fused, fuse_children, fused

Module = TypeVar("Module", bound=nn.Module)


def fuse_detector(model: Module) -> Module:
    """Prepare a detector, or any module with such parts, for inference: the same boxes, classes and masks, faster.

    The backbone is fused as by its ``fuse()``. Of MMDetection's parts, FPN, RPN and RetinaNet heads, RoI extractors,
    box and mask heads and ResNets are replaced by fused variants that give the same numbers up to rounding: BatchNorms
    folded, weights packed, 3×3 convolutions in fp32 multiplied by Winograd's algorithm, masks only of the classes that
    were found. What is unknown, or configured in an unusual way, stays as it is. Elsewhere than on a CPU, or where
    gradients are recorded, variants work as the originals do.

    Weights are to be loaded before: where a BatchNorm is folded, the state dict changes. The model itself is changed,
    put into eval mode and returned; it should not be trained any more. Hooks on replaced layers are gone. Doing so
    again changes nothing.
    """
    # Imported only here: they register their variants, and need MMDetection's models, which take a while.
    from . import dense, roi_heads  # noqa: F401

    model.eval()
    fuse_children(model)
    return model


def fused_copy(model: nn.Module) -> nn.Module:
    """Return a fused copy, in eval mode, of a model that stays as it is; hooks go along where modules are not replaced.

    Both share their parameters and buffers; only what fusing computes from them is new, and does not follow when they
    change later.
    """
    return fuse_detector(_copy_tree(model, {}).eval())


class Variant(Fused):
    """A fused variant of a module of MMDetection, of which it takes over all attributes, with its parts fused.

    Derive from this class and from that of the original, which is left as it is: settings, parameters, buffers and
    hooks are shared.
    """

    def __init__(self, original: nn.Module) -> None:
        nn.Module.__init__(self)
        vars(self).update({**vars(original), **_own_registries(original)})
        for name, part in original._modules.items():
            self._modules[name] = None if part is None else _fused_part(part)

    if TYPE_CHECKING:  # of MMDetection's classes, which have no types

        def __getattr__(self, name: str) -> Any: ...


def _fused_part(part: nn.Module) -> nn.Module:
    if not isinstance(part, (nn.ModuleList, nn.Sequential)):
        return fused(part)
    container = _shallow_copy(part)  # not in place: the original keeps its own
    container._modules.update({name: _fused_part(child) for name, child in part._modules.items()})
    return container


def _copy_tree(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """Copy all modules inside a module, but no tensor."""
    if id(module) not in copies:
        copies[id(module)] = duplicate = _shallow_copy(module)
        for name, child in module._modules.items():
            duplicate._modules[name] = None if child is None else _copy_tree(child, copies)
    return copies[id(module)]


def _shallow_copy(module: Module) -> Module:
    """Return another module with the same parameters, buffers and parts, which can be replaced in one of both."""
    duplicate = copy.copy(module)
    vars(duplicate).update(_own_registries(module))
    return duplicate


def _own_registries(module: nn.Module) -> dict[str, dict[str, object]]:
    """Return new dicts of a module's parameters, buffers and parts, which are shared themselves."""
    return {name: dict(getattr(module, name)) for name in ("_parameters", "_buffers", "_modules")}


def at_least_fp32(x: Tensor) -> Tensor:
    """Return a tensor of any shape as it is, or in fp32 where it has less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
