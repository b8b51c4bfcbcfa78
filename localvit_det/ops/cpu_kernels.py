"""What PyTorch computes slowly on CPUs in training: depth-wise convolution, attention in windows, rows reordered."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recompute import channels_last, cpu_inference, exported, traced, transformed

# Rows of the feature map that the gradient of the kernels looks at together: fastest among 8, 16, 32 and all, and
# rounding errors add up over fewer terms.
_BAND_ROWS = 16


class DepthwiseConv2d(nn.Conv2d):
    """Depth-wise convolution of stride 1 that keeps the size of its feature map; its kernels have an odd side."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return depthwise_conv(x, self.weight, self.bias)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depth-wise convolution of stride 1, zeros beyond the border: (B, C, H, W) by (C, 1, k, k), k odd -> (B, C, H, W).

    PyTorch leaves the gradient of depth-wise kernels on CPUs to an operator that took 12 to 52 times as long as the
    convolution itself (7×7, feature maps of 16 to 128 tokens per side). For kernels of 5 and more that gradient is
    computed here as what it also is: the correlation of input and output gradient, which is a depth-wise convolution
    with a kernel as large as the feature map.
    """
    channels, size = int(weight.shape[0]), int(weight.shape[-1])  # plain numbers, also for a tracer
    recorded = x.is_cpu and torch.is_grad_enabled() and not traced()
    if recorded and size >= 5 and weight.requires_grad and not torch.is_autocast_enabled("cpu"):
        return _DepthwiseConv.apply(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=size // 2, groups=channels)


class _DepthwiseConv(torch.autograd.Function):
    # Forward and backward are made of differentiable functions: they can be differentiated again, and batched.
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None) -> Tensor:
        x, weight = ctx.saved_tensors
        geometry = {"padding": weight.shape[-1] // 2, "groups": len(weight)}
        out = F.conv2d(x, torch.zeros_like(weight) if weight_t is None else weight_t, bias_t, **geometry)
        return out if x_t is None else out + F.conv2d(x_t, weight, **geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        pad, groups = weight.shape[-1] // 2, len(weight)
        grad = channels_last(grad)
        grad_x = F.conv2d(grad, weight.flip(2, 3), padding=pad, groups=groups) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight)
        padded = F.pad(x, (0, 0, pad, pad))  # B, C, H + 2·pad, W
        for image, kernels in zip(padded.unsqueeze(1), grad.unsqueeze(2), strict=True):  # 1,C,H+2·pad,W and C,1,H,W
            for start in range(0, grad.shape[2], _BAND_ROWS):
                kernel = kernels[:, :, start : start + _BAND_ROWS]  # C, 1, rows, W
                rows = image[:, :, start : start + kernel.shape[2] + 2 * pad]  # 1, C, rows + 2·pad, W
                band = F.conv2d(rows, kernel, padding=(0, pad), groups=groups)  # 1, C, k, k
                grad_weight = grad_weight + band.transpose(0, 1)
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def attention(
    query: Tensor, key: Tensor, value: Tensor, biases: Sequence[Tensor] = (), drop_rate: float = 0.0
) -> Tensor:
    """Scaled dot-product attention of many short sequences, three times (windows, heads, tokens, d) -> the same shape.

    On CPUs, PyTorch's kernel takes no mask that learns, and in half precision two batched products are faster for
    windows of 49 tokens. ``biases`` are added to the logits, each (1 | windows, heads | 1, tokens | 1, tokens).
    """
    biases = [bias.to(query.dtype) for bias in biases]
    if not query.is_cpu or one_kernel(query) or exported() or transformed():
        return kernel_attention(query, key, value, _kernel_mask(biases, query), drop_rate)
    scale = query.shape[-1] ** -0.5
    q, k, v = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)  # windows·heads, tokens, d
    if not biases:
        logits = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
    else:  # the product is added to the biases: no pass for the sum
        logits = _full_sum(biases, query).flatten(0, 1)  # windows·heads, tokens, tokens
        logits.baddbmm_(q, k.transpose(1, 2), alpha=scale)
    if not cpu_inference(query):
        weights = logits.softmax(-1)  # in fp32 inside, whatever the type
    else:  # in place; half precision is faster converted before than inside
        logits = logits.float() if logits.element_size() < 4 else logits
        weights = torch.softmax(logits, dim=-1, out=logits).to(v.dtype)
    return torch.bmm(F.dropout(weights, drop_rate) if drop_rate else weights, v).view_as(query)


def kernel_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, drop_rate: float = 0.0
) -> Tensor:
    """Call PyTorch's attention, three times (B, heads, tokens, d) -> (B, heads, tokens, d).

    Transforms of `torch.func` get those products, as kernels cannot be differentiated forward, nor in each mask.
    """
    if transformed():
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # B, heads, tokens, tokens
        weights = (logits if mask is None else logits + mask).softmax(-1)
        return (F.dropout(weights, drop_rate) if drop_rate else weights) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=drop_rate)


def _kernel_mask(biases: Sequence[Tensor], query: Tensor) -> Tensor | None:
    """Return the sum of biases as kernels take it: (1 | windows, heads | 1, tokens | 1, tokens), None without any."""
    if not biases:
        return None
    if query.is_cpu or exported():
        return functools.reduce(torch.add, biases)
    # A GPU's kernel reads rows that start at a multiple of eight elements; PyTorch would copy a mask with others.
    return _padded_sum(*biases) if traced() or transformed() else _PaddedSum.apply(*biases)


def _padded_sum(*biases: Tensor) -> Tensor:
    """Return a sum, (1 | windows, heads | 1, tokens | 1, tokens), in memory whose rows have a multiple of eight."""
    keys = biases[0].shape[-1]
    return functools.reduce(torch.add, [F.pad(bias, (0, -keys % 8)) for bias in biases])[..., :keys]


class _PaddedSum(torch.autograd.Function):
    """Spares backward the padding: of a slice it would be a pass over all windows."""

    forward = staticmethod(_padded_sum)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.shapes = [x.shape for x in inputs]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = zip(ctx.shapes, ctx.needs_input_grad, strict=True)
        return tuple(grad.sum_to_size(shape) if need else None for shape, need in needed)


def _full_sum(biases: Sequence[Tensor], query: Tensor) -> Tensor:
    """Return a new tensor with the sum of biases for each logit: (windows, heads, tokens, tokens)."""
    shape = (*query.shape[:3], biases[0].shape[-1])
    total = functools.reduce(torch.add, [bias.contiguous() for bias in biases])
    new = len(biases) > 1 and total.shape == shape
    return total if new else total.expand(shape).clone(memory_format=torch.contiguous_format)


def one_kernel(x: Tensor) -> bool:
    """Whether :func:`attention` over ``x`` on a CPU is PyTorch's kernel, which reads heads in place, without a copy."""
    return cpu_inference(x) and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class Order(NamedTuple):
    """Where n rows go among m ≥ n places."""

    source: Tensor  # the row at each place, (m,); any row where it stays empty
    places: Tensor  # the place of each row, (n,)
    empty: Tensor  # the places without a row, (m - n,)


def order_of(numbers: Tensor, count: int) -> Order:
    """Return the order in which rows 1 to ``count`` stand at places, of any shape, which hold 0 where there is none."""
    numbers = numbers.flatten()  # m
    places = numbers.argsort()  # m: those without a row first
    empty = len(numbers) - count
    return Order((numbers - 1).clamp_(min=0), places[empty:], places[:empty])


def place_rows(rows: Tensor, order: Order) -> Tensor:
    """Put rows to their places, zeros between: (n, C) -> (m, C)."""
    return _Rows.apply(rows, True, *order)


def collect_rows(placed: Tensor, order: Order) -> Tensor:
    """Take rows from their places: (m, C) -> (n, C)."""
    return _Rows.apply(placed, False, *order)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, placing: bool, *order: Tensor) -> Tensor:
        source, places, empty = order
        if not placing:
            return x.index_select(0, places)  # n, C
        placed = x.index_select(0, source)  # m, C
        return placed.index_fill_(0, empty, 0) if len(empty) else placed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.placing = inputs[1]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Rows.apply(grad, not ctx.placing, *ctx.saved_tensors), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor, *others: None) -> Tensor:
        return _Rows.apply(x_t, ctx.placing, *ctx.saved_tensors)
