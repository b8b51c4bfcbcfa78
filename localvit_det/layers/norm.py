"""Normalisation layers over N×C×H×W feature maps, and activations: what configs name by `type`."""

from __future__ import annotations

from types import ModuleType

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import RequirementError


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


# By MMCV's names, which is asked for all others: the networks run without it.
_NORMS = {"BN": nn.BatchNorm2d, "BN2d": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "GN": nn.GroupNorm}
_NORMS |= {"IN": nn.InstanceNorm2d, "LN2d": LayerNorm2d}
_ACTIVATIONS = (nn.GELU, nn.ReLU, nn.ReLU6, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.PReLU, nn.Sigmoid, nn.Tanh)


def build_norm(norm_cfg: dict, num_features: int) -> nn.Module:
    """Build the norm that a config names.

    Args:
        norm_cfg: `type`, `requires_grad` and what the norm takes, as in MMCV.
        num_features: Channels.

    Raises:
        RequirementError: It is one of MMCV's, which is not installed.
    """
    settings = dict(norm_cfg)
    kind = _NORMS.get(settings.pop("type"))
    if kind is None:
        return _mmcv_cnn(norm_cfg).build_norm_layer(norm_cfg, num_features)[1]
    trained = settings.pop("requires_grad", True)
    settings = {"eps": 1e-5, **settings}
    if kind is nn.GroupNorm:
        norm = nn.GroupNorm(num_channels=num_features, **settings)
    else:
        norm = kind(num_features, **settings)
    return norm.requires_grad_(trained)


def build_activation(act_cfg: dict) -> nn.Module:
    """Build the activation that a config names.

    Args:
        act_cfg: `type` and what the activation takes, as in MMCV.

    Raises:
        RequirementError: It is one of MMCV's, which is not installed.
    """
    settings = dict(act_cfg)
    kind = {kind.__name__: kind for kind in _ACTIVATIONS}.get(settings.pop("type"))
    return kind(**settings) if kind is not None else _mmcv_cnn(act_cfg).build_activation_layer(act_cfg)


def _mmcv_cnn(cfg: dict) -> ModuleType:
    try:
        from mmcv import cnn
    except ModuleNotFoundError as error:
        known = [*_NORMS, *(kind.__name__ for kind in _ACTIVATIONS)]
        raise RequirementError(
            f"The layer {cfg['type']!r} is MMCV's, and {error.name} is not installed: run "
            f"`pip install mmcv-lite==2.1.0`, or choose from {known}."
        ) from error
    return cnn
