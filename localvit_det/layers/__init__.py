"""The only home of code that backbones share: stems, windows, attention, MLP, blocks, norms."""

from .attention import WindowAttention, relative_position_index
from .bands import POINTWISE, Reach, residual
from .block import Block
from .depthwise import DepthwiseConv2d, depthwise_conv
from .downsample import ConvDownsample, PatchMerging
from .fuse import fuse_into_next, fuse_into_previous, fuse_into_residual, scale_and_shift, split_outputs
from .inhomogeneous import inhomogeneous_conv, inhomogeneous_conv_in_bands
from .mixer import Mixer
from .mlp import ConvMlp
from .modes import cpu_inference
from .norm import LayerNorm2d, build_norm
from .packed import PackedPointwise, pack_children
from .recompute import cheap_outputs, checkpointed
from .stem import ConvStem, PatchEmbed
from .window import merge_windows, pad_to_multiple, padding_bias, split_windows

__all__ = [
    "POINTWISE",
    "Block",
    "ConvDownsample",
    "ConvMlp",
    "ConvStem",
    "DepthwiseConv2d",
    "LayerNorm2d",
    "Mixer",
    "PackedPointwise",
    "PatchEmbed",
    "PatchMerging",
    "Reach",
    "WindowAttention",
    "build_norm",
    "cheap_outputs",
    "checkpointed",
    "cpu_inference",
    "depthwise_conv",
    "fuse_into_next",
    "fuse_into_previous",
    "fuse_into_residual",
    "inhomogeneous_conv",
    "inhomogeneous_conv_in_bands",
    "merge_windows",
    "pack_children",
    "pad_to_multiple",
    "padding_bias",
    "relative_position_index",
    "residual",
    "scale_and_shift",
    "split_outputs",
    "split_windows",
]
