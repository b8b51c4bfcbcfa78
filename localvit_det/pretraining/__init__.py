"""Pretraining as classifiers with MMPretrain (the extra `pretrain`); configs name this package in `custom_imports`."""

import warnings

from ..requirements import require

require("mmpretrain")
# MMPretrain's ColorJitter makes MMCV warn of an argument that nobody here has given, in every data worker.
warnings.filterwarnings("ignore", message="Only use 'alpha' for pillow backend")

from .shapes_dataset import CropObject, ShapesClassDataset  # noqa: E402

__all__ = ["CropObject", "ShapesClassDataset"]
