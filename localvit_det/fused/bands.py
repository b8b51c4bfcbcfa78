"""Run a residual branch over bands of rows, so that its wide tensors stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..layers import Fused, Split, crop
from ..ops import cpu_inference
from .packed import compared_once

# Size of a band's input, in bytes. The widest tensors of a block (hidden layer, query-key-value) are three to four
# times as large, and two of them are alive at a time. Smaller bands mean more parallel regions, at whose ends threads
# wait for each other: at 2 MiB a network was slower than unfused as soon as another process kept a core busy.
# A little less than 8 MiB: hidden layers of 32 MiB would be the first that C's allocator on Linux never keeps, and each
# would cost page faults.
_BAND_BYTES = 8 * 1024 * 1024 - 64 * 1024

# Which rows a branch mixes: those of a row of windows, given by window side and split.
Reach = tuple[int, Split]
POINTWISE: Reach = (1, "local")  # each position on its own


class Banded(Fused):
    """A residual branch in two steps, of which the second can run over bands of rows."""

    @property
    def reach(self) -> Reach:
        """Rows that :meth:`mix_rows` mixes."""
        return POINTWISE

    def mix_whole(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute what needs the whole feature map: (B, C, H, W) -> feature maps (B, any, H, W).

        The last one, unless it is ``x``, must be the branch's own, for it may be overwritten.
        """
        return (x,)

    # Compute the rest for any rows of what `mix_whole` returned -> (B, C, rows, W), padded or not.
    mix_rows: Callable[..., Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return crop(self.mix_rows(*self.mix_whole(x)), x.shape[-2:])


def add_branch(x: Tensor, norm: nn.Module, branch: nn.Module, overwrite: bool = False) -> Tensor:
    """Compute ``x + branch(norm(x))``, in bands where the branch is :class:`Banded`.

    Args:
        x: Feature map of shape (B, C, H, W).
        norm: Before the branch.
        branch: The branch, (B, C, H, W) -> (B, C, H, W).
        overwrite: Whether ``x`` is not needed afterwards.

    Returns:
        Feature map of shape (B, C, H, W), perhaps in the memory of ``x`` where it may be overwritten.
    """
    normed = norm(x)
    if not isinstance(branch, Banded):
        return x + branch(normed)
    maps = branch.mix_whole(normed)
    workspace = x if overwrite else None if maps[-1] is normed else maps[-1]
    return add_in_bands(x, branch.mix_rows, maps, branch.reach, workspace)


def add_in_bands(
    x: Tensor, branch: Callable[..., Tensor], maps: Sequence[Tensor], reach: Reach, workspace: Tensor | None = None
) -> Tensor:
    """Compute ``x + branch(*maps)``; on a CPU where nothing is recorded, one band of rows after the other.

    Bands give the same numbers as the whole feature map, because the branch never mixes rows of different bands. On a
    GPU they would only mean smaller kernels, and autograd would keep all bands anyway.

    Args:
        x: What the branch is added to, (B, C, H, W).
        branch: The branch, ``maps`` -> (B, C, H, W), for any number of rows. Where they are padded at the bottom and
            the right, so may be what it returns.
        maps: Feature maps that the branch takes, each (B, any, H, W).
        reach: Which rows the branch mixes.
        workspace: A feature map that is not needed afterwards, ``x`` or one of ``maps``. Where it is like ``x``,
            bands are written into it: new memory costs page faults.

    Returns:
        Feature map of shape (B, C, H, W).
    """
    bands = cut_into_bands(x, *reach) if cpu_inference(x) else []
    if len(bands) < 2:
        return x + crop(branch(*maps), x.shape[-2:])
    fits = workspace is not None and (workspace.shape, workspace.dtype) == (x.shape, x.dtype)
    out = workspace if workspace is not None and fits else torch.empty_like(x)
    with compared_once():
        for base, target, *image in zip(*(m.split(1) for m in (x, out, *maps)), strict=True):  # views of 1, C, H, W
            for slices in bands:
                band = branch(*(_rows(m, slices) for m in image))  # 1, C, rows, W
                for s, part in zip(slices, band.split([s.stop - s.start for s in slices], dim=2), strict=True):
                    torch.add(base[:, :, s], part[..., : x.shape[3]], out=target[:, :, s])
    return out


def cut_into_bands(x: Tensor, window_size: int, split: Split) -> list[list[slice]]:
    """Return the rows of each band, as slices in its order; no bands where they cannot be cut."""
    height = x.shape[2]
    row_bytes = x.shape[1] * x.shape[3] * x.element_size()
    windows = -(-height // window_size)  # hh: rows of windows
    step = max(1, _BAND_BYTES // (row_bytes * window_size))  # of them, in a band
    step = -(-windows // -(-windows // step))  # no more bands, but alike
    if split == "local":
        step *= window_size
        return [[slice(start, min(start + step, height))] for start in range(0, height, step)]
    # A row of dilated windows takes every hh-th row of the feature map. A band of them, stacked, is a smaller one whose
    # dilated windows are the same; that breaks down only where whole rows of tokens are padding.
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


def _rows(image: Tensor, slices: list[slice]) -> Tensor:
    rows = [image[:, :, s] for s in slices]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)
