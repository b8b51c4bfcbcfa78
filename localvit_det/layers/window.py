"""Splitting a feature map into windows of tokens and back, as pure functions.

Two splits of an H×W feature map into hh×ww windows of ws×ws tokens (hh = H/ws, ww = W/ws):

* ``local``: neighbouring tokens share a window; token (y, x) lies in window (y // ws, x // ws);
* ``dilated``: a window takes tokens spread evenly over the whole feature map; token (y, x) lies in window
  (y mod hh, x mod ww). The spatial shuffle of Shuffle Transformer (arXiv:2106.03650, section 3.2) and the
  adaptively dilated partition of GG-Transformer (arXiv:2106.02277, section 3.2) are this same permutation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..ops import Order, collect_rows, order_of, place_rows, traced, transformed

Split = Literal["local", "dilated"]

# How the two axes of a feature map are made of window index (hh, ww) and index inside the window (wh, wl).
_AXES: dict[str, str] = {"local": "(hh wh) (ww wl)", "dilated": "(wh hh) (wl ww)"}
# What depends on sizes alone (masks of padding, orders of tokens), which blocks of one pass share; outside of one it is
# made anew.
_shared: ContextVar[dict[tuple, Any] | None] = ContextVar("shared", default=None)
T = TypeVar("T")
assert tuple(_AXES) == get_args(Split)


def ceil_div(side: int, divisor: int) -> int:
    """Return how many windows cover a side, ⌈side/divisor⌉; no negative numbers, which ONNX divides differently."""
    return (side + divisor - 1) // divisor


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Pad with zeros at the bottom and the right until both sides are multiples of ``divisor``.

    (B, C, H, W) -> (B, C, H', W'); ``x`` itself where nothing is to be done.
    """
    bottom, right = _padding(x, divisor)
    return x if _nothing(bottom, right) else F.pad(x, (0, right, 0, bottom))


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Undo :func:`pad_to_multiple`: (B, C, H', W') -> (B, C, *size), a view."""
    x = x.permute(0, 2, 3, 1)  # B,C,H',W' -> B,H',W',C: the gradient of a slice is a whole tensor of its own, in order
    for dim, length in zip((1, 2), size, strict=True):
        if not _nothing(x.shape[dim] - length):
            # As a length, which exporters believe; of the ends of slices they keep the smaller of two sizes.
            x = x.narrow(dim, 0, length)
    return x.permute(0, 3, 1, 2)  # -> B, C, *size


def window_partition(x: Tensor, window_size: int, split: Split) -> Tensor:
    """Split a feature map into windows, in one copy: (B, C, H, W) -> (1, C, B·hh·ww, ws²), channels-last in memory.

    H and W are multiples of ``window_size``. In channels-last memory the innermost runs stay contiguous, and the result
    is a feature map for 1×1 convolutions.
    """
    channels_last = rearrange(
        x.permute(0, 2, 3, 1),  # B,C,H,W -> B,H,W,C, a view; so that the gradient is channels-last, too
        f"b {_AXES[split]} c -> 1 (b hh ww) (wh wl) c",
        wh=window_size,
        wl=window_size,
    )
    return channels_last.permute(0, 3, 1, 2)  # -> 1, C, B·hh·ww, ws², a view


def cut_windows(x: Tensor, window_size: int, split: Split) -> Tensor:
    """Pad and split a feature map of any size into windows, in one copy, zeros where there is padding.

    (B, C, H, W) -> (1, C, B·⌈H/ws⌉·⌈W/ws⌉, ws²), channels-last in memory.
    """
    if _nothing(*_padding(x, window_size)) or not reorders():
        return window_partition(pad_to_multiple(x, window_size), window_size, split)
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # B·H·W, C
    placed = place_rows(rows, shared_by_blocks(_order, x, window_size, split))  # B·windows·ws², C
    return placed.unflatten(0, (-1, window_size**2))[None].permute(0, 3, 1, 2)  # 1, C, B·windows, ws²


def merge_windows(windows: Tensor, x: Tensor, window_size: int, split: Split) -> Tensor:
    """Undo :func:`cut_windows` after attention: (B·windows, heads, ws², d) -> (B, C, H, W), of the size of ``x``.

    Where heads do not lie after each other the result may be padded, (B, C, H', W'), since it takes a copy anyway.
    """
    # In this order: to ask for strides would bind an exported graph to the example's.
    if _nothing(*_padding(x, window_size)) or not reorders() or not _heads_together(windows):
        size = tuple(ceil_div(side, window_size) * window_size for side in x.shape[-2:])  # H', W'
        return window_reverse(windows, size, window_size, split)
    placed = windows.transpose(1, 2).flatten(2).flatten(0, 1)  # B·windows·ws², C
    rows = collect_rows(placed, shared_by_blocks(_order, x, window_size, split))  # B·H·W, C
    return rows.unflatten(0, (len(x), *x.shape[2:])).permute(0, 3, 1, 2)  # B, C, H, W


def _heads_together(windows: Tensor) -> bool:
    """Whether the heads of a token, (n, heads, ws², d), lie after each other."""
    return windows.stride(1) == windows.shape[3] or windows.shape[1] == 1


def reorders() -> bool:
    """Whether tokens may be taken by an index, rather than by plain operators that compilers and transforms know."""
    return not traced() and not transformed()


def _order(x: Tensor, window_size: int, split: Split) -> Order:
    """Return how the tokens of a feature map (B, C, H, W) lie in windows."""
    numbers = torch.arange(1, x[:, :1].numel() + 1, device=x.device).view(-1, 1, *x.shape[2:])  # B, 1, H, W
    return order_of(window_partition(pad_to_multiple(numbers, window_size), window_size, split), numbers.numel())


def pointwise(layer: nn.Module, windows: Tensor) -> Tensor:
    """Apply a 1×1 convolution to windows, (1, C, n, t) -> (1, C', n, t), of which a batch of no image has none."""
    for axis in (2, 3):
        if _nothing(windows.shape[axis]):  # a convolution takes batches of none, but no feature map without positions
            return layer(windows.transpose(0, axis)).transpose(0, axis)
    return layer(windows)


def split_heads(tokens: Tensor, num_heads: int, parts: int = 1) -> tuple[Tensor, ...]:
    """Split channels into parts (query, key, value) and heads: (n, t, parts·C) -> parts times (n, heads, t, d), views.

    The gradient of the parts comes back in one piece, in the order that a projection's backward reads.
    """
    whole = (tokens,) if parts == 1 else tokens.unflatten(2, (parts, -1)).unbind(2)  # each n, t, C
    return tuple(part.unflatten(2, (num_heads, -1)).transpose(1, 2) for part in whole)


def window_reverse(windows: Tensor, size: Sequence[int], window_size: int, split: Split) -> Tensor:
    """Merge windows and heads, as attention returns them, to a feature map of ``size``, in one copy.

    (B·hh·ww, heads, ws², d) -> (B, heads·d, H, W), channels-last in memory; H and W are multiples of ``window_size``.
    """
    channels_last = rearrange(
        windows,
        f"(b hh ww) heads (wh wl) d -> b {_AXES[split]} (heads d)",
        hh=size[0] // window_size,
        ww=size[1] // window_size,
        wh=window_size,
    )
    return channels_last.permute(0, 3, 1, 2)  # B,H,W,C -> B,C,H,W, a view


def key_padding_mask(x: Tensor, window_size: int, split: Split, leaders: int = 0) -> Tensor | None:
    """Return what to add to attention logits so that no token attends to padding.

    Every window holds at least one real token (padding is thinner than a window in the local split, and lies
    in the last tokens of a window in the dilated one), so no softmax runs over nothing.

    Args:
        x: Feature map before padding, of shape (B, C, H, W); gives size, dtype and device.
        window_size: Side of a window, in tokens.
        split: Which tokens share a window.
        leaders: Further keys before those of each window, all real.

    Returns:
        0 at real keys and -inf at padded ones, of shape (B·hh·ww, 1, 1, leaders + ws²); None where nothing is padded.
    """
    if _nothing(*_padding(x, window_size)):
        return None
    return shared_by_blocks(_make_mask, x, window_size, split, leaders)


def shared_by_blocks(make: Callable[..., T], x: Tensor, *arguments: Hashable) -> T:
    """Return ``make(x, *arguments)``, which depends on size, type and device of a feature map (B, C, H, W) alone.

    Blocks of a pass share it.
    """
    shared = _shared.get()
    # Nothing is shared outside of a pass, and where a tracer has sizes that stand for any.
    if shared is None or traced() or not all(isinstance(side, int) for side in x.shape):
        return make(x, *arguments)
    key = (make, x.shape[0], *x.shape[2:], x.dtype, x.device, *arguments)
    if key not in shared:
        shared[key] = make(x, *arguments)
    return shared[key]


def _make_mask(x: Tensor, window_size: int, split: Split, leaders: int) -> Tensor:
    bottom, right = _padding(x, window_size)
    mask = torch.zeros(x.shape[0], 1, *x.shape[-2:], dtype=x.dtype, device=x.device)  # B, 1, H, W
    mask = F.pad(mask, (0, right, 0, bottom), value=-torch.inf)  # B, 1, H', W'
    mask = rearrange(window_partition(mask, window_size, split), "1 1 windows keys -> windows 1 1 keys")
    return F.pad(mask, (leaders, 0)) if leaders else mask


def shared_in_pass() -> AbstractContextManager:
    """Return a context, for a pass of a network, in which blocks share what depends on sizes alone."""
    return nullcontext() if traced() else _sharing()


@contextmanager
def _sharing() -> Iterator[None]:
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def _padding(x: Tensor, divisor: int) -> tuple[int, int]:
    """Return what is missing at the bottom and the right."""
    height, width = x.shape[-2:]
    return ceil_div(height, divisor) * divisor - height, ceil_div(width, divisor) * divisor - width


def _nothing(*amounts: int | torch.SymInt) -> bool:
    """Whether all are zero for sure: what stands for any size, in an exported model, is no plain number."""
    return all(isinstance(amount, int) and amount == 0 for amount in amounts)
