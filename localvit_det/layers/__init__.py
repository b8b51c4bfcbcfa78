"""The only home of code that backbones share: stems, windows, attention, MLP, blocks, norms."""

from localvit_det.layers.attention import WindowAttention, relative_position_index
from localvit_det.layers.block import Block, checkpointed
from localvit_det.layers.downsample import ConvDownsample, PatchMerging
from localvit_det.layers.inhomogeneous import inhomogeneous_conv
from localvit_det.layers.mlp import ConvMlp
from localvit_det.layers.norm import LayerNorm2d, build_norm
from localvit_det.layers.stem import ConvStem, PatchEmbed
from localvit_det.layers.window import merge_windows, pad_to_multiple, padding_bias, split_windows

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
