"""Stems: image -> map at a quarter of its size."""

from __future__ import annotations

from mmcv.cnn import build_activation_layer
from torch import Tensor, nn

from .fuse import fuse_into_previous
from .norm import build_norm
from .recompute import cheap_outputs
from .window import pad_to_multiple


class ConvStem(nn.Module):
    """Two 3×3 convolutions of stride 2 and a 1×1 convolution.

    Source: Shuffle Transformer, official `models/shuffle_transformer.py`, class PatchEmbedding.

    Args:
        in_channels: Channels of the image.
        mid_channels: Channels between the two strided convolutions.
        out_channels: Channels of the map.
        norm_cfg: Norm after each strided convolution.
        act_cfg: Activation after each norm.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 3, stride=2, padding=1)
        self.norm1 = build_norm(norm_cfg, mid_channels)
        self.act1 = build_activation_layer(act_cfg)
        self.conv2 = nn.Conv2d(mid_channels, out_channels, 3, stride=2, padding=1)
        self.norm2 = build_norm(norm_cfg, out_channels)
        self.act2 = build_activation_layer(act_cfg)
        self.conv3 = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        with cheap_outputs() as cheap:
            x = self.conv2(cheap(self.act1, self.norm1(self.conv1(x))))
            return self.conv3(cheap(self.act2, self.norm2(x)))

    def fuse(self) -> None:
        """Fold the norms into the convolutions before them."""
        self.conv1, self.norm1 = fuse_into_previous(self.conv1, self.norm1)
        self.conv2, self.norm2 = fuse_into_previous(self.conv2, self.norm2)
        for act in (self.act1, self.act2):
            if isinstance(act, (nn.ReLU, nn.Hardtanh)):
                act.inplace = True  # the largest maps of the network: new memory is paid for in page faults


class PatchEmbed(nn.Module):
    """Non-overlapping 4×4 patches, projected and normalised, as in Swin.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the map.
        patch_size: Side of a patch, in pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int = 4) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, out_channels, patch_size, stride=patch_size)
        self.norm = build_norm({"type": "LN2d"}, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        return self.norm(self.proj(pad_to_multiple(x, self.patch_size)))
