"""Semantic segmentation with MMSegmentation (the extra `seg`); configs name this package in `custom_imports`."""

from ..requirements import require

require("mmseg")

from .shapes_dataset import ShapesSegDataset  # noqa: E402

__all__ = ["ShapesSegDataset"]
