"""Datasets and loading that MMDetection does not have."""

from .load_image import FittingCopyPaste, LoadImageFromFile, MaskedMosaic
from .segmentations import CompactMasks, LoadCompactAnnotations
from .synthetic_shapes_datasets import ShapesDataset, ShapesPanopticDataset

__all__ = [
    "CompactMasks",
    "FittingCopyPaste",
    "LoadCompactAnnotations",
    "LoadImageFromFile",
    "MaskedMosaic",
    "ShapesDataset",
    "ShapesPanopticDataset",
]
