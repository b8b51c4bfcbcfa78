"""Attention to sampled places of several feature maps, in operators that every exporter knows, at any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.layers import DeformableDetrTransformerEncoder
from torch import Tensor, nn

Shapes = Sequence[tuple[int, int]]  # height and width of each feature map


class DeformableAttention(nn.Module):
    """MMCV's multi-scale deformable attention, which reads the shapes of the feature maps as numbers.

    MMCV's own reads them from a tensor and splits by it, which no exporter follows for more than one size.

    Args:
        original: Its layers are shared.
    """

    def __init__(self, original: MultiScaleDeformableAttention) -> None:
        super().__init__()
        self.heads, self.points, self.levels = original.num_heads, original.num_points, original.num_levels
        self.sampling_offsets, self.attention_weights = original.sampling_offsets, original.attention_weights
        self.value_proj, self.output_proj = original.value_proj, original.output_proj

    def forward(
        self,
        query: Tensor,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        *,
        reference_points: Tensor,
        spatial_shapes: Shapes,
        **unused: Any,
    ) -> Tensor:
        """Return (1, Q, C) for queries (1, Q, C), as MMCV's does.

        Args:
            query: (1, Q, C).
            value: (1, L, C), the feature maps one after the other; by default the queries.
            identity: What the result is added to, by default the queries.
            query_pos: Added to the queries, (1, Q, C).
            key_padding_mask: Places of the values that are padding, (1, L).
            reference_points: In parts of each feature map: points (1, Q, levels, 2) or boxes (1, Q, levels, 4).
            spatial_shapes: Of the feature maps.
            unused: What MMDetection's layers pass on as well.
        """
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        # Of the only image: L,heads,c and Q,heads,levels,points(,2)
        count, value = query.shape[1], value[0].reshape(value.shape[1], self.heads, -1)
        offsets = self.sampling_offsets(query).reshape(count, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).reshape(count, self.heads, -1).softmax(-1)
        weights = weights.reshape(count, self.heads, self.levels, self.points)
        found, start = torch.zeros_like(value[:1]).permute(1, 2, 0), 0  # heads,c,1
        for level, (height, width) in enumerate(spatial_shapes):
            reference, offset = reference_points[0, :, level][:, None, None], offsets[:, :, level]  # Q,1,1,2|4 Q,h,p,2
            if reference.shape[-1] == 2:
                offset = torch.stack((offset[..., 0] / width, offset[..., 1] / height), -1)
            else:
                offset = offset / self.points * reference[..., 2:] * 0.5
            grid = (2 * (reference[..., :2] + offset) - 1).transpose(0, 1)  # heads,Q,points,2
            image = value[start : start + height * width].permute(1, 2, 0).reshape(self.heads, -1, height, width)
            sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            found = found + (sampled * weights[:, :, level].transpose(0, 1)[:, None]).sum(-1)  # heads,c,Q
            start = start + height * width
        return self.output_proj(found.reshape(1, -1, count).transpose(1, 2)) + identity


def deformable(module: nn.Module) -> nn.Module:
    """Put the attention above in place of MMCV's, everywhere inside a module."""
    for name, part in module.named_children():
        if isinstance(part, MultiScaleDeformableAttention):
            module._modules[name] = DeformableAttention(part)
        else:
            deformable(part)
    return module


def encode(
    encoder: DeformableDetrTransformerEncoder,
    tokens: Tensor,
    positions: Tensor,
    padding: Tensor | None,
    shapes: Shapes,
    ratios: Tensor,
) -> Tensor:
    """Run an encoder of MMDetection whose attention is the one above.

    Args:
        encoder: With its layers.
        tokens: The feature maps one after the other, (1, L, C).
        positions: Encoded, (1, L, C).
        padding: Which tokens are padding, (1, L).
        shapes: Of the feature maps.
        ratios: Which part of width and height of each feature map is no padding, (1, levels, 2).
    """
    points = []
    for level, (height, width) in enumerate(shapes):
        x, y = ((torch.arange(side, device=tokens.device) + 0.5) / side for side in (width, height))
        x, y = x / ratios[:, level, 0], y / ratios[:, level, 1]
        points.append(grid_of(x, y))
    reference = torch.cat(points)[None, :, None] * ratios[:, None]  # 1,L,levels,2
    for layer in encoder.layers:
        tokens = layer(
            query=tokens,
            query_pos=positions,
            key_padding_mask=padding,
            spatial_shapes=shapes,
            reference_points=reference,
        )
    return tokens


def grid_of(x: Tensor, y: Tensor) -> Tensor:
    """Return the points (H·W, 2) of all combinations of x (W,) and y (H,), row by row."""
    return torch.stack(
        (x[None, :] + torch.zeros_like(y)[:, None], y[:, None] + torch.zeros_like(x)[None, :]), -1
    ).reshape(-1, 2)
