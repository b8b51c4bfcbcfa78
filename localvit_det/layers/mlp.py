"""The per-position half of a block."""

from __future__ import annotations

import torch
from mmcv.cnn import build_activation_layer
from mmengine.model import trunc_normal_init
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # Backward runs the activation again instead of keeping its output, half of what an MLP would keep. The
            # second run stops before `fc2`. (A compiler decides about this by itself.)
            random = self.training and self.drop.p > 0
            out = checkpoint(self._project, hidden, use_reentrant=False, preserve_rng_state=random)
        else:
            out = self._project(hidden)
        return self.drop(out)

    def _project(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.drop(self.act(hidden)))
