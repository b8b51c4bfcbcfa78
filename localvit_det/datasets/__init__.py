"""Datasets and loading that MMDetection does not have."""

from .load_image import LoadImageFromFile
from .synthetic_shapes_datasets import ShapesDataset, ShapesPanopticDataset

__all__ = ["LoadImageFromFile", "ShapesDataset", "ShapesPanopticDataset"]
