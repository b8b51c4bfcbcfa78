"""Depth-wise convolution with its own kernel at every position."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import register_flop_formula

from ..errors import RequirementError, first_line
from .recompute import exported

NO_TRITON = "LOCALVIT_NO_TRITON"  # the environment variable that switches the kernels for GPUs off

# On a CPU, as many channel groups are worked on together as stay in a core's cache over all kernel taps.
_CACHE_BYTES = 2 * 1024 * 1024
# Size of a band of the feature map, for which kernels are made together. At 1 MiB threads waited for each other so
# often that a network was slower than unfused next to another busy process.
_BAND_BYTES = 4 * 1024 * 1024


def inhomogeneous_conv(x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
    """Weight each position's neighbourhood with that position's own kernel.

    out[b, c, y, x] = Σ_ij kernels[b, (g(c), i, j), y, x] · x[b, c, y + i - k//2, x + j - k//2], where the group
    g(c) shares one kernel over neighbouring channels; zeros beyond the border. Differentiable in both, also twice.
    Neighbourhoods are never unfolded: the k² taps are added one after the other, in forward and in backward.
    It is one operator of PyTorch and its gradients are another, so that compilers and counters of operators take each
    as a whole. On GPUs they run as kernels of Triton where that is installed.

    Source: DWNet, arXiv:2106.04263, appendix; official `models/idynamic.py` (CUDA through cupy).

    Args:
        x: Feature map of shape (B, C, H, W).
        kernels: Kernels of shape (B, G·k², H, W), with G a divisor of C; of any type, also under autocast.
        kernel_size: k, odd.

    Returns:
        Feature map of shape (B, C, H, W), of the type of ``x``; on a CPU contiguous in memory, else channels-last.
    """
    if exported():
        return _shifted_sum(x, kernels, kernel_size)
    return (_TracedConv if torch.compiler.is_compiling() else _Conv).apply(x, kernels, kernel_size)


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
    """Compute :func:`inhomogeneous_conv` for inference, with the kernels of a few rows at a time, contiguous in memory.

    Kernels are far larger than feature maps (16 times in the first stage of a tiny network): made and used while they
    are in the processor's cache, they need no memory of their own. ``make_kernels`` makes those of the rows from one
    number to below another, (B, G·k², rows, W) for G ``groups``.
    """
    batch, channels, height, width = x.shape
    padded = _padded_groups(_exact(x), groups, kernel_size // 2)
    out = padded.new_zeros(batch * groups, channels // groups, height, width)
    step = max(1, _BAND_BYTES // max(1, batch * channels * width * padded.element_size()))
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
    step = max(1, _CACHE_BYTES // max(1, x[:1].numel() * x.element_size()) if x.is_cpu else total)
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


@torch.library.custom_op(
    "localvit_det::inhomogeneous_conv", mutates_args=(), schema="(Tensor x, Tensor kernels, int kernel_size) -> Tensor"
)
def _convolve(x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
    if _runs_in_triton(x):
        return _by_triton("forward", x, kernels, kernel_size)
    batch, channels, height, width = x.shape
    groups = kernels.shape[1] // kernel_size**2
    padded = _padded_groups(_exact(x), groups, kernel_size // 2)
    out = padded.new_zeros(batch * groups, channels // groups, height, width)
    _add_taps(out, padded, kernels, kernel_size)
    return out.view(batch, channels, height, width).to(x.dtype).contiguous(memory_format=_format(x))


@torch.library.custom_op(
    "localvit_det::inhomogeneous_conv_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor kernels, int kernel_size) -> (Tensor, Tensor)",
)
def _gradients(grad: Tensor, x: Tensor, kernels: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    if _runs_in_triton(x):
        return _by_triton("backward", grad, x, kernels, kernel_size)
    groups = kernels.shape[1] // kernel_size**2
    batch, channels, height, width = x.shape
    pad = kernel_size // 2
    padded = _padded_groups(_exact(x), groups, pad)
    taps = _taps(kernels, groups, kernel_size)
    grad = _exact(grad).contiguous().view(batch * groups, channels // groups, height, width)
    grad_padded = torch.zeros_like(padded)
    grad_taps = torch.empty_like(taps)
    for part in _chunks(grad):
        for i in range(kernel_size):
            for j in range(kernel_size):
                window = padded[part, :, i : i + height, j : j + width]
                grad_taps[part, :, i, j] = (window * grad[part]).sum(1, keepdim=True)
                target = grad_padded[part, :, i : i + height, j : j + width]
                target.addcmul_(grad[part], taps[part, :, i, j].to(grad.dtype))
    grad_x = grad_padded[..., pad : pad + height, pad : pad + width].reshape(batch, channels, height, width)
    grad_x, grad_kernels = grad_x.to(x.dtype), grad_taps.view(kernels.shape)
    return grad_x.contiguous(memory_format=_format(x)), grad_kernels.contiguous(memory_format=_format(x))


@_convolve.register_fake
def _(x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
    return torch.empty_like(x, memory_format=_format(x))


@_gradients.register_fake
def _(grad: Tensor, x: Tensor, kernels: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    form = _format(x)
    return torch.empty_like(x, memory_format=form), torch.empty_like(kernels, memory_format=form)


# So that PyTorch's counter, which sees the operators as a whole, counts two for a product and its addition.
@register_flop_formula(torch.ops.localvit_det.inhomogeneous_conv)
def _(x: torch.Size, kernels: torch.Size, kernel_size: int, **_: object) -> int:
    return 2 * prod(x) * kernel_size**2


@register_flop_formula(torch.ops.localvit_det.inhomogeneous_conv_backward)
def _(grad: torch.Size, x: torch.Size, kernels: torch.Size, kernel_size: int, **_: object) -> int:
    return 4 * prod(x) * kernel_size**2


# PyTorch's `register_autograd` does not know `torch.func.grad`, hence functions around the operators.
class _TracedConv(torch.autograd.Function):
    """For torch.compile, which takes no function with a `jvp` and differentiates once."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
        return _convolve(x, kernels, kernel_size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        *tensors, ctx.kernel_size = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(grad, *ctx.saved_tensors, ctx.kernel_size), None


class _Conv(_TracedConv):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        _TracedConv.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx: Any, of_x: Tensor, of_kernels: Tensor, _: None) -> Tensor:
        (x, kernels), size = ctx.saved_tensors, ctx.kernel_size  # linear in each
        return _Conv.apply(of_x, kernels, size) + _Conv.apply(x, of_kernels, size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradients.apply(grad, *ctx.saved_tensors, ctx.kernel_size), None

    @staticmethod
    def vmap(*args: Any) -> tuple[Any, Any]:
        return _map_over_batch(_Conv.apply, *args)


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(grad: Tensor, x: Tensor, kernels: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
        return _gradients(grad, x, kernels, kernel_size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.kernel_size = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def jvp(ctx: Any, of_grad: Tensor, of_x: Tensor, of_kernels: Tensor, _: None) -> tuple[Tensor, ...]:
        (grad, x, kernels), size = ctx.saved_tensors, ctx.kernel_size  # grad by kernels, and grad by x
        of_both = _Gradients.apply(of_grad, x, kernels, size), _Gradients.apply(grad, of_x, of_kernels, size)
        return tuple(one + other for one, other in zip(*of_both, strict=True))

    @staticmethod
    def backward(ctx: Any, of_x: Tensor, of_kernels: Tensor) -> tuple[Tensor | None, ...]:
        # <of_x, grad_x> + <of_kernels, grad_kernels> = <grad, conv(of_x, kernels) + conv(x, of_kernels)>, which is
        # linear in grad, x and kernels.
        (grad, x, kernels), size = ctx.saved_tensors, ctx.kernel_size
        of_grad = _Conv.apply(of_x, kernels, size) + _Conv.apply(x, of_kernels, size)
        return of_grad, *_Gradients.apply(grad, of_x, of_kernels, size), None

    @staticmethod
    def vmap(*args: Any) -> tuple[Any, Any]:
        return _map_over_batch(_Gradients.apply, *args)


def _map_over_batch(
    operator: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any
) -> tuple[Any, Any]:
    """Take a mapped axis into the batch, whose images do not know each other."""
    *tensors, kernel_size = args
    mapped = [
        x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)
        for x, axis in zip(tensors, in_dims, strict=False)
    ]
    out = operator(*[x.flatten(0, 1) for x in mapped], kernel_size)  # V, B, C, H, W -> V·B, C, H, W
    split = tree_map(lambda x: x.unflatten(0, mapped[0].shape[:2]), out)  # V, B, C, H, W
    return split, tree_map(lambda _: 0, split)


def _format(x: Tensor) -> torch.memory_format:
    """Return the memory layout of results: a band of a CPU's cache holds one channel, a GPU's kernels all of them."""
    return torch.contiguous_format if x.is_cpu else torch.channels_last


def _runs_in_triton(x: Tensor) -> bool:
    half_or_single = x.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return x.is_cuda and half_or_single and _has_triton() and not os.environ.get(NO_TRITON)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _by_triton(name: str, *args: Any) -> Any:
    try:
        return getattr(import_module(f"{__package__}.inhomogeneous_triton"), name)(*args)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler can fail in any way
        raise RequirementError(
            f"The Triton kernels of the inhomogeneous convolution do not run here ({first_line(error)}): set "
            f"{NO_TRITON}=1 in the environment to compute it without them, several times as slowly."
        ) from error
