"""Normalisation layers over N×C×H×W maps."""

from __future__ import annotations

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn


# In the root registry: MMCV looks norms up there.
@MODELS.register_module("LN2d")
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each position; ``dict(type='LN2d')`` in configs."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), channels-last; both permutations are views there."""
        x = x.permute(0, 2, 3, 1)  # B,C,H,W -> B,H,W,C
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # B,H,W,C -> B,C,H,W


def build_norm(norm_cfg: dict, num_features: int) -> nn.Module:
    """Build the norm that a config names, through MMCV, so that BN, SyncBN, GN and LN2d all work."""
    return build_norm_layer(norm_cfg, num_features)[1]
