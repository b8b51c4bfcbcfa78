"""The drawn shapes as semantic maps, for MMSegmentation."""

from pathlib import Path

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS

from ..datasets.drawing import BACKGROUND, BACKGROUND_COLOR, CLASSES, PALETTES
from ..datasets.load_image import LoadImageFromFile
from ..datasets.shapes_dataset import ShapesDataset

# Broken images are skipped and named here as well.
TRANSFORMS.register_module(name="LoadImageFromFile", module=LoadImageFromFile)


@DATASETS.register_module()
class ShapesSegDataset(BaseSegDataset):
    """Drawn shapes and their background, a class at every pixel; the set makes itself as `ShapesDataset` does."""

    METAINFO = {  # noqa: RUF012 - declared so by mmengine
        "classes": (*CLASSES, BACKGROUND),
        "palette": [*([*PALETTES["bright"][name]] for name in CLASSES), [*BACKGROUND_COLOR]],
    }

    @classmethod
    def prepare(cls, data_root: str | Path, consent: bool = False) -> Path:
        """Makes the set, and its semantic maps.

        Raises:
            DataError: As of `ShapesDataset.prepare`.
        """
        from ..datasets.shape_maps import make_semantic_maps

        root = ShapesDataset.prepare(data_root, consent)
        make_semantic_maps(root)
        return root
