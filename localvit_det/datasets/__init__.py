"""Data sets that MMDetection does not have."""

from .shapes_dataset import ShapesDataset

__all__ = ["ShapesDataset"]
