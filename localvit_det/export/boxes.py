"""Boxes from scores and deltas, in operators that every exporter knows and with shapes that are known beforehand.

MMDetection filters where it can, so that its tensors shrink step by step. Here a row that is filtered out stays and
scores -1: it comes last in every order, suppresses nothing, and is dropped at the end. Only what NMS returns has a
length of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from torch import Tensor

NONE = -1.0  # the score of a row that is no object


def anchors(base: Tensor, stride: tuple[int, int], grid: Tensor) -> Tensor:
    """Anchors of all cells of a map, in the order of MMDetection: by row, by column, by shape.

    Args:
        base: Of the cell at the origin, (A, 4).
        stride: Pixels between cells, along x and y.
        grid: The map, of which only height and width count, (1, C, H, W).

    Returns:
        (H·W·A, 4).
    """
    height, width = grid.shape[2:]
    x = torch.arange(width, device=grid.device) * stride[0]
    y = torch.arange(height, device=grid.device) * stride[1]
    xs, ys = x[None, :] + torch.zeros_like(y)[:, None], y[:, None] + torch.zeros_like(x)[None, :]  # both H, W
    shifts = torch.stack((xs, ys, xs, ys), -1).reshape(-1, 1, 4).to(base.dtype)  # H,W,4 -> H·W,1,4
    return (base[None] + shifts).reshape(-1, 4)  # H·W,A,4 -> H·W·A,4


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of ``scores`` (N,) and where they are; with NONE, anywhere, where N is less than that."""
    padded = torch.cat((scores, scores.new_full((count,), NONE)))
    found, index = padded.topk(count)
    # Rows of the padding point to row 0, which any tensor has.
    return found, torch.where(found > NONE, index, torch.zeros_like(index))


def decode(coder: DeltaXYWHBBoxCoder, priors: Tensor, deltas: Tensor, size: Tensor) -> Tensor:
    """Boxes from priors (N, 4) and deltas (N, 4), inside an image of ``size`` (height, width): (N, 4)."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centers, extents = (priors[:, :2] + priors[:, 2:]) * 0.5, priors[:, 2:] - priors[:, :2]
    limit = abs(math.log(16 / 1000))
    half = extents * deltas[:, 2:].clamp(-limit, limit).exp() * 0.5
    centers = centers + extents * deltas[:, :2]
    boxes = torch.cat((centers - half, centers + half), 1)
    if not coder.clip_border:
        return boxes
    height, width = size.to(boxes.dtype).unbind()
    return torch.minimum(boxes.clamp(min=0), torch.stack((width, height, width, height)))


def large_enough(boxes: Tensor, least: float) -> Tensor:
    """Which boxes (N, 4) are larger than ``least`` in both directions, (N,); all where ``least`` is negative."""
    extents = boxes[:, 2:] - boxes[:, :2]
    return (extents > least).all(1) if least >= 0 else torch.ones_like(extents[:, 0], dtype=torch.bool)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, count: int) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression inside each group.

    Args:
        boxes: (N, 4).
        scores: (N,), NONE for rows that are no objects.
        groups: Classes or levels, (N,).
        threshold: Boxes that overlap more than that are the same object.
        count: How many remain at most.

    Returns:
        Scores and indices of the best, (count,); NONE in rows at the end that are no objects.
    """
    # A last row that is nobody keeps every tensor from being empty, which not all runtimes can bear.
    boxes = torch.cat((boxes, boxes.new_zeros(1, 4)))
    scores = torch.cat((scores, scores.new_full((1,), NONE)))
    groups = torch.cat((groups, groups.new_zeros(1)))
    taken = torch.cat((scores[:-1] > NONE, scores[-1:] == NONE)).nonzero()[:, 0]
    candidates, ranks = boxes[taken], scores[taken]
    # MMCV's way, with its rounding: groups are moved apart.
    offsets = groups[taken].to(boxes.dtype) * (candidates.amax() + 1)
    kept = taken[torch.ops.torchvision.nms(candidates + offsets[:, None], ranks, threshold)]
    survivors = torch.full_like(scores, NONE).scatter(0, kept, scores[kept])
    return best(survivors, count)


def align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    strides: Sequence[float],
    output_size: tuple[int, int],
    finest_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign of a pyramid, each box on the map that fits its size.

    Args:
        maps: (1, C, H_i, W_i).
        boxes: (R, 4).
        strides: Pixels per cell of each map.
        output_size: Bins, height and width.
        finest_scale: Size of boxes up to twice of which the first map is taken.
        sampling_ratio: Samples of a bin along each axis; 0 for as many as cells.
        aligned: Whether a pixel's center is half a pixel from its corner.

    Returns:
        (R, C, height, width).
    """
    scale = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = torch.floor(torch.log2(scale / finest_scale + 1e-6)).clamp(0, len(maps) - 1)
    found: Tensor | None = None
    for level, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        mine = levels == level
        # A box of another level becomes an empty one, for which nothing is to be sampled.
        rois = torch.cat((torch.zeros_like(boxes[:, :1]), torch.where(mine[:, None], boxes, 0.0)), 1)
        values = torch.ops.torchvision.roi_align(features, rois, 1 / stride, *output_size, sampling_ratio, aligned)
        found = values if found is None else torch.where(mine[:, None, None, None], values, found)
    assert found is not None, "a pyramid has maps"
    return found
