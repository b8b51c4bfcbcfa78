"""Read this to understand the networks: blocks, attention, windows, stems, norms. How they run fast is elsewhere."""

from .attention import WindowAttention, relative_position_index
from .block import Block, ConvMlp, add
from .fusible import Fused, Fusible, form_of, fuse_children, fused
from .norm import LayerNorm2d, build_norm
from .stem import ConvDownsample, ConvStem, PatchEmbed, PatchMerging
from .window import Split, key_padding_mask, pad_to_multiple, window_partition, window_reverse

__all__ = [
    "Block",
    "ConvDownsample",
    "ConvMlp",
    "ConvStem",
    "Fused",
    "Fusible",
    "LayerNorm2d",
    "PatchEmbed",
    "PatchMerging",
    "Split",
    "WindowAttention",
    "add",
    "build_norm",
    "form_of",
    "fuse_children",
    "fused",
    "key_padding_mask",
    "pad_to_multiple",
    "relative_position_index",
    "window_partition",
    "window_reverse",
]
