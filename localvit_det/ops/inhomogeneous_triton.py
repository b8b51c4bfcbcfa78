"""Triton kernels of the depth-wise convolution with its own kernel at every position, and of both its gradients.

Checked in Triton's interpreter on a CPU, and compiled for NVIDIA GPUs; never run on a GPU so far. Imported only where
Triton is there and a GPU asks for it.

How they are meant to run. What counts are the convolution kernels, k²·G numbers a position (16 times the feature map in
the first stage of a tiny network): each pass reads them, or writes their gradient, once, and nothing else of that size
exists. All tensors are channels-last, so that neighbouring threads read neighbouring channels, and a group's k² taps
lie in one run: taps that follow each other come out of the sectors that the L1 cache already holds. A program works on
few elements a thread (`_ELEMENTS`): each resident pair of position and group occupies a line there. Neighbouring
programs work on neighbouring positions, whose k - 1 common rows and columns the L2 cache serves. The gradient of the
input gathers what the forward pass would scatter, so that there are no atomics and results are reproducible. Sums are
in fp32. Positions are counted in 64 bits: 32 images of 800×1344 have more than 2³¹ kernel weights.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (What is compiled has types of its own.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 512  # of a program's tile: positions × groups × channels of a group; two a thread
_LANES = 32  # threads next to each other, which should read neighbouring channels
_WARPS = 8


@triton.jit
def _tile(
    positions, height, width, groups, WIDTH: tl.constexpr, POSITIONS: tl.constexpr, GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Return a program's positions (P, 1, 1), rows and columns, groups (1, G, 1), channels (1, G, C), and a mask."""
    blocks = tl.cdiv(groups, GROUPS)
    program = tl.program_id(0).to(tl.int64)
    # Programs of the same positions follow each other: the sectors at the borders of their groups are shared.
    position = (program // blocks * POSITIONS + tl.arange(0, POSITIONS))[:, None, None]
    group = ((program % blocks).to(tl.int32) * GROUPS + tl.arange(0, GROUPS))[None, :, None]
    lane = tl.arange(0, CHANNELS)[None, None, :]
    row = (position // width % height).to(tl.int32)
    column = (position % width).to(tl.int32)
    mask = (position < positions) & (group < groups) & (lane < WIDTH)
    return position, row, column, group, group * WIDTH + lane, mask


@triton.jit
def _convolve(
    x, kernels, out, positions, height, width, groups, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    TRANSPOSED: tl.constexpr, POSITIONS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute out[p] = Σ_t kernels[p, t]·x[p + t]; TRANSPOSED: Σ_t kernels[p - t, t]·x[p - t], the gradient of x."""
    position, row, column, group, channel, mask = _tile(
        positions, height, width, groups, WIDTH, POSITIONS, GROUPS, CHANNELS
    )
    PAD: tl.constexpr = SIZE // 2
    TAPS: tl.constexpr = SIZE * SIZE
    total = tl.zeros((POSITIONS, GROUPS, CHANNELS), tl.float32)
    for i in range(SIZE):
        down = PAD - i if TRANSPOSED else i - PAD
        in_rows = mask & (row + down >= 0) & (row + down < height)
        for j in tl.static_range(SIZE):
            right = PAD - j if TRANSPOSED else j - PAD
            there = in_rows & (column + right >= 0) & (column + right < width)
            neighbour = position + down * width + right
            value = tl.load(x + neighbour * (groups * WIDTH) + channel, mask=there, other=0.0)
            owner = neighbour if TRANSPOSED else position  # of the kernel
            tap = owner * (groups * TAPS) + group * TAPS + (i * SIZE + j)
            # All channels of a group read one address, which the hardware broadcasts.
            weight = tl.load(kernels + tap, mask=there, other=0.0)
            total += weight.to(tl.float32) * value.to(tl.float32)
    tl.store(out + position * (groups * WIDTH) + channel, total, mask=mask)


@triton.jit
def _grad_kernels(
    x, grad, out, positions, height, width, groups, SIZE: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr,
    POSITIONS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute out[p, t] = Σ_c grad[p, c]·x[p + t, c] over the channels of a group; SPAN is SIZE rounded up to 2ⁿ."""
    position, row, column, group, channel, mask = _tile(
        positions, height, width, groups, WIDTH, POSITIONS, GROUPS, CHANNELS
    )
    PAD: tl.constexpr = SIZE // 2
    TAPS: tl.constexpr = SIZE * SIZE
    offset = position * (groups * WIDTH) + channel
    upstream = tl.load(grad + offset, mask=mask, other=0.0).to(tl.float32)[:, :, :, None]
    # A row of taps at once, so that it is written as one run and not as SIZE scattered numbers.
    j = tl.arange(0, SPAN)[None, None, None, :]
    at = column[:, :, :, None] + j - PAD
    in_columns = mask[:, :, :, None] & (j < SIZE) & (at >= 0) & (at < width)
    start = position * (groups * TAPS) + group * TAPS  # P, G, 1
    written = (position < positions) & (group < groups) & (tl.arange(0, SPAN)[None, None, :] < SIZE)
    for i in range(SIZE):
        there = in_columns & (row + i - PAD >= 0)[:, :, :, None] & (row + i - PAD < height)[:, :, :, None]
        neighbours = offset[:, :, :, None] + ((i - PAD) * width + j - PAD) * (groups * WIDTH)
        window = tl.load(x + neighbours, mask=there, other=0.0)  # P, G, C, SPAN
        taps = tl.sum(window.to(tl.float32) * upstream, axis=2)  # P, G, SPAN
        tl.store(out + start + i * SIZE + tl.arange(0, SPAN)[None, None, :], taps, mask=written)


def forward(x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
    """Compute the convolution: (B, C, H, W) by (B, G·k², H, W) -> (B, C, H, W), channels-last."""
    x, kernels = _channels_last(x), _channels_last(kernels)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    _launch(_convolve, (x, kernels, out), kernels.shape[1] // kernel_size**2, kernel_size, TRANSPOSED=False)
    return out


def backward(grad: Tensor, x: Tensor, kernels: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Compute both gradients, shaped and typed as ``x`` and ``kernels``, channels-last."""
    grad, x, kernels = _channels_last(grad), _channels_last(x), _channels_last(kernels)
    groups = kernels.shape[1] // kernel_size**2
    grad_x = torch.empty_like(x, memory_format=torch.channels_last)
    grad_kernels = torch.empty_like(kernels, memory_format=torch.channels_last)
    _launch(_convolve, (grad, kernels, grad_x), groups, kernel_size, TRANSPOSED=True)
    span = triton.next_power_of_2(kernel_size)
    _launch(_grad_kernels, (x, grad, grad_kernels), groups, kernel_size, elements=_ELEMENTS * 4 // span, SPAN=span)
    return grad_x, grad_kernels


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def blocks_of(width: int, groups: int, elements: int = _ELEMENTS) -> dict[str, int]:
    """Return the sides of a tile for groups of ``width`` channels: powers of two, as Triton wants them."""
    channels = triton.next_power_of_2(width)
    together = min(max(1, _LANES // channels), triton.next_power_of_2(groups))
    return {"POSITIONS": max(1, elements // (channels * together)), "GROUPS": together, "CHANNELS": channels}


def _launch(
    kernel: triton.JITFunction,
    tensors: tuple[Tensor, Tensor, Tensor],
    groups: int,
    size: int,
    elements: int = _ELEMENTS,
    **constants: int,
) -> None:
    batch, channels, height, width = tensors[0].shape
    positions = batch * height * width
    if not positions or not channels:
        return
    tile = blocks_of(channels // groups, groups, elements)
    programs = triton.cdiv(positions, tile["POSITIONS"]) * triton.cdiv(groups, tile["GROUPS"])
    with torch.cuda.device_of(tensors[0]):  # Triton starts kernels on the current device
        kernel[(programs,)](
            *tensors, positions, height, width, groups, size, channels // groups, **constants, **tile, num_warps=_WARPS
        )
