"""Tensors that have one number per place in a window, for windows of another size."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Size, Tensor

# Regular expression over names, and the function that gives such a tensor a new shape (None: it cannot).
Resizer = tuple[str, Callable[[Tensor, Size], Tensor | None]]


def resize_position_bias(table: Tensor, shape: Size) -> Tensor | None:
    """Interpolate a relative position bias table (bicubic), as Swin's loader does.

    Args:
        table: Of shape ((2·ws-1)², heads).
        shape: The wanted one, for another ws.

    Returns:
        The new table, None where the heads differ or a side is no whole number.
    """
    if table.ndim != 2 or len(shape) != 2 or table.shape[1] != shape[1]:
        return None
    old, new = math.isqrt(table.shape[0]), math.isqrt(shape[0])
    if old**2 != table.shape[0] or new**2 != shape[0]:
        return None
    image = table.float().T.reshape(1, -1, old, old)  # 1, heads, 2·ws-1, 2·ws-1
    image = F.interpolate(image, size=(new, new), mode="bicubic", align_corners=False)
    return image.flatten(2)[0].T.to(table.dtype).contiguous()


def resize_kernel(kernel: Tensor, shape: Size) -> Tensor | None:
    """Surround a depth-wise kernel with zeros, which computes the same, or keep its middle.

    Its places are distances in tokens, so stretching it, as one stretches a table, would move what it looks at.

    Args:
        kernel: Of shape (channels, 1, k, k), k odd.
        shape: The wanted one, for another k.

    Returns:
        The new kernel, None where more than k differs.
    """
    if kernel.ndim != 4 or kernel.shape[:2] != shape[:2]:
        return None
    (top, odd), (left, odd_too) = (divmod(shape[i] - kernel.shape[i], 2) for i in (2, 3))
    return None if odd or odd_too else F.pad(kernel, (left, left, top, top)).contiguous()  # negative: cut off
