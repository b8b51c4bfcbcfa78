"""Pretraining as classifiers with MMPretrain (the extra `pretrain`); configs name this package in `custom_imports`."""

from ..compat.extras import require

require("mmpretrain")

from .shapes_dataset import CropObject, ShapesClassDataset  # noqa: E402

__all__ = ["CropObject", "ShapesClassDataset"]
