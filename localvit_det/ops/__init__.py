"""The same numbers as PyTorch's own operators, faster or in less memory; nothing here knows a network."""

from ..deprecation import former_names
from .cpu_kernels import DepthwiseConv2d, attention, depthwise_conv, kernel_attention
from .inhomogeneous import inhomogeneous_conv, inhomogeneous_conv_by_rows
from .modes import channels_last, cpu_inference, exported, is_altered, is_plain, traced, transformed
from .recompute import checkpointed, recompute_activations, recomputed
from .rows import Order, collect_rows, order_of, place_rows

__all__ = [
    "DepthwiseConv2d",
    "Order",
    "attention",
    "channels_last",
    "checkpointed",
    "collect_rows",
    "cpu_inference",
    "depthwise_conv",
    "exported",
    "inhomogeneous_conv",
    "inhomogeneous_conv_by_rows",
    "is_altered",
    "is_plain",
    "kernel_attention",
    "order_of",
    "place_rows",
    "recompute_activations",
    "recomputed",
    "traced",
    "transformed",
]
__getattr__ = former_names(__name__, {"lean": "localvit_det.ops:recomputed"})
