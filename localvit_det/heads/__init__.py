"""Heads that compute what MMDetection's do, in less memory."""

from ..deprecation import former_names
from .mask_head import MemoryEfficientFCNMaskHead

__all__ = ["MemoryEfficientFCNMaskHead"]
__getattr__ = former_names(__name__, {"LeanFCNMaskHead": "localvit_det.heads:MemoryEfficientFCNMaskHead"})
