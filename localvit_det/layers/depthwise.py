"""Depth-wise convolution, with a faster gradient of its kernels on CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .modes import traced

# Rows of the map that the gradient of the kernels looks at together: fastest among 8, 16, 32 and all, and rounding
# errors add up over fewer terms.
_BAND_ROWS = 16


class DepthwiseConv2d(nn.Conv2d):
    """Depth-wise convolution of stride 1 that keeps the size of its map.

    Args:
        channels: Channels in and out.
        kernel_size: Side of the kernels, in tokens; odd.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return depthwise_conv(x, self.weight, self.bias)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depth-wise convolution of stride 1, zeros beyond the border.

    PyTorch leaves the gradient of depth-wise kernels on CPUs to an operator that took 12 to 52 times as long as the
    convolution itself (7×7, maps of 16 to 128 tokens a side). For kernels of 5 and more that gradient is computed here
    as what it also is: the correlation of input and output gradient, which is a depth-wise convolution with a kernel
    as large as the map.

    Args:
        x: Map of shape (B, C, H, W).
        weight: Kernels of shape (C, 1, k, k), k odd.
        bias: Of shape (C,).

    Returns:
        Map of shape (B, C, H, W).
    """
    channels, size = int(weight.shape[0]), int(weight.shape[-1])  # plain numbers, also for a tracer
    recorded = x.is_cpu and torch.is_grad_enabled() and not traced()
    if recorded and size >= 5 and weight.requires_grad and not torch.is_autocast_enabled("cpu"):
        return _DepthwiseConv.apply(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=size // 2, groups=channels)


class _DepthwiseConv(torch.autograd.Function):
    # Backward is made of differentiable functions, so that it can be differentiated again.
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        pad, groups = weight.shape[-1] // 2, len(weight)
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = F.conv2d(grad, weight.flip(2, 3), padding=pad, groups=groups) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight)
        padded = F.pad(x, (0, 0, pad, pad))  # B, C, H + 2·pad, W
        for image, kernels in zip(padded.split(1), grad.unsqueeze(2), strict=True):  # 1,C,H+2·pad,W and C,1,H,W
            for start in range(0, grad.shape[2], _BAND_ROWS):
                kernel = kernels[:, :, start : start + _BAND_ROWS]  # C, 1, rows, W
                rows = image[:, :, start : start + kernel.shape[2] + 2 * pad]  # 1, C, rows + 2·pad, W
                band = F.conv2d(rows, kernel, padding=(0, pad), groups=groups)  # 1, C, k, k
                grad_weight = grad_weight + band.transpose(0, 1)
        return grad_x, grad_weight, grad.sum((0, 2, 3))
