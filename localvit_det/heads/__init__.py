"""Heads that compute what MMDetection's do, in less memory."""

from .mask_head import LeanFCNMaskHead

__all__ = ["LeanFCNMaskHead"]
