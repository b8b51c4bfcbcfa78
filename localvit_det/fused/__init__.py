"""Fused variants: what `fuse()` puts in place of layers, for the same numbers, faster.

Importing this package registers them with the layers (see `localvit_det.layers.fusible`).
"""

from .blocks import (
    FusedBlock,
    FusedGlanceGaze,
    FusedPositionBlock,
    FusedShuffleBlock,
    FusedSubsampledAttention,
    FusedWindowAttention,
)
from .detector import fuse_detector, fused_copy
from .dwnet import FusedConvMixer
from .folding import fuse_conv_bn
from .msg_transformer import FusedMessengerAttention, FusedMessengerBlock
from .packed import PackedConv1x1

__all__ = [
    "FusedBlock",
    "FusedConvMixer",
    "FusedGlanceGaze",
    "FusedMessengerAttention",
    "FusedMessengerBlock",
    "FusedPositionBlock",
    "FusedShuffleBlock",
    "FusedSubsampledAttention",
    "FusedWindowAttention",
    "PackedConv1x1",
    "fuse_conv_bn",
    "fuse_detector",
    "fused_copy",
]
