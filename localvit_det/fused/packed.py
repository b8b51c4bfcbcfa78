"""Convolutions and dense layers for inference on a CPU: weights laid out once, the activation inside the product."""

from __future__ import annotations

import copy
import functools
import math
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import register_fused
from ..ops import cpu_inference
from .winograd import transform_weight, uneven_tiles, winograd_conv

# How oneDNN calls an activation: its name, parameters, variant.
_Activation = tuple[str, list[float], str]
# Up to so many positions, to read the weights for comparing them costs more than to lay them out in each call.
_FEW_POSITIONS = 200
# Where a Winograd convolution was faster than a direct one: enough channels, enough tiles of 4×4.
_WINOGRAD_CHANNELS = 128
_WINOGRAD_TILES = 24
# Tiles that have to be computed directly cost about four times as much: above this share the whole feature map is.
_UNEVEN_SHARE = 0.2


class _Compared(threading.local):
    """What `compared_once` has seen in this thread: layers and ways; None outside of it."""

    seen: set[tuple[int, Hashable]] | None = None


_compared = _Compared()


@contextmanager
def compared_once() -> Iterator[None]:
    """Look only once at whether weights have changed: a block uses the same ones for one band after the other."""
    if _compared.seen is not None:  # inside of another
        yield
        return
    _compared.seen = set()
    try:
        yield
    finally:
        _compared.seen = None


class PackedWeightCache:
    """A layer that caches its weights in the layout that products read, next to the weights themselves.

    They may be written to at any time, also in ways that PyTorch does not count (`weight.data`, numpy, tensors of
    inference mode). So each pass through a block reads them once, and lays them out anew where their products with a
    random vector are others than before. For a Shuffle-T that takes about 6% of a forward pass at 224×224, and 1% from
    640×640 on, most of it for reading (docs/experiments.md).
    """

    weight: Tensor

    def packed(self, way: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return what ``make`` makes of the weights, cached under ``way`` as long as they do not change."""
        cache: dict[Hashable, tuple[object, Tensor, Tensor]] = self.__dict__.setdefault("_packed", {})
        if self.is_compared(way):
            return cache[way][2]
        if _compared.seen is not None:
            _compared.seen.add((id(self), way))
        key, products = weight_key(self.weight), _random_products(self.weight.detach())
        if way not in cache or cache[way][0] != key or not torch.equal(cache[way][1], products):
            cache[way] = key, products, make()
        return cache[way][2]

    def is_compared(self, way: Hashable) -> bool:
        """Whether `packed` has looked at the weights already, inside of `compared_once`."""
        return _compared.seen is not None and (id(self), way) in _compared.seen

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights can be neither copied nor saved.
        return {**self.__dict__, "_packed": {}}


class PackedConv1x1(PackedWeightCache, nn.Conv2d):
    """A 1×1 convolution in one group and the activation after it: what :meth:`LocalViT.fuse` puts in their place.

    oneDNN lays the weights of a product out in blocks. An ordinary convolution does so anew in each call; here the
    blocks are kept where there are many positions (a copy of the weights, made on first use), and the activation is
    applied while its input is still in registers. PyTorch's compiler uses the same operators when it freezes a model.
    Where they do not fit (other devices, gradients, compilers, types) this is the ordinary convolution followed by the
    activation. The parameters are shared with the convolution.
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
        bias = _cast(self.bias, dtype)
        weight = self.weight.detach().flatten(1)  # C', C
        if rows.numel() <= _FEW_POSITIONS * self.in_channels and not self.is_compared(dtype):
            weight = weight.to(dtype)
        else:
            weight = self.packed(dtype, functools.partial(pack_matrix, weight, dtype))
        y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, *(activation or NO_ACTIVATION))
        y = y.permute(0, 3, 1, 2)  # B,H,W,C' -> B,C',H,W
        return y if activation else _overwritten(self.act, y)


class PackedConv2d(PackedWeightCache, nn.Conv2d):
    """A convolution in one group and the activation after it; 3×3 ones in fp32 use Winograd's algorithm.

    The copy of the weights that this needs is made on first use, four times as large as the weights for Winograd's
    algorithm. Where that does not fit (other devices, gradients, compilers, types) this is the ordinary convolution
    followed by the activation; their parameters are shared. Next to values far above those around them Winograd's
    algorithm would lose digits: see :mod:`localvit_det.fused.winograd` for the bound on the error.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None = None) -> None:
        names = ("kernel_size", "stride", "padding", "dilation")
        geometry: dict[str, Any] = {name: getattr(conv, name) for name in names}
        super().__init__(conv.in_channels, conv.out_channels, **geometry, bias=conv.bias is not None, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.act = in_place(act or nn.Identity())
        self.train(conv.training)
        plain = conv.kernel_size == (3, 3) and conv.stride == conv.padding == conv.dilation == (1, 1)
        self._winograd = plain and min(conv.in_channels, conv.out_channels) >= _WINOGRAD_CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        dtype, activation = product_dtype(x), onednn_activation(self.act)
        if dtype is None or self.weight.dtype != torch.float32 or not len(x):
            return self.act(super().forward(x))
        x = x.to(dtype, memory_format=torch.channels_last)
        if self._winograd and dtype == torch.float32 and _count_tiles(x) >= _WINOGRAD_TILES:
            uneven = uneven_tiles(x)
            if int(uneven.sum()) <= _UNEVEN_SHARE * uneven.numel():
                transformed = self.packed("winograd", lambda: transform_weight(self.weight.detach()))
                relu = type(self.act) is nn.ReLU
                y = winograd_conv(x, self.weight, transformed, self.bias, uneven, relu)
                return y if relu else self.act(y)
        bias = _cast(self.bias, dtype)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        weight = self.packed(dtype, lambda: self._reorder(x))
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, *(activation or NO_ACTIVATION))
        return y if activation else self.act(y)

    def _reorder(self, x: Tensor) -> Tensor:
        weight = self.weight.detach().to(x.dtype, memory_format=torch.channels_last)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(x.shape))


class PackedLinear(PackedWeightCache, nn.Linear):
    """A dense layer, with which it shares its parameters, and the activation after it.

    Args:
        linear: The layer.
        act: The activation.
        area: Of the feature maps that are flattened into its input, h·w: their features come by position, not by
            channel, as they lie in channels-last memory.
    """

    def __init__(self, linear: nn.Linear, act: nn.Module | None = None, area: int = 1) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.act = in_place(act or nn.Identity())
        self.area = area
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (R, C, h, w) with ``area`` = h·w, or rows (R, C·area) in the weights' order -> (R, C')."""
        dtype, activation = product_dtype(x), onednn_activation(self.act)
        by_position = x.dim() == 4 and self.area > 1
        if dtype is None or self.weight.dtype != torch.float32 or not len(x) or (self.area > 1 and not by_position):
            return self.act(super().forward(x.flatten(1)))
        rows = (x.permute(0, 2, 3, 1) if by_position else x).flatten(1).to(dtype)  # R, h·w·C or R, C
        bias = _cast(self.bias, dtype)
        weight = self.packed(dtype, lambda: pack_matrix(self._by_position(), dtype))
        y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, *(activation or NO_ACTIVATION))
        return y if activation else self.act(y)

    def _by_position(self) -> Tensor:
        weight = self.weight.detach()  # C', C·h·w
        return weight.unflatten(1, (-1, self.area)).transpose(1, 2).flatten(1)  # C', h·w·C


@register_fused(nn.Conv2d)
def pack(conv: nn.Conv2d) -> nn.Conv2d:
    """Return a packed layer for a 1×1 convolution in one group; anything else as it is."""
    plain = type(conv) is nn.Conv2d and conv.groups == 1 and conv.padding == (0, 0)
    return PackedConv1x1(conv) if plain and conv.kernel_size == conv.stride == (1, 1) else conv


def pack_conv(conv: nn.Conv2d, act: nn.Module | None = None) -> nn.Conv2d:
    """Pack a convolution and the activation after it."""
    pointwise = conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)
    return PackedConv1x1(conv, act) if pointwise else PackedConv2d(conv, act)


def pack_matrix(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights (C', C) of a product in oneDNN's own layout."""
    return torch.ops.mkldnn._reorder_linear_weight(matrix.to(dtype).contiguous(), None)


def in_place(act: nn.Module) -> nn.Module:
    """Return an activation that overwrites its input, where it can: new memory costs page faults."""
    if isinstance(act, (nn.ReLU, nn.Hardtanh)) and type(act) in (nn.ReLU, nn.Hardtanh, nn.ReLU6):
        act = copy.copy(act)
        act.inplace = True
    return act


def weight_key(weight: Tensor) -> tuple[int, int | None]:
    """Return what changes when weights do, in place or by others in their place, as far as PyTorch counts it."""
    return weight.data_ptr(), None if weight.is_inference() else weight._version


def _random_products(weight: Tensor) -> Tensor:
    """Return a number for each piece of weights (C', …), in which a change of 3e-5 of one weight shows: (pieces,)."""
    dense = weight if weight.is_contiguous() or weight.dim() < 4 else weight.permute(0, 2, 3, 1)  # a view
    width = math.gcd(dense.numel(), 4096)  # of pieces: a product of that width runs at the speed of memory
    pieces = dense.reshape(-1, width) if width >= 256 else dense.flatten(1)
    return torch.mv(pieces, _random_vector(pieces.shape[1]))


@functools.cache
def _random_vector(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):  # 1 to 2 in size: next to 0 a change would get lost
        return (1 + torch.rand(size, generator=generator)) * torch.randn(size, generator=generator).sign()


NO_ACTIVATION: _Activation = ("none", [], "")


def onednn_activation(act: nn.Module) -> _Activation | None:
    """Return how oneDNN applies an activation inside a product, or None where it cannot."""
    if type(act) is nn.GELU:
        return "gelu", [], act.approximate
    if isinstance(act, nn.Hardtanh) and type(act) in (nn.Hardtanh, nn.ReLU6):
        return "hardtanh", [act.min_val, act.max_val], ""
    return {nn.Identity: NO_ACTIVATION, nn.ReLU: ("relu", [], ""), nn.SiLU: ("swish", [], "")}.get(type(act))


def _inside(act: nn.Module, channels: int) -> bool:
    """Whether a product of so many channels in should apply the activation by itself.

    With AVX2, GELU takes longer inside than after the product, from 96 channels on (docs/experiments.md): probably
    because its 16 registers are full of sums.
    """
    return not isinstance(act, nn.GELU) or channels < 96 or torch.backends.cpu.get_cpu_capability() != "AVX2"


def _overwritten(act: nn.Module, y: Tensor) -> Tensor:
    """Apply an activation to ``y`` of any shape, which may be overwritten: new memory costs page faults."""
    return torch.ops.aten.gelu_(y, approximate=act.approximate) if type(act) is nn.GELU else act(y)


def product_dtype(x: Tensor) -> torch.dtype | None:
    """Return the type in which a packed product takes ``x`` of any shape, or None where it cannot."""
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


def _cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype)


def _count_tiles(x: Tensor) -> int:
    return x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)
