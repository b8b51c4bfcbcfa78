"""How a layer is replaced by its fused variant, which computes the same faster at inference.

A definition never imports the code that runs it: `localvit_det.fused` registers its variants here.

In words: a *fused variant* of a layer computes the same, faster. `register_fused` says which layers it is for;
:class:`Fusible` is a layer that has one, or holds layers that do; :class:`Fused` is a variant in which nothing is left
to replace, and `localvit_det.fused.detector.Variant` one of a class of MMDetection, whose parts are fused, too.
:func:`fused` returns the replacement of any module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from ..ops import is_altered
from .norm import is_pointwise

MakeVariant = TypeVar("MakeVariant", bound=Callable[..., nn.Module])

_VARIANTS: dict[type[nn.Module], tuple[Callable[[Any], nn.Module], Sequence[str]]] = {}
# Whose classes read of layers in them no more than what calling them gives; a wrapper's class may do anything.
_KNOWN = ("localvit_det", "mmcv", "mmdet", "mmpretrain", "mmseg", "torch")


def register_fused(*kinds: type[nn.Module], convs: Sequence[str] = ()) -> Callable[[MakeVariant], MakeVariant]:
    """Decorate what makes the fused variant of a layer of exactly these classes: a function, or the variant's class.

    The variant computes the same in eval mode. It may share parameters with the layer, but leaves it as it is. Where
    there is none for a layer's settings, a function returns the layer. Subclasses do not inherit it: they may compute
    something else. A layer that somebody listens to, by hooks on it or on its parts, is left alone, and so is one with
    a norm that looks at more than one position: variants run over parts of a feature map.

    Args:
        kinds: Classes of the layer.
        convs: Parts whose weights the variant takes: a layer in which one is not exactly an `nn.Conv2d` (but wrapped by
            an adapter, quantized, parametrized) is left alone, too.
    """

    def register(make: MakeVariant) -> MakeVariant:
        for kind in kinds:
            _VARIANTS[kind] = make, convs
        return make

    return register


class Fusible(nn.Module):
    """A layer with a fused variant, or a part of a network that holds such layers."""

    def fuse(self) -> nn.Module:
        """Return what replaces this module at inference: its fused variant, or itself with its parts replaced."""
        return _variant(self)


class Fused(nn.Module):
    """A layer that is a fused variant as a whole: nothing inside it is replaced any more."""

    def fuse(self) -> nn.Module:
        """Return the layer itself."""
        return self


def fused(module: nn.Module) -> nn.Module:
    """Return what replaces any module at inference: what its ``fuse()`` returns if it has one, else as `Fusible`."""
    fuse = getattr(module, "fuse", None)
    return _variant(module) if fuse is None else fuse()


def fuse_children(module: nn.Module) -> None:
    """Replace every part of a module by its fused variant; doing so again changes nothing.

    PyTorch's own layers are replaced in what is known only: in a wrapper they are its business.
    """
    known = isinstance(module, Fusible) or type(module).__module__.partition(".")[0] in _KNOWN
    for name, child in module.named_children():
        if known or type(child) is not nn.Conv2d:
            setattr(module, name, fused(child))


def _variant(module: nn.Module) -> nn.Module:
    make, convs = _VARIANTS.get(type(module), (None, ()))
    own = all(type(getattr(module, name)) is nn.Conv2d for name in convs)
    norms = (child for name, child in module.named_children() if name.startswith("norm"))
    plain = own and all(map(is_pointwise, norms)) and not any(map(is_altered, (module, *module.children())))
    if make is not None and plain:
        return make(module)
    fuse_children(module)
    return module
