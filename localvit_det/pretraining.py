"""Pretraining as classifiers with MMPretrain (the extra `pretrain`); configs name this module in `custom_imports`.

It has the synthetic shapes as images of one object each.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from mmcv.transforms import BaseTransform

from .checkpoint.networks import refuse_taken_names
from .datasets.synthetic_shapes import CLASSES
from .datasets.synthetic_shapes_datasets import MadeWhenUsed, ShapesDataset
from .requirements import require

require("mmpretrain")
# MMPretrain's ColorJitter makes MMCV warn of an argument that configs do not give, in every data worker.
warnings.filterwarnings("ignore", message="Only use 'alpha' for pillow backend")

import mmdet.registry  # noqa: E402
import mmpretrain.datasets  # noqa: E402, F401 - registers its own LoadImageFromFile, which ours then replaces
from mmpretrain.registry import DATASETS, MODELS, TRANSFORMS  # noqa: E402

__all__ = ["CropObject", "ShapesClassDataset"]

refuse_taken_names(MODELS)

# Ours, whose broken images are skipped and named, unless the row `image_files` of `patches` is left out; MMPretrain has
# registered MMCV's under the name.
LoadImageFromFile = mmdet.registry.TRANSFORMS.get("LoadImageFromFile")
TRANSFORMS.register_module(name="LoadImageFromFile", module=LoadImageFromFile, force=True)


@DATASETS.register_module()
class ShapesClassDataset(MadeWhenUsed):
    """Every object of the synthetic shapes with its class; `CropObject` cuts it out."""

    METAINFO = {"classes": CLASSES}  # noqa: RUF012 - declared so by mmengine

    @classmethod
    def prepare(cls, data_root: str | Path, consent: bool = False) -> Path:
        """Make the dataset as `ShapesDataset` does."""
        return ShapesDataset.prepare(data_root, consent)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return an entry for each annotation: img_path, box (x1, y1, x2, y2 in pixels) and gt_label."""
        content = json.loads(Path(self.ann_file).read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        folder = Path(self.data_prefix["img_path"])
        entries = []
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            path = str(folder / names[annotation["image_id"]])
            entries.append(
                {"img_path": path, "box": (x, y, x + width, y + height), "gt_label": annotation["category_id"] - 1}
            )
        return entries


@TRANSFORMS.register_module()
class CropObject(BaseTransform):
    """Cut `box` out of the image, as a square with some of its surroundings.

    Args:
        margin: What is added on each side, as a share of the box's longer side.
    """

    def __init__(self, margin: float = 0.15) -> None:
        self.margin = margin

    def transform(self, results: dict) -> dict:
        """Replace `img` (H×W×C) by the part inside the image."""
        image = results["img"]
        left, top, right, bottom = results["box"]
        half = max(right - left, bottom - top) * (0.5 + self.margin)
        x, y = (left + right) / 2, (top + bottom) / 2
        rows = slice(max(0, round(y - half)), max(2, round(y + half)))
        columns = slice(max(0, round(x - half)), max(2, round(x + half)))
        results["img"] = image = image[rows, columns]
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results
