"""Read this to understand the networks: blocks, attention, windows, stems, norms. How they run fast is elsewhere."""

from .attention import WindowAttention, relative_position_index
from .block import Block, ConvMlp, DropPath, add, add_scaled, drop_scale
from .fusible import Fused, Fusible, form_of, fuse_children, fused
from .init import init_trunc_normal, trunc_normal_
from .messengers import (
    WithMessengers,
    add_messenger_keys,
    join_windows,
    part_windows,
    shuffle_messengers,
    tile_messengers,
)
from .norm import LayerNorm2d, build_activation, build_norm
from .stem import ConvDownsample, ConvStem, PatchEmbed, PatchMerging
from .window import Split, ceil_div, crop, key_padding_mask, pad_to_multiple, window_partition, window_reverse

__all__ = [
    "Block",
    "ConvDownsample",
    "ConvMlp",
    "ConvStem",
    "DropPath",
    "Fused",
    "Fusible",
    "LayerNorm2d",
    "PatchEmbed",
    "PatchMerging",
    "Split",
    "WindowAttention",
    "WithMessengers",
    "add",
    "add_messenger_keys",
    "add_scaled",
    "build_activation",
    "build_norm",
    "ceil_div",
    "crop",
    "drop_scale",
    "form_of",
    "fuse_children",
    "fused",
    "init_trunc_normal",
    "join_windows",
    "key_padding_mask",
    "pad_to_multiple",
    "part_windows",
    "relative_position_index",
    "shuffle_messengers",
    "tile_messengers",
    "trunc_normal_",
    "window_partition",
    "window_reverse",
]
