"""Depth-wise convolution with its own kernel at every position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .modes import exported

# On a CPU, as many channel groups are worked on together as stay in a core's cache over all kernel taps.
_CACHE_BYTES = 2 * 1024 * 1024
# Size of a band of the feature map, for which kernels are made together. At 1 MiB threads waited for each other so
# often that a network was slower than unfused next to another busy process.
_BAND_BYTES = 4 * 1024 * 1024


def inhomogeneous_conv(x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
    """Weight each position's neighbourhood with that position's own kernel.

    out[b, c, y, x] = Σ_ij kernels[b, (g(c), i, j), y, x] · x[b, c, y + i - k//2, x + j - k//2], where the group
    g(c) shares one kernel over neighbouring channels; zeros beyond the border. Differentiable once in both.
    Neighbourhoods are never unfolded: the k² taps are added one after the other, in forward and in backward.

    Source: DWNet, arXiv:2106.04263, appendix; official `models/idynamic.py` (CUDA through cupy).

    Args:
        x: Feature map of shape (B, C, H, W).
        kernels: Kernels of shape (B, G·k², H, W), with G a divisor of C.
        kernel_size: k, odd.

    Returns:
        Feature map of shape (B, C, H, W), contiguous in memory, of the type of ``x``.
    """
    return _shifted_sum(x, kernels, kernel_size) if exported() else _InhomogeneousConv.apply(x, kernels, kernel_size)


def _shifted_sum(x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
    """Compute the same with operators that every runtime knows and that do not write in place, which exporters lose."""
    height, width = x.shape[-2:]
    groups, pad = int(kernels.shape[1]) // kernel_size**2, kernel_size // 2
    padded = F.pad(_exact(x), (pad, pad, pad, pad)).unflatten(1, (groups, -1))  # B, G, C/G, H + 2·pad, W + 2·pad
    taps = kernels.to(padded.dtype).unflatten(1, (groups, -1))  # B, G, k², H, W
    out: Tensor | None = None
    for i in range(kernel_size):
        rows = padded[..., i : i + height, :]
        for j in range(kernel_size):
            window, index = rows[..., j : j + width], i * kernel_size + j
            tap = taps[:, :, index : index + 1]  # B, G, 1, H, W
            out = window * tap if out is None else torch.addcmul(out, window, tap)
    assert out is not None  # kernels have at least one tap
    return out.flatten(1, 2).to(x.dtype)  # B, G, C/G, H, W -> B, C, H, W


def inhomogeneous_conv_by_rows(
    x: Tensor, make_kernels: Callable[[int, int], Tensor], groups: int, kernel_size: int
) -> Tensor:
    """Compute :func:`inhomogeneous_conv` for inference, with the kernels of a few rows at a time.

    Kernels are far larger than feature maps (16 times in the first stage of a tiny network): made and used while they
    are in the processor's cache, they need no memory of their own.

    Args:
        x: Feature map of shape (B, C, H, W).
        make_kernels: Makes the kernels of the rows from one number to below another, (B, G·k², rows, W).
        groups: G.
        kernel_size: k, odd.

    Returns:
        Feature map of shape (B, C, H, W), contiguous in memory, of the type of ``x``.
    """
    batch, channels, height, width = x.shape
    padded = _padded_groups(_exact(x), groups, kernel_size // 2)
    out = padded.new_zeros(batch * groups, channels // groups, height, width)
    step = max(1, _BAND_BYTES // (batch * channels * width * padded.element_size()))
    for start in range(0, height, step):
        band = out[:, :, start : start + step]  # B·G, C/G, rows, W
        stop = start + band.shape[2]
        kernels = make_kernels(start, stop).to(out.dtype)
        _add_taps(band, padded[:, :, start : stop + kernel_size - 1], kernels, kernel_size)
    return out.view(batch, channels, height, width).to(x.dtype)


def _exact(x: Tensor) -> Tensor:
    """Return ``x`` in the type in which products are added up: fp32 for half precision, which would add 49 of them."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _padded_groups(x: Tensor, groups: int, pad: int) -> Tensor:
    """Pad and split channels into groups: (B, C, H, W) -> (B·G, C/G, H + 2·pad, W + 2·pad)."""
    batch, channels, height, width = x.shape
    padded = x.new_zeros(batch, channels, height + 2 * pad, width + 2 * pad)
    padded[:, :, pad : pad + height, pad : pad + width] = x  # one copy out of channels-last memory
    return padded.view(batch * groups, channels // groups, height + 2 * pad, width + 2 * pad)


def _taps(kernels: Tensor, groups: int, kernel_size: int) -> Tensor:
    """Split kernels into taps: (B, G·k², H, W) -> (B·G, 1, k, k, H, W)."""
    height, width = kernels.shape[-2:]
    return kernels.contiguous().view(len(kernels) * groups, 1, kernel_size, kernel_size, height, width)


def _chunks(x: Tensor) -> Iterator[slice]:
    """Yield slices of the first axis of ``x`` that are worked on together."""
    total = x.shape[0]
    step = max(1, _CACHE_BYTES // max(1, x[0].numel() * x.element_size())) if x.is_cpu else total
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def _add_taps(out: Tensor, padded: Tensor, kernels: Tensor, kernel_size: int) -> None:
    """Add the weighted neighbourhoods, (B·G, C/G, H + k - 1, W + k - 1) by (B, G·k², H, W), to ``out``."""
    height, width = out.shape[-2:]
    taps = _taps(kernels, kernels.shape[1] // kernel_size**2, kernel_size)
    for part in _chunks(out):
        for i in range(kernel_size):
            for j in range(kernel_size):
                window = padded[part, :, i : i + height, j : j + width]
                out[part].addcmul_(window, taps[part, :, i, j].to(out.dtype))


class _InhomogeneousConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
        batch, channels, height, width = x.shape
        groups = kernels.shape[1] // kernel_size**2
        ctx.kernel_size, ctx.groups = kernel_size, groups
        ctx.save_for_backward(x, kernels)
        padded = _padded_groups(_exact(x), groups, kernel_size // 2)
        out = padded.new_zeros(batch * groups, channels // groups, height, width)
        _add_taps(out, padded, kernels, kernel_size)
        return out.view(batch, channels, height, width).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, None]:
        x, kernels = ctx.saved_tensors
        kernel_size, groups = ctx.kernel_size, ctx.groups
        batch, channels, height, width = x.shape
        pad = kernel_size // 2
        padded = _padded_groups(_exact(x), groups, pad)
        taps = _taps(kernels, groups, kernel_size)
        grad = _exact(grad_out).contiguous().view(batch * groups, channels // groups, height, width)
        grad_padded = torch.zeros_like(padded)
        grad_taps = torch.empty_like(taps)
        for part in _chunks(grad):
            for i in range(kernel_size):
                for j in range(kernel_size):
                    window = padded[part, :, i : i + height, j : j + width]
                    grad_taps[part, :, i, j] = (window * grad[part]).sum(1, keepdim=True)
                    target = grad_padded[part, :, i : i + height, j : j + width]
                    target.addcmul_(grad[part], taps[part, :, i, j].to(grad.dtype))
        grad_x = grad_padded[..., pad : pad + height, pad : pad + width]
        grad_x = grad_x.reshape(batch, channels, height, width).to(x.dtype)
        return grad_x, grad_taps.view_as(kernels), None
