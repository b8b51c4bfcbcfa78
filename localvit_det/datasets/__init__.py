"""Datasets and loading that MMDetection does not have."""

from .compact_masks import CompactMasks, LoadCompactAnnotations
from .load_image import LoadImageFromFile
from .mixing import FittingCopyPaste, MaskedMosaic
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
