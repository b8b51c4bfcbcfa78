"""Semantic segmentation with MMSegmentation (the extra `seg`); configs name this module in `custom_imports`.

It has the synthetic shapes with a class at every pixel.
"""

from pathlib import Path

from .checkpoint.networks import refuse_taken_names
from .datasets.synthetic_shapes import BACKGROUND, BACKGROUND_COLOR, CLASSES, PALETTES
from .datasets.synthetic_shapes_datasets import MadeWhenUsed, ShapesDataset, make_semantic_maps
from .requirements import require

require("mmseg")

import mmdet.registry  # noqa: E402
from mmseg.datasets import BaseSegDataset  # noqa: E402
from mmseg.registry import DATASETS, MODELS, TRANSFORMS  # noqa: E402

__all__ = ["ShapesSegDataset"]

refuse_taken_names(MODELS)

# Ours, whose broken images are skipped and named, unless the row `image_files` of `patches` is left out.
TRANSFORMS.register_module(name="LoadImageFromFile", module=mmdet.registry.TRANSFORMS.get("LoadImageFromFile"))


@DATASETS.register_module()
class ShapesSegDataset(MadeWhenUsed, BaseSegDataset):
    """Synthetic shapes and their background, a class at every pixel; made when first used, as `ShapesDataset`."""

    METAINFO = {  # noqa: RUF012 - declared so by mmengine
        "classes": (*CLASSES, BACKGROUND),
        "palette": [*([*PALETTES["bright"][name]] for name in CLASSES), [*BACKGROUND_COLOR]],
    }

    @classmethod
    def prepare(cls, data_root: str | Path, consent: bool = False) -> Path:
        """Make the dataset as `ShapesDataset` does, and its semantic maps."""
        root = ShapesDataset.prepare(data_root, consent)
        make_semantic_maps(root)
        return root
