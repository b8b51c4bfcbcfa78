"""What `fuse()` puts in the place of layers: the same numbers, faster.

Importing this package makes its forms known to the layers (see `localvit_det.layers.fusible`).
"""

from .attention import FusedGlanceGaze, FusedSubsampledAttention, FusedWindowAttention
from .blocks import FusedBlock, FusedPositionBlock, FusedShuffleBlock
from .detector import fuse_detector
from .dwnet import FusedConvMixer
from .folding import fuse_conv_bn
from .messengers import FusedMessengerAttention, FusedMessengerBlock
from .packed import PackedConv1x1
from .twin import fused_twin

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
    "fused_twin",
]
