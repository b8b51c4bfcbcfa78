"""Normalisation layers over N×C×H×W feature maps, activations, initial weights: what configs name by `type`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import RequirementError

_LIMIT = 5.0  # standard deviations


def trunc_normal_(tensor: Tensor, std: float = 0.02) -> Tensor:
    """Fill a tensor with normal numbers of mean 0, none beyond five standard deviations, and return it.

    The official codes cut at an absolute 2.0. With such wide limits the inverse distribution function, which MMEngine
    and older versions of PyTorch use, gives exactly -2.0, 100 standard deviations, for one number in 2^24.
    """
    if tensor.is_meta:  # without numbers; PyTorch takes a quarter of a second for a tiny network
        return tensor
    with torch.no_grad():
        # Cut off, not drawn again: one number in 1.7 million, and nothing asks whether there is one, for which a GPU
        # would have to be waited for.
        return tensor.normal_(std=std).clamp_(-_LIMIT * std, _LIMIT * std)


def init_trunc_normal(*layers: nn.Conv2d) -> None:
    """Initialise layers with `trunc_normal_` weights and biases of 0."""
    for layer in layers:
        trunc_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def built_on(device: torch.device | str | None) -> AbstractContextManager[Any]:
    """Return a context in which modules are built on a device, on the current default for None."""
    return nullcontext() if device is None else torch.device(device)


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


def is_pointwise(norm: nn.Module) -> bool:
    """Whether a norm computes each position by itself in eval mode; GroupNorm and InstanceNorm take the whole map."""
    if isinstance(norm, _BatchNorm):
        return norm.running_mean is not None
    return isinstance(norm, (nn.Identity, nn.LayerNorm))


# By MMCV's names, which is asked for all others: the networks run without it.
_NORMS = {"BN": nn.BatchNorm2d, "BN2d": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "GN": nn.GroupNorm}
_NORMS |= {"IN": nn.InstanceNorm2d, "LN2d": LayerNorm2d}
_ACTIVATIONS = (nn.GELU, nn.ReLU, nn.ReLU6, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.PReLU, nn.Sigmoid, nn.Tanh)


def build_norm(norm_cfg: dict, num_features: int) -> nn.Module:
    """Build the norm over so many features that a config names by `type`, `requires_grad` and what the norm takes.

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
    """Build the activation that a config names by `type` and what it takes.

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
