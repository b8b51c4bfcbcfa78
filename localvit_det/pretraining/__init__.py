"""Pretraining as classifiers with MMPretrain (the extra `pretrain`); configs name this package in `custom_imports`."""

from ..compat.extras import require

require("mmpretrain")

from .backbone_file import BackboneFileHook, write_backbone  # noqa: E402
from .shapes_dataset import CropObject, ShapesClassDataset  # noqa: E402

__all__ = ["BackboneFileHook", "CropObject", "ShapesClassDataset", "write_backbone"]
