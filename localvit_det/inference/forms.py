"""Making the faster form of a module that shares all it has with the original."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..layers import fused

Form = TypeVar("Form", bound=nn.Module)


def at_least_fp32(x: Tensor) -> Tensor:
    """A tensor as it is, or in fp32 where it has less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def shallow_copy(module: nn.Module) -> nn.Module:
    """Another module with the same parameters, buffers and parts, any of which can be replaced in one of the two."""
    twin = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        setattr(twin, name, dict(getattr(module, name)))
    return twin


def form_like(module: nn.Module, kind: type[Form]) -> Form:
    """The module as one of class ``kind``, which has the same attributes, with its parts fused; it is left as it is.

    Settings, parameters, buffers and hooks are shared.
    """
    form = shallow_copy(module)
    form.__class__ = kind
    form._modules = {name: _fused_part(part) for name, part in module._modules.items()}
    return form


def _fused_part(part: nn.Module | None) -> nn.Module | None:
    if part is None:
        return None
    if isinstance(part, (nn.ModuleList, nn.Sequential)):
        return form_like(part, type(part))
    return part.fuse() if hasattr(part, "fuse") else fused(part)
