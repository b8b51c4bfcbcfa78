"""1×1 convolutions for inference on a CPU: weights laid out once, and the activation inside the product."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import form_of
from ..ops import cpu_inference

# How oneDNN calls an activation: its name, parameters, variant.
_Activation = tuple[str, list[float], str]


class KeepsPacked:
    """A layer that keeps its weights as products want them, besides the weights themselves."""

    weight: Tensor

    def packed(self, way: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The weights as ``make`` lays them out, of the last time if they are the same since; ``way`` names how."""
        kept = self.__dict__.setdefault("_packed", {})
        key = weight_key(self.weight)
        if way not in kept or kept[way][0] != key:
            kept[way] = key, make()
        return kept[way][1]

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights can be neither copied nor saved.
        return {**self.__dict__, "_packed": {}}


class PackedConv1x1(KeepsPacked, nn.Conv2d):
    """A 1×1 convolution and the activation after it: what :meth:`LocalViT.fuse` puts in their place.

    oneDNN lays the weights of a product out in blocks. An ordinary convolution does so anew in each call; here the
    blocks are kept (a copy of the weights, made on first use), and the activation is applied while its input is
    still in registers. PyTorch's compiler uses the same operators when it freezes a model. Where they do not fit
    (other devices, gradients, compilers, types) this is the ordinary convolution followed by the activation.

    Args:
        conv: The convolution, 1×1, in one group; its parameters are shared.
        act: The activation after it.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None = None) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 1, bias=conv.bias is not None, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.act = act or nn.Identity()
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        dtype, activation = product_dtype(x), onednn_activation(self.act)
        if dtype is None or self.weight.dtype != torch.float32:
            return self.act(super().forward(x))
        if not _inside(self.act, self.in_channels):
            activation = None
        rows = x.permute(0, 2, 3, 1).to(dtype)  # B,C,H,W -> B,H,W,C, a view in channels-last memory
        bias = None if self.bias is None else self.bias.to(dtype)
        weight = self.packed(dtype, lambda: pack_matrix(self.weight.detach().flatten(1), dtype))  # C', C
        y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, *(activation or NO_ACTIVATION))
        y = y.permute(0, 3, 1, 2)  # B,H,W,C' -> B,C',H,W
        return y if activation else _overwritten(self.act, y)


@form_of(nn.Conv2d)
def pack(conv: nn.Module) -> nn.Module:
    """A packed layer for a 1×1 convolution in one group; anything else as it is."""
    plain = type(conv) is nn.Conv2d and conv.groups == 1 and conv.padding == (0, 0)
    return PackedConv1x1(conv) if plain and conv.kernel_size == conv.stride == (1, 1) else conv


def pack_matrix(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights (C', C) of a product in oneDNN's own layout."""
    return torch.ops.mkldnn._reorder_linear_weight(matrix.to(dtype).contiguous(), None)


def in_place(act: nn.Module) -> nn.Module:
    """An activation that overwrites its input, where there is such a form: new memory is paid for in page faults."""
    if isinstance(act, (nn.ReLU, nn.Hardtanh)):  # and ReLU6
        act = copy.copy(act)
        act.inplace = True
    return act


def weight_key(weight: Tensor) -> tuple[int, int | None]:
    """What changes when weights do, in place or by others in their place."""
    return weight.data_ptr(), None if weight.is_inference() else weight._version


NO_ACTIVATION: _Activation = ("none", [], "")


def onednn_activation(act: nn.Module) -> _Activation | None:
    """How oneDNN applies an activation inside a product, or None where it cannot."""
    if isinstance(act, nn.GELU):
        return "gelu", [], act.approximate
    if isinstance(act, nn.Hardtanh):  # and ReLU6
        return "hardtanh", [act.min_val, act.max_val], ""
    return {nn.Identity: NO_ACTIVATION, nn.ReLU: ("relu", [], ""), nn.SiLU: ("swish", [], "")}.get(type(act))


def _inside(act: nn.Module, channels: int) -> bool:
    """Whether a product of so many channels in should apply the activation by itself.

    With AVX2, GELU takes longer inside than after the product, from 96 channels on (docs/experiments.md): probably
    because its 16 registers are full of sums.
    """
    return not isinstance(act, nn.GELU) or channels < 96 or torch.backends.cpu.get_cpu_capability() != "AVX2"


def _overwritten(act: nn.Module, y: Tensor) -> Tensor:
    """The activation of a map that nobody else holds; GELU in its memory, for new memory is paid for in page faults."""
    return torch.ops.aten.gelu_(y, approximate=act.approximate) if isinstance(act, nn.GELU) else act(y)


def product_dtype(x: Tensor) -> torch.dtype | None:
    """The type in which a packed product takes ``x``, or None where it cannot."""
    if not cpu_inference(x) or not _available():
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if dtype == torch.bfloat16:
        return dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    return dtype if dtype == torch.float32 else None


def _available() -> bool:
    """Whether this PyTorch has oneDNN's fused products, and the processor is one they are made for."""
    vector = torch.backends.cpu.get_cpu_capability()
    return torch.backends.mkldnn.is_available() and vector in ("AVX2", "AVX512", "AMX")
