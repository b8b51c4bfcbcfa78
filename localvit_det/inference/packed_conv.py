"""Convolutions and dense layers of necks and heads for inference on a CPU: weights packed, activations inside."""

from __future__ import annotations

import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import wrappers
from torch import Tensor, nn

from ..layers import form_of
from .folding import fuse_conv_bn
from .packed import (
    NO_ACTIVATION,
    KeepsPacked,
    PackedConv1x1,
    in_place,
    onednn_activation,
    pack_matrix,
    product_dtype,
)
from .winograd import transform_weight, uneven_tiles, winograd_conv

# MMCV's own classes differ in what they do with empty batches under PyTorch 1.4 only.
PLAIN_CONVS = (nn.Conv2d, wrappers.Conv2d)
PLAIN_LINEARS = (nn.Linear, wrappers.Linear)
# Where a Winograd convolution was faster than a direct one: enough channels, enough tiles of 4×4.
_WINOGRAD_CHANNELS = 128
_WINOGRAD_TILES = 24
# Tiles that have to be computed directly cost about four times as much: above this share the whole map is.
_UNEVEN_SHARE = 0.2


class PackedConv2d(KeepsPacked, nn.Conv2d):
    """A convolution in one group and the activation after it; 3×3 ones in fp32 multiply in Winograd's way.

    The copy of the weights that this needs is made on first use, four times as large as the weights for Winograd's
    way. Where that does not fit (other devices, gradients, compilers, types) this is the ordinary convolution followed
    by the activation. Next to values far above those around them Winograd's way would lose digits: see
    :mod:`localvit_det.inference.winograd` for the error that holds.

    Args:
        conv: The convolution; its parameters are shared.
        act: The activation after it.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None = None) -> None:
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        super().__init__(conv.in_channels, conv.out_channels, *geometry, bias=conv.bias is not None, device="meta")
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
        bias = None if self.bias is None else self.bias.to(dtype)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        weight = self.packed(dtype, lambda: self._reorder(x))
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, *(activation or NO_ACTIVATION))
        return y if activation else self.act(y)

    def _reorder(self, x: Tensor) -> Tensor:
        weight = self.weight.detach().to(x.dtype, memory_format=torch.channels_last)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(x.shape))


class PackedLinear(KeepsPacked, nn.Linear):
    """A dense layer and the activation after it.

    Args:
        linear: The layer; its parameters are shared.
        act: The activation after it.
        area: Of the maps that are flattened into its input, h·w: their features come by position, not by channel,
            as they lie in channels-last memory.
    """

    def __init__(self, linear: nn.Linear, act: nn.Module | None = None, area: int = 1) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.act = in_place(act or nn.Identity())
        self.area = area
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (R, C, h, w) with ``area`` = h·w, or rows (R, C·area) in the weights' order -> (R, C')."""
        dtype, activation = product_dtype(x), onednn_activation(self.act)
        by_position = x.dim() == 4 and self.area > 1
        if dtype is None or self.weight.dtype != torch.float32 or not len(x) or (self.area > 1 and not by_position):
            return self.act(super().forward(x.flatten(1)))
        rows = (x.permute(0, 2, 3, 1) if by_position else x).flatten(1).to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        weight = self.packed(dtype, lambda: pack_matrix(self._by_position(), dtype))
        y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, *(activation or NO_ACTIVATION))
        return y if activation else self.act(y)

    def _by_position(self) -> Tensor:
        weight = self.weight.detach()  # C', C·h·w
        return weight.unflatten(1, (-1, self.area)).transpose(1, 2).flatten(1)  # C', h·w·C


class FusedConvModule(ConvModule):
    """A :class:`ConvModule` whose convolution brings norm and activation along, as far as that is exact.

    Args:
        module: The original; it still answers where a caller leaves out norm or activation.
    """

    def __init__(self, module: ConvModule) -> None:
        nn.Module.__init__(self)
        self._original = (module,)  # in a tuple: no part of the state dict
        conv, norm, self.norm_name = module.conv, module.norm or nn.Identity(), None
        act = module.activate if module.with_activation else nn.Identity()
        conv, norm = fuse_conv_bn(conv, norm)
        whole = isinstance(norm, nn.Identity)
        self.conv = pack_conv(conv, act if whole else None)
        self.with_norm, self.with_activation = not whole, not whole
        if not whole:
            self.norm_name = module.norm_name
            self.add_module(self.norm_name, norm)
            self.activate = in_place(act)
        self.train(module.training)

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        if not (activate and norm):
            return self._original[0](x, activate, norm)
        x = self.conv(x)
        return self.activate(self.norm(x)) if self.with_norm else x


def can_pack(conv: nn.Module) -> bool:
    """Whether :func:`pack_conv` takes this layer."""
    plain = type(conv) in PLAIN_CONVS and conv.groups == 1 and conv.padding_mode == "zeros"
    return plain and not isinstance(conv.padding, str)


def pack_conv(conv: nn.Conv2d, act: nn.Module | None = None) -> nn.Module:
    """The packed form of a convolution and the activation after it."""
    pointwise = conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)
    return PackedConv1x1(conv, act) if pointwise else PackedConv2d(conv, act)


@form_of(ConvModule)
def fuse_conv_module(module: ConvModule) -> nn.Module:
    """The fused form of a :class:`ConvModule`, or the module itself where its parts are not the usual ones."""
    usual = module.order == ("conv", "norm", "act") and not module.with_explicit_padding
    return FusedConvModule(module) if usual and not module.with_spectral_norm and can_pack(module.conv) else module


def _count_tiles(x: Tensor) -> int:
    return x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)
