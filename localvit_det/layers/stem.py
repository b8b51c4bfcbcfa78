"""Stems (image -> feature map at a quarter of its size), and the downsampling between stages."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from ..ops import recomputed
from .fusible import Fusible
from .norm import build_activation, build_norm, init_trunc_normal
from .window import pad_to_multiple


class ConvStem(Fusible):
    """Two 3×3 convolutions of stride 2, each with a norm and an activation, and a 1×1 convolution.

    Source: Shuffle Transformer, official `models/shuffle_transformer.py`, class PatchEmbedding.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 3, stride=2, padding=1)
        self.norm1 = build_norm(norm_cfg, mid_channels)
        self.act1 = build_activation(act_cfg)
        self.conv2 = nn.Conv2d(mid_channels, out_channels, 3, stride=2, padding=1)
        self.norm2 = build_norm(norm_cfg, out_channels)
        self.act2 = build_activation(act_cfg)
        self.conv3 = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        x = recomputed(self.act1, self.conv2, self.norm1(self.conv1(x)))  # B, C, ⌈H/4⌉, ⌈W/4⌉
        return recomputed(self.act2, self.conv3, self.norm2(x))


class PatchEmbed(nn.Module):
    """Non-overlapping 4×4 patches (of another ``patch_size`` as well), projected and normalised, as in Swin."""

    def __init__(self, in_channels: int, out_channels: int, patch_size: int = 4) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, out_channels, patch_size, stride=patch_size)
        self.norm = build_norm({"type": "LN2d"}, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        return self.norm(self.proj(pad_to_multiple(x, self.patch_size)))


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
    """Four neighbours after each other in the channels, LayerNorm, projection; as in Swin.

    Source: arXiv:2103.14030, section 3.1. Padding odd sizes before the norm is what its official detection
    code (and DWNet's) does.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = build_norm({"type": "LN2d"}, 4 * in_channels)
        self.reduction = nn.Conv2d(4 * in_channels, out_channels, 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the projection anew."""
        init_trunc_normal(self.reduction)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""
        x = pad_to_multiple(x, 2)  # B, C, 2·⌈H/2⌉, 2·⌈W/2⌉
        # Swin's order of the four: columns change last. One copy to B, 4C, ⌈H/2⌉, ⌈W/2⌉, channels-last.
        x = rearrange(x.permute(0, 2, 3, 1), "b (h dy) (w dx) c -> b h w (dx dy c)", dy=2, dx=2).permute(0, 3, 1, 2)
        return self.reduction(self.norm(x))
