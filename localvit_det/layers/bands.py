"""Running a residual branch over bands of rows, so that its wide tensors stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from .modes import cpu_inference
from .window import Split

# Size of a band's input, in bytes. The widest tensors of a block (hidden layer, query-key-value) are three to four
# times as large, and two of them are alive at a time.
_BAND_BYTES = 2 * 1024 * 1024

# Which rows a branch mixes: those of a row of windows, given by window side and split.
Reach = tuple[int, Split]
POINTWISE: Reach = (1, "local")  # each position on its own


def residual(
    x: Tensor,
    branch: Callable[..., Tensor],
    maps: Sequence[Tensor],
    reach: Reach | None,
    drop_path: DropPath,
    workspace: Tensor | None = None,
) -> Tensor:
    """Compute ``x + drop_path(branch(*maps))``; on a CPU at inference, one band of rows after the other.

    Bands give the same numbers as the whole map, because the branch never mixes rows of different bands. On a GPU
    they would only mean smaller kernels, and autograd would keep all bands anyway.

    Args:
        x: What the branch is added to, (B, C, H, W).
        branch: The branch, maps -> (B, C, H, W), for any number of rows. Where maps are padded at the bottom and the
            right, so may be what it returns.
        maps: What the branch takes, each (B, any, H, W).
        reach: Which rows the branch mixes; None for no bands.
        drop_path: Gives the probability of leaving the branch out, per image, in train mode.
        workspace: A map that nobody needs afterwards, ``x`` or one of ``maps``. Where it is like ``x``, bands are
            written into it: new memory is paid for in page faults.

    Returns:
        Map of shape (B, C, H, W).
    """
    bands = _bands(x, *reach) if reach and cpu_inference(x) and not drop_path.training else []
    if len(bands) < 2:
        return _add_at_random(x, branch(*maps)[..., : x.shape[2], : x.shape[3]], drop_path)
    fits = workspace is not None and (workspace.shape, workspace.dtype) == (x.shape, x.dtype)
    out = workspace if fits else torch.empty_like(x)
    for base, target, *image in zip(*(m.split(1) for m in (x, out, *maps)), strict=True):  # views of 1, C, H, W
        for slices in bands:
            band = branch(*(_rows(m, slices) for m in image))  # 1, C, rows, W
            for s, part in zip(slices, band.split([s.stop - s.start for s in slices], dim=2), strict=True):
                torch.add(base[:, :, s], part[..., : x.shape[3]], out=target[:, :, s])
    return out


def _add_at_random(x: Tensor, branch: Tensor, drop_path: DropPath) -> Tensor:
    if not drop_path.training or not drop_path.drop_prob:
        return x + branch
    # What MMCV's module computes, in one pass over the map instead of three.
    keep = 1 - drop_path.drop_prob
    scale = branch.new_empty(len(x), 1, 1, 1).bernoulli_(keep).div_(keep)
    return torch.addcmul(x, branch, scale)


def _rows(image: Tensor, slices: list[slice]) -> Tensor:
    rows = [image[:, :, s] for s in slices]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)


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
