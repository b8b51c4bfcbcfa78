"""The same numbers as PyTorch's own operators, faster or in less memory; nothing here knows a network."""

from ..deprecation import former_names
from .cpu_kernels import (
    DepthwiseConv2d,
    Order,
    attention,
    collect_rows,
    depthwise_conv,
    kernel_attention,
    order_of,
    place_rows,
)
from .inhomogeneous import inhomogeneous_conv, inhomogeneous_conv_by_rows
from .recompute import (
    channels_last,
    checkpointed,
    cpu_inference,
    exported,
    is_altered,
    is_plain,
    recompute_activations,
    recomputed,
    traced,
    transformed,
)

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
