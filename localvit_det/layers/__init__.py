"""The only home of code that backbones share: stems, windows, attention, MLP, blocks, norms."""

from .attention import WindowAttention, relative_position_index
from .block import Block, checkpointed
from .downsample import ConvDownsample, PatchMerging
from .inhomogeneous import inhomogeneous_conv
from .mlp import ConvMlp
from .norm import LayerNorm2d, build_norm
from .stem import ConvStem, PatchEmbed
from .window import merge_windows, pad_to_multiple, padding_bias, split_windows

__all__ = [
    "Block",
    "ConvDownsample",
    "ConvMlp",
    "ConvStem",
    "LayerNorm2d",
    "PatchEmbed",
    "PatchMerging",
    "WindowAttention",
    "build_norm",
    "checkpointed",
    "inhomogeneous_conv",
    "merge_windows",
    "pad_to_multiple",
    "padding_bias",
    "relative_position_index",
    "split_windows",
]
