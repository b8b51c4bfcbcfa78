"""What the networks are made of: blocks, attention, windows, stems, norms. How they run fast is in `fused`."""

from ..deprecation import former_names
from .attention import WindowAttention, relative_position_index
from .block import Block, ConvDownsample, ConvMlp, ConvStem, DropPath, PatchEmbed, PatchMerging, Stage, add
from .fusible import Fused, Fusible, fuse_children, fused, register_fused
from .norm import LayerNorm2d, build_activation, build_norm, built_on, init_trunc_normal, is_pointwise, trunc_normal_
from .window import (
    Split,
    ceil_div,
    crop,
    key_padding_mask,
    pad_to_multiple,
    pointwise,
    shared_in_pass,
    split_heads,
    window_partition,
    window_reverse,
)

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
    "Stage",
    "WindowAttention",
    "add",
    "build_activation",
    "build_norm",
    "built_on",
    "ceil_div",
    "crop",
    "fuse_children",
    "fused",
    "init_trunc_normal",
    "is_pointwise",
    "key_padding_mask",
    "pad_to_multiple",
    "pointwise",
    "register_fused",
    "relative_position_index",
    "shared_in_pass",
    "split_heads",
    "trunc_normal_",
    "window_partition",
    "window_reverse",
]
__getattr__ = former_names(__name__, {"form_of": "localvit_det.layers:register_fused"})
