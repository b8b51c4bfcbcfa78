"""Backbones, one family a file; importing this package registers them all."""

from .base import AttentionViT, LocalViT
from .dwnet import DWNet, DynamicDWNet, IDynamicDWNet
from .gg_transformer import GGTransformer
from .msg_transformer import MSGTransformer
from .shuffle_transformer import ShuffleTransformer
from .twins import TwinsPCPVT, TwinsSVT

__all__ = [
    "AttentionViT",
    "DWNet",
    "DynamicDWNet",
    "GGTransformer",
    "IDynamicDWNet",
    "LocalViT",
    "MSGTransformer",
    "ShuffleTransformer",
    "TwinsPCPVT",
    "TwinsSVT",
]
