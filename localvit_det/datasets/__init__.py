"""Data sets and loading that MMDetection does not have."""

from .load_image import LoadImageFromFile
from .shapes_dataset import ShapesDataset, ShapesPanopticDataset

__all__ = ["LoadImageFromFile", "ShapesDataset", "ShapesPanopticDataset"]
