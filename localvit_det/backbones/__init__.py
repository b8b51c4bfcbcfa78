"""Backbones, one family a file; importing this package registers them all."""

from localvit_det.backbones.base import LocalViT
from localvit_det.backbones.dwnet import DWNet, DynamicDWNet, IDynamicDWNet
from localvit_det.backbones.gg_transformer import GGTransformer
from localvit_det.backbones.shuffle_transformer import ShuffleTransformer

__all__ = ["DWNet", "DynamicDWNet", "GGTransformer", "IDynamicDWNet", "LocalViT", "ShuffleTransformer"]
