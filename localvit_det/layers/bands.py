"""Running a residual branch over bands of rows, so that its wide tensors stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .window import Split

# Size of a band's input, in bytes. The widest tensors of a block (hidden layer, query-key-value) are three to four
# times as large, and two of them are alive at a time.
_BAND_BYTES = 2 * 1024 * 1024

# Which rows a branch mixes: those of a row of windows, given by window side and split.
Reach = tuple[int, Split]
POINTWISE: Reach = (1, "local")  # each position on its own


def residual(x: Tensor, branch: Callable[[Tensor], Tensor], reach: Reach | None, module: nn.Module) -> Tensor:
    """Compute ``x + branch(x)``, in bands of rows where the branch allows it.

    Args:
        x: Map of shape (B, C, H, W).
        branch: The branch, (B, C, H, W) -> (B, C, H, W), for any number of rows.
        reach: Which rows the branch mixes; None if any, so that it needs the whole map.
        module: The module that the branch belongs to.

    Returns:
        Map of shape (B, C, H, W).
    """
    if reach is None:
        return x + branch(x)
    return in_bands(lambda band: band + branch(band), (x,), reach, module)


def in_bands(function: Callable[..., Tensor], maps: tuple[Tensor, ...], reach: Reach, module: nn.Module) -> Tensor:
    """Compute ``function(*maps)``; on a CPU at inference, one band of rows after the other.

    Bands give the same numbers as the whole map, because the function never mixes rows of different bands. On a GPU
    they would only mean smaller kernels, and autograd would keep all bands anyway.

    Args:
        function: Maps to a map, all of one shape (B, C, H, W), for any number of rows.
        maps: Its arguments.
        reach: Which rows the function mixes.
        module: The module that the function belongs to; bands need it in eval mode.

    Returns:
        Map of shape (B, C, H, W).
    """
    bands = _bands(maps[0], *reach) if _pays(maps[0], module) else []
    if len(bands) < 2:
        return function(*maps)
    out = torch.empty_like(maps[0])
    for *pictures, target in zip(*(m.split(1) for m in (*maps, out)), strict=True):  # views of 1, C, H, W
        for slices in bands:
            band = function(*(_rows(picture, slices) for picture in pictures))  # 1, C, rows, W
            for s, part in zip(slices, band.split([s.stop - s.start for s in slices], dim=2), strict=True):
                target[:, :, s] = part
    return out


def _rows(picture: Tensor, slices: list[slice]) -> Tensor:
    rows = [picture[:, :, s] for s in slices]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)


def _pays(x: Tensor, module: nn.Module) -> bool:
    recorded = module.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
    return x.device.type == "cpu" and not recorded


def _bands(x: Tensor, window_size: int, split: Split) -> list[list[slice]]:
    """Rows of each band, as slices in the order in which the band holds them."""
    height = x.shape[2]
    row_bytes = x.shape[1] * x.shape[3] * x.element_size()
    step = max(1, _BAND_BYTES // (row_bytes * window_size))  # rows of windows in a band
    if split == "local":
        step *= window_size
        return [[slice(start, min(start + step, height))] for start in range(0, height, step)]
    # A row of dilated windows takes every hh-th row of the map. A band of them, stacked, is a smaller map whose
    # dilated windows are the same; that breaks down only where whole rows of tokens are padding.
    windows = -(-height // window_size)  # hh
    if windows < window_size:
        return []
    return [
        [
            slice(i * windows + start, min(i * windows + min(start + step, windows), height))
            for i in range(window_size)
            if i * windows + start < height
        ]
        for start in range(0, windows, step)
    ]
