"""The per-position half of a block."""

from __future__ import annotations

from mmcv.cnn import build_activation_layer
from mmengine.model import trunc_normal_init
from torch import Tensor, nn

from .packed import PackedPointwise
from .recompute import cheap_outputs


class ConvMlp(nn.Module):
    """Two 1×1 convolutions with an activation between: an MLP at every position.

    In channels-last memory a 1×1 convolution is the same matrix product as a Linear over permuted axes;
    written as a convolution it needs no permutation and ran faster on the CPU.

    Args:
        channels: Channels in and out.
        hidden_channels: Channels between.
        act_cfg: Activation.
        drop_rate: Dropout after each layer.
    """

    def __init__(self, channels: int, hidden_channels: int, act_cfg: dict, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1)
        self.act = build_activation_layer(act_cfg)
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)
        self.drop = nn.Dropout(drop_rate)
        for layer in (self.fc1, self.fc2):
            trunc_normal_init(layer, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        hidden = self.fc1(x)  # B, C', H, W
        with cheap_outputs() as cheap:
            return self.drop(self.fc2(self.drop(cheap(self.act, hidden))))

    def fuse(self) -> None:
        """Fold the activation into the convolution before it."""
        self.fc1, self.act = PackedPointwise(self.fc1, self.act), nn.Identity()
