"""Layers that have a faster form for inference, and how that form is found.

A definition never imports the engine that runs it: `localvit_det.inference` registers its forms here.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Form = Callable[[nn.Module], nn.Module]

_FORMS: dict[type[nn.Module], Form] = {}


def form_of(kind: type[nn.Module]) -> Callable[[Form], Form]:
    """Decorate the function that makes the faster form of a layer of exactly this class.

    The form computes the same in eval mode. It may share parameters with the layer, but leaves it as it is. Subclasses
    do not inherit it: they may compute something else.
    """

    def register(form: Form) -> Form:
        _FORMS[kind] = form
        return form

    return register


class Fusible(nn.Module):
    """A layer with a faster form for inference, or a part of a network that holds such layers."""

    def fuse(self) -> nn.Module:
        """Return what shall stand in this module's place at inference: its faster form, or itself, fused inside."""
        return fused(self)


class Fused(nn.Module):
    """A layer that is the faster form of another, as a whole: nothing inside it is replaced any more."""

    def fuse(self) -> nn.Module:
        """Return the layer itself."""
        return self


def fused(module: nn.Module) -> nn.Module:
    """The faster form of any module; where there is none, the module itself with its parts replaced."""
    form = _FORMS.get(type(module))
    if form is not None:
        return form(module)
    fuse_children(module)
    return module


def fuse_children(module: nn.Module) -> None:
    """Replace every part of a module by its faster form; doing so again changes nothing."""
    for name, child in module.named_children():
        setattr(module, name, child.fuse() if hasattr(child, "fuse") else fused(child))
