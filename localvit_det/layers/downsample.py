"""Halving the map between stages."""

from __future__ import annotations

from einops import rearrange
from mmengine.model import trunc_normal_init
from torch import Tensor, nn

from .norm import build_norm
from .window import pad_to_multiple


class ConvDownsample(nn.Module):
    """Norm, then a 2×2 convolution of stride 2 without bias.

    Source: Shuffle Transformer, official `models/shuffle_transformer.py`, class PatchMerging. The official
    code needs even sizes; odd ones are padded here, after the norm, so that padding stays zero.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, in_channels)
        self.reduction = nn.Conv2d(in_channels, out_channels, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""
        return self.reduction(pad_to_multiple(self.norm(x), 2))


class PatchMerging(nn.Module):
    """Four neighbours side by side in the channels, LayerNorm, projection; as in Swin.

    Source: arXiv:2103.14030, section 3.1. Padding odd sizes before the norm is what its official detection
    code (and DWNet's) does.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = build_norm({"type": "LN2d"}, 4 * in_channels)
        self.reduction = nn.Conv2d(4 * in_channels, out_channels, 1, bias=False)
        trunc_normal_init(self.reduction, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""
        x = pad_to_multiple(x, 2)
        # Swin's order of the four: columns change last. One copy, and the result is channels-last.
        x = rearrange(x.permute(0, 2, 3, 1), "b (h dy) (w dx) c -> b h w (dx dy c)", dy=2, dx=2).permute(0, 3, 1, 2)
        return self.reduction(self.norm(x))
