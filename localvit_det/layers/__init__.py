"""The only home of code that backbones share: stems, windows, attention, MLP, blocks, norms."""

from .attention import WindowAttention, relative_position_index
from .bands import POINTWISE, in_bands, residual
from .block import Block
from .downsample import ConvDownsample, PatchMerging
from .fuse import fuse_into_next, fuse_into_previous, scale_and_shift
from .inhomogeneous import inhomogeneous_conv
from .mlp import ConvMlp
from .norm import LayerNorm2d, build_norm
from .recompute import cheap_outputs, checkpointed
from .stem import ConvStem, PatchEmbed
from .window import merge_windows, pad_to_multiple, padding_bias, split_windows

__all__ = [
    "POINTWISE",
    "Block",
    "ConvDownsample",
    "ConvMlp",
    "ConvStem",
    "LayerNorm2d",
    "PatchEmbed",
    "PatchMerging",
    "WindowAttention",
    "build_norm",
    "cheap_outputs",
    "checkpointed",
    "fuse_into_next",
    "fuse_into_previous",
    "in_bands",
    "inhomogeneous_conv",
    "merge_windows",
    "pad_to_multiple",
    "padding_bias",
    "relative_position_index",
    "residual",
    "scale_and_shift",
    "split_windows",
]
