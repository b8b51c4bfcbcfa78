"""Compute boxes in operators that every exporter knows, with shapes that are known beforehand.

MMDetection filters where it can, so that its tensors shrink step by step. Here a row that is filtered out stays and
scores -1: it comes last in every order, suppresses nothing, and is dropped at the end. Only what NMS returns has a
length of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import Tensor, nn

NONE = -1.0  # the score of a row that is no object


def grid_of(x: Tensor, y: Tensor) -> Tensor:
    """Return the points (H·W, 2) of all combinations of x (W,) and y (H,), row by row."""
    xs, ys = x[None, :] + torch.zeros_like(y)[:, None], y[:, None] + torch.zeros_like(x)[None, :]  # both H, W
    return torch.stack((xs, ys), -1).reshape(-1, 2)


def corners_of_cells(features: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return the points x, y (H·W, 2) where the cells of a feature map (1, C, H, W) begin, in pixels of the image."""
    height, width = features.shape[2:]
    x = torch.arange(width, device=features.device) * stride[0]
    y = torch.arange(height, device=features.device) * stride[1]
    return grid_of(x, y).float()


def clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Return the parts of boxes (N, 4) that lie inside an image of `size` (height, width)."""
    return torch.minimum(boxes.clamp(min=0), size[[1, 0, 1, 0]].to(boxes.dtype))


class Anchors(nn.Module):
    """The anchors of all cells of each feature map, in the order of MMDetection: by row, by column, by shape."""

    def __init__(self, generator: AnchorGenerator) -> None:
        super().__init__()
        self.strides = [(int(x), int(y)) for x, y in generator.strides]
        for level, base in enumerate(generator.base_anchors):
            self.register_buffer(f"base{level}", base.detach().float())

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return boxes (H_i·W_i·A, 4) for feature maps (1, C, H_i, W_i), of which only height and width count."""
        found = []
        for level, (grid, stride) in enumerate(zip(maps, self.strides, strict=True)):
            corners = corners_of_cells(grid, stride)
            shifts = torch.cat((corners, corners), 1)[:, None]  # H·W,1,4
            found.append((getattr(self, f"base{level}") + shifts).reshape(-1, 4))  # A,4 -> H·W,A,4 -> H·W·A,4
        return found


class RoIAligner:
    """RoIAlign of a pyramid, each box on the feature map that fits its size, with the settings of MMDetection's."""

    def __init__(self, extractor: SingleRoIExtractor) -> None:
        layer = extractor.roi_layers[0]
        self.strides = [1 / one.spatial_scale for one in extractor.roi_layers]
        self.size, self.finest = tuple(layer.output_size), extractor.finest_scale
        self.sampling = layer.sampling_ratio, layer.aligned

    def __call__(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Return the features (R, C, h, w) of boxes (R, 4) in feature maps (1, C, H_i, W_i)."""
        scale = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        levels = torch.floor(torch.log2(scale / self.finest + 1e-6)).clamp(0, len(self.strides) - 1)
        found: Tensor | None = None
        for level, (features, stride) in enumerate(zip(maps[: len(self.strides)], self.strides, strict=True)):
            mine = levels == level
            # A box of another level becomes an empty one, for which nothing is to be sampled.
            rois = torch.cat((torch.zeros_like(boxes[:, :1]), torch.where(mine[:, None], boxes, 0.0)), 1)
            values = torch.ops.torchvision.roi_align(features, rois, 1 / stride, *self.size, *self.sampling)
            found = values if found is None else torch.where(mine[:, None, None, None], values, found)
        assert found is not None, "a pyramid has feature maps"
        return found


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest of scores (N,) and where they are; NONE, anywhere, where there are fewer."""
    padded = torch.cat((scores, scores.new_full((count,), NONE)))
    found, index = padded.topk(count)
    # Rows of the padding point to row 0, which any tensor has.
    return found, torch.where(found > NONE, index, torch.zeros_like(index))


def of_priors(values: Tensor, count: int) -> Tensor:
    """Return rows (H·W·A, count), one for each prior, of a feature map (1, A·count, H, W)."""
    return values[0].permute(1, 2, 0).reshape(-1, count)


def candidates(logits: Tensor, classes: int, count: int, score: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `count` best scores in logits (1, A·classes, H, W), and the prior and the label of each.

    Those that are not above `score` become NONE.
    """
    scores = of_priors(logits, 1)[:, 0].sigmoid()  # A·classes,H,W -> H·W·A·classes
    if score is not None:
        scores = torch.where(scores > score, scores, NONE)
    scores, index = best(scores, count)
    return scores, *((index // classes, index % classes) if classes > 1 else (index, torch.zeros_like(index)))


def decode(coder: DeltaXYWHBBoxCoder, priors: Tensor, deltas: Tensor, size: Tensor) -> Tensor:
    """Return boxes (N, 4) from priors (N, 4) and deltas (N, 4), inside an image of `size` (height, width)."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centers, extents = (priors[:, :2] + priors[:, 2:]) * 0.5, priors[:, 2:] - priors[:, :2]
    limit = abs(math.log(16 / 1000))
    half = extents * deltas[:, 2:].clamp(-limit, limit).exp() * 0.5
    centers = centers + extents * deltas[:, :2]
    boxes = torch.cat((centers - half, centers + half), 1)
    return clip(boxes, size) if coder.clip_border else boxes


def without_small(boxes: Tensor, scores: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Return the scores (N,) of boxes (N, 4), NONE for those that a `test_cfg` takes for too small."""
    least = settings.get("min_bbox_size", -1)
    return torch.where((boxes[:, 2:] - boxes[:, :2] > least).all(1), scores, NONE) if least >= 0 else scores


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Suppress non-maxima of boxes (N, 4) with scores (N,) inside each group (N,), a class or level, by a `test_cfg`.

    Returns:
        Scores and indices of the best, (max_per_img,); NONE in rows at the end that are no objects.
    """
    # A last row that is no object keeps every tensor from being empty, which not all runtimes can bear.
    boxes = torch.cat((boxes, boxes.new_zeros(1, 4)))
    scores = torch.cat((scores, scores.new_full((1,), NONE)))
    groups = torch.cat((groups, groups.new_zeros(1)))
    taken = torch.cat((scores[:-1] > NONE, scores[-1:] == NONE)).nonzero()[:, 0]
    candidates, ranks = boxes[taken], scores[taken]
    # As in MMCV, with its rounding: groups are moved apart, and overlaps compared in float32.
    offsets = groups[taken].to(boxes.dtype) * (candidates.amax() + 1)
    bound = float(torch.tensor(settings["nms"]["iou_threshold"], dtype=torch.float32))
    kept = taken[torch.ops.torchvision.nms(candidates + offsets[:, None], ranks, bound)]
    survivors = torch.full_like(scores, NONE).scatter(0, kept, scores[kept])
    return best(survivors, settings["max_per_img"])


def and_one_more(scores: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and indices of the rows that are objects, and of a last one that is none, so that there is one."""
    found = torch.cat((scores > NONE, scores[:1] == scores[:1])).nonzero()[:, 0]
    return torch.cat((scores, scores[:1]))[found], torch.cat((index, torch.zeros_like(index[:1])))[found]
