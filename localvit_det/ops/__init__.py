"""The same numbers as PyTorch's own operators, faster or in less memory; nothing here knows a network."""

from ..deprecation import former_names
from .cpu_kernels import DepthwiseConv2d, attention, depthwise_conv, kernel_attention
from .inhomogeneous import inhomogeneous_conv, inhomogeneous_conv_by_rows
from .modes import cpu_inference, exported, traced
from .recompute import checkpointed, recompute_activations, recomputed

__all__ = [
    "DepthwiseConv2d",
    "attention",
    "checkpointed",
    "cpu_inference",
    "depthwise_conv",
    "exported",
    "inhomogeneous_conv",
    "inhomogeneous_conv_by_rows",
    "kernel_attention",
    "recompute_activations",
    "recomputed",
    "traced",
]
__getattr__ = former_names(__name__, {"lean": "localvit_det.ops:recomputed"})
