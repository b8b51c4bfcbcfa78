"""Fold BatchNorm into its neighbours, where that is exact: at inference. No argument is changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeGuard, cast

import torch
from mmengine.model.utils import _BatchNormXd
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..ops import is_plain

# Of a feature map that takes a norm's shift, in its standard deviations. It is rounded with what it carries, in
# autocast to 8 bits: a mean of 1/2 in all channels took the error of a network from
# 1.67 to 1.79%, one of 8 from 1.84 to 6.11%.
_LARGEST_MEAN = 0.5
# MMEngine's stands for SyncBatchNorm in one process.
_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, _BatchNormXd)
# Where the classes of convolutions are written; MMCV's differ from PyTorch's only in old versions.
_CONVS = (
    "torch.nn.modules.conv",
    "localvit_det.ops.cpu_kernels",
    "localvit_det.fused.packed",
    "mmcv.cnn.bricks.wrappers",
)


@torch.no_grad()
def fuse_conv_bn(conv: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """Fold a norm into the convolution before it.

    Returns:
        The convolution with the norm in its weights, and an identity; or both as they are, if the norm is no
        BatchNorm with running statistics or one of them is not plain.
    """
    if not has_statistics(norm) or not is_conv(conv):
        return conv, norm
    folded = copy.deepcopy(conv).requires_grad_(False)
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    folded.weight, folded.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    return folded.requires_grad_(False).eval(), nn.Identity()


@torch.no_grad()
def fuse_bn_conv(norm: nn.Module, conv: nn.Conv2d) -> tuple[nn.Module, nn.Conv2d]:
    """Fold a norm into the 1×1 convolution after it.

    Only a convolution that reads no neighbours takes the shift exactly: a wider one would see zeros beyond the
    border where the norm's output, not its input, is zero.

    Returns:
        An identity, and the convolution with the norm in its weights; or both as they are, as of :func:`fuse_conv_bn`.

    Raises:
        ValueError: If the convolution is not 1×1 in one group.
    """
    if not has_statistics(norm) or not is_conv(conv):
        return norm, conv
    if conv.kernel_size != (1, 1) or conv.groups != 1:
        raise ValueError(f"{conv} is not a 1x1 convolution in one group.")
    scale, shift = scale_and_shift(norm)
    weight = conv.weight[:, :, 0, 0]  # out, in
    bias = weight @ shift if conv.bias is None else conv.bias + weight @ shift
    fused = nn.Conv2d(conv.in_channels, conv.out_channels, 1, device=conv.weight.device, dtype=conv.weight.dtype)
    fused.requires_grad_(False)
    fused.weight.copy_(conv.weight * scale[None, :, None, None])
    cast(Tensor, fused.bias).copy_(bias)
    return nn.Identity(), fused.eval()


@torch.no_grad()
def fold_into_residual(mixer: nn.Module, norm: nn.Module, conv: nn.Conv2d) -> tuple[nn.Module, nn.Conv2d]:
    """Fold a norm into the depth-wise convolution after it: y = x + conv(norm(x)), where x = … + mixer(…).

    Beyond the border the convolution sees zeros, so it takes the scale of the norm but not its shift. That goes into
    x itself, norm(x) = scale·(x + shift/scale): the bias of the mixer's last layer ``proj``, which is replaced, adds
    it, the bias of ``conv`` takes it away.

    Returns:
        An identity and the convolution with the norm in its weights; or the two as they are, if the norm is no
        BatchNorm with running statistics, if its shift is so large in a channel that x would lose precision there, or
        if the mixer has no such layer.
    """
    proj = getattr(mixer, "proj", None)
    if not has_statistics(norm) or not is_conv(conv) or not is_conv(proj) or proj.bias is None:
        return norm, conv
    if norm.affine and not (norm.bias.abs() < _LARGEST_MEAN * norm.weight.abs()).all():
        return norm, conv
    scale, shift = scale_and_shift(norm)
    offset = shift / scale
    proj, conv = copy.deepcopy(proj).requires_grad_(False), copy.deepcopy(conv).requires_grad_(False)
    cast(Tensor, proj.bias).add_(offset)
    conv.weight.mul_(scale[:, None, None, None])
    cast(Tensor, conv.bias).sub_(offset)
    mixer.proj = proj
    return nn.Identity(), conv


@torch.no_grad()
def split_outputs(conv: nn.Conv2d, sizes: Sequence[int]) -> list[nn.Conv2d]:
    """Split a 1×1 convolution in one group into several, by its output channels."""
    parts = []
    for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False):
        part = nn.Conv2d(conv.in_channels, size, 1, bias=conv.bias is not None).to(conv.weight).requires_grad_(False)
        part.weight.copy_(conv.weight[start : start + size])
        if conv.bias is not None and part.bias is not None:
            part.bias.copy_(conv.bias[start : start + size])
        parts.append(part.eval())
    return parts


@torch.no_grad()
def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return what a BatchNorm with running statistics does at inference: y = scale·x + shift, both of shape (C,)."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = (variance + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    shift = -mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def has_statistics(norm: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a norm is a plain BatchNorm with running statistics, which can be folded."""
    return type(norm) in _BATCH_NORMS and cast(_BatchNorm, norm).running_mean is not None and is_plain(norm)


def is_conv(module: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a plain convolution: no adapter, quantizer or parametrization, which may compute others."""
    return isinstance(module, nn.Conv2d) and type(module).__module__ in _CONVS and is_plain(module)
