"""Fused variants: what `fuse()` puts in place of layers, for the same numbers, faster.

Importing this package registers them with the layers (see `localvit_det.layers.fusible`).
"""

from .blocks import FusedBlock, FusedWindowAttention
from .detector import fuse_detector, fused_copy
from .families import (
    FusedConvMixer,
    FusedGlanceGaze,
    FusedMessengerAttention,
    FusedMessengerBlock,
    FusedPositionBlock,
    FusedShuffleBlock,
    FusedSubsampledAttention,
)
from .folding import fuse_conv_bn
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
