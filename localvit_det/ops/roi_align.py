"""RoIAlign on a CPU as weighted sums of the rows of a table: many times faster than one channel at a time.

A channels-last feature map is a table with one row of C numbers per cell, and a bin of a RoI the weighted sum of the
rows under it. Bilinear interpolation on a grid of samples is separable, so the weights of a bin are the product of
weights along y and along x, in which samples that touch the same cell are added up beforehand. PyTorch's
`embedding_bag` does the sums, in parallel and a row at a time; backward is the transposed sum, from bins to cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Of one call of `embedding_bag`: 12 bytes an entry are written before it starts.
_CHUNK_ENTRIES = 4_000_000


class _Axis(NamedTuple):
    """Weights of the bins of R RoIs along one axis of a feature map."""

    first: Tensor  # the first cell that a bin touches, (R, P)
    weights: Tensor  # of the cells from there on, (R, P, K); zero beyond those that it touches
    extents: Tensor  # cells that the largest bin of a RoI touches, (R,); 0 for a RoI without samples
    samples: Tensor  # along this axis in a bin, (R,)


class _Entries(NamedTuple):
    """The terms of the sums over the bins of some RoIs."""

    rois: Tensor  # which RoIs, (r,)
    cells: Tensor  # rows of the table, by bin, (r·P·Q·n,), int32
    weights: Tensor  # as many
    per_bin: Tensor  # terms in each bin, n, (r,)


@torch.no_grad()
def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Compute RoIAlign with mmcv's sampling grid.

    Args:
        features: (N, C, H, W); read without a copy if its memory is channels-last.
        rois: Index of the image, x1, y1, x2, y2 in pixels of the image, (R, 5).
        output_size: Bins, height and width.
        spatial_scale: Cells per pixel.
        sampling_ratio: Samples per bin along each axis; 0 for as many as cells, rounded up.
        aligned: Whether a pixel's center is half a pixel from its corner.

    Returns:
        (R, C, height, width), channels-last in memory, of the type of ``features``. Nothing is recorded for autograd.
    """
    levels = torch.zeros(len(rois), dtype=torch.long, device=rois.device)
    return roi_align_levels([features], rois, levels, output_size, [spatial_scale], sampling_ratio, aligned)


@torch.no_grad()
def roi_align_levels(
    pyramid: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Compute :func:`roi_align` on a pyramid, each RoI on one of its feature maps.

    Args:
        pyramid: Feature maps (N, C, H_i, W_i).
        rois: As there, like the output and all that is not named here.
        levels: Which feature map a RoI is taken from, (R,).
        spatial_scales: Of each feature map.
    """
    channels, bins = pyramid[0].shape[1], output_size[0] * output_size[1]
    output = pyramid[0].new_zeros(len(rois), bins * channels)
    for level, (features, scale) in enumerate(zip(pyramid, spatial_scales, strict=True)):
        members = (levels == level).nonzero()[:, 0]
        images, _, *size = features.shape
        table = features.permute(0, 2, 3, 1).reshape(-1, channels)
        for entries in _entries(rois[members], images, size, output_size, scale, sampling_ratio, aligned):
            starts = _starts(entries.per_bin.repeat_interleave(bins))
            sums = _sums(table, entries.cells, starts, entries.weights)
            output.index_copy_(0, members[entries.rois], sums.view(-1, bins * channels))
    return output.view(-1, *output_size, channels).permute(0, 3, 1, 2)


@torch.no_grad()
def roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Compute the gradient of :func:`roi_align` with respect to the features: (R, C, height, width) -> ``input_shape``.

    It is channels-last in memory, and ``grad`` is read without a copy if it is.
    """
    images, channels, *size = input_shape
    output_size = (grad.shape[2], grad.shape[3])
    bins = output_size[0] * output_size[1]
    table = grad.permute(0, 2, 3, 1).reshape(-1, channels)
    cells = images * size[0] * size[1]
    total = None
    for entries in _entries(rois, images, size, output_size, spatial_scale, sampling_ratio, aligned):
        rows = (entries.rois[:, None] * bins + torch.arange(bins, device=rois.device)).int().flatten()
        rows = rows.repeat_interleave(entries.per_bin.repeat_interleave(bins), output_size=len(entries.cells))
        sorted_cells, order = torch.sort(entries.cells)
        starts = torch.searchsorted(sorted_cells, torch.arange(cells + 1, dtype=torch.int32), out_int32=True)
        part = _sums(table, rows[order], starts, entries.weights[order])
        total = part if total is None else total.add_(part)
    if total is None:
        total = table.new_zeros(cells, channels)
    return total.view(images, *size, channels).permute(0, 3, 1, 2)


def _entries(
    rois: Tensor,
    images: int,
    size: list[int],
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Iterator[_Entries]:
    """Yield the terms of all bins, a few RoIs at a time; RoIs with equal numbers of terms come together."""
    if not len(rois):
        return
    exact = rois.to(torch.promote_types(rois.dtype, torch.float32))
    offset = 0.5 if aligned else 0.0
    corners = exact[:, 1:] * spatial_scale - offset  # x1, y1, x2, y2 in cells
    spans = corners[:, 2:] - corners[:, :2]
    if not aligned:
        spans = spans.clamp(min=1.0)
    x = _axis(corners[:, 0], spans[:, 0], output_size[1], size[1], sampling_ratio)
    y = _axis(corners[:, 1], spans[:, 1], output_size[0], size[0], sampling_ratio)
    scale = 1 / (x.samples * y.samples).clamp(min=1).to(exact.dtype)
    y_weights = y.weights * scale[:, None, None]
    image_rows = (exact[:, 0].long() * size[0])[:, None] + y.first  # of the whole batch, one image under the other

    stride = int(y.weights.shape[2]) + 1
    keys, order = torch.sort(x.extents * stride + y.extents)
    groups, counts = keys.unique_consecutive(return_counts=True)
    chunk: list[_Entries] = []
    pending = 0
    for key, members in zip(groups.tolist(), order.split(counts.tolist()), strict=True):
        width, height = divmod(key, stride)
        each = output_size[0] * output_size[1] * width * height
        for rois_of_chunk in members.split(max(1, _CHUNK_ENTRIES // max(each, 1))):
            if chunk and pending + each * len(rois_of_chunk) > _CHUNK_ENTRIES:
                yield _joined(chunk)
                chunk, pending = [], 0
            cells, weights = _products(rois_of_chunk, image_rows, y_weights, x, width, height, size)
            per_bin = torch.full_like(rois_of_chunk, width * height)
            chunk.append(_Entries(rois_of_chunk, cells, weights, per_bin))
            pending += len(cells)
    yield _joined(chunk)


def _products(
    members: Tensor, image_rows: Tensor, y_weights: Tensor, x: _Axis, width: int, height: int, size: list[int]
) -> tuple[Tensor, Tensor]:
    """Compute cells and weights of RoIs whose bins touch at most ``height`` × ``width`` cells each."""
    # Cells beyond the last row or column have no weight, but must exist.
    rows = image_rows[members, :, None] + torch.arange(height, device=members.device)
    columns = (x.first[members, :, None] + torch.arange(width, device=members.device)).clamp_(max=size[1] - 1)
    last = image_rows[members, :1] // size[0] * size[0] + size[0] - 1
    rows = torch.minimum(rows, last[:, :, None])
    cells = (rows * size[1]).int()[:, :, None, :, None] + columns.int()[:, None, :, None, :]
    weights = y_weights[members, :, None, :height, None] * x.weights[members, None, :, None, :width]
    return cells.flatten(), weights.flatten()


def _axis(start: Tensor, span: Tensor, bins: int, length: int, sampling_ratio: int) -> _Axis:
    """Compute weights along one axis of ``length`` cells, for RoIs from ``start`` over ``span`` cells."""
    device, dtype = start.device, start.dtype
    bin_span = span / bins
    samples = torch.full_like(start, sampling_ratio) if sampling_ratio > 0 else bin_span.ceil().clamp(min=0)
    samples = torch.where(start.isfinite() & span.isfinite(), samples, 0)
    most = max(int(samples.max()), 1)
    step = torch.arange(most, device=device, dtype=dtype)
    corner = start[:, None] + torch.arange(bins, device=device, dtype=dtype) * bin_span[:, None]  # R, P
    within = (step + 0.5) * bin_span[:, None] / samples.clamp(min=1)[:, None]  # R, samples
    place = corner[:, :, None] + within[:, None, :]  # R, P, samples
    valid = (step < samples[:, None])[:, None] & (place >= -1) & (place <= length)
    place = place.clamp_(min=0)
    low = place.long().clamp_(0, length - 1)
    upper = torch.where(low == length - 1, torch.zeros_like(place), place - low)  # weight of the next cell
    first = torch.where(valid, low, length - 1).amin(2)
    shift = torch.where(valid, low - first[:, :, None], 0)
    extents = torch.where(valid, shift + 2, 0).amax((1, 2))
    weights = start.new_zeros(*first.shape, max(int(extents.max()), 1) + 1)
    keep = valid.to(dtype)
    weights.scatter_add_(2, shift, (1 - upper) * keep)
    weights.scatter_add_(2, shift + 1, upper * keep)
    return _Axis(first, weights, extents, samples.long())


def _sums(table: Tensor, rows: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Compute weighted sums of rows of a table (K, C), those from each of ``starts`` up to the next: (S - 1, C)."""
    weights = weights.to(table.dtype)
    return torch.embedding_bag(table, rows, starts, per_sample_weights=weights, include_last_offset=True)[0]


def _starts(counts: Tensor) -> Tensor:
    starts = counts.new_zeros(len(counts) + 1, dtype=torch.int32)
    torch.cumsum(counts, 0, out=starts[1:])
    return starts


def _joined(chunk: list[_Entries]) -> _Entries:
    return _Entries(*map(_concatenated, zip(*chunk, strict=True)))


def _concatenated(parts: Sequence[Tensor]) -> Tensor:
    parts = [part for part in parts if len(part)] or parts[:1]
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))
