"""The drawn shapes as an MMDetection data set."""

from pathlib import Path

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from .drawing import CLASSES, PALETTES


@DATASETS.register_module()
class ShapesDataset(CocoDataset):
    """COCO-format set of drawn shapes that can make itself.

    For a set with other classes give `metainfo=dict(classes=…)`, as for any `CocoDataset`.
    """

    METAINFO = {  # noqa: RUF012 - declared so by mmengine
        "classes": CLASSES,
        "palette": [PALETTES["bright"][name] for name in CLASSES],
    }

    @classmethod
    def prepare(cls, data_root: str | Path) -> Path:
        """Makes the default set under `data_root` unless a shapes set is there; any process may call it.

        Raises:
            DataError: The folder cannot be written or holds something else.
        """
        # Imported late, else `python -m localvit_det.datasets.shapes` would find itself imported already.
        from .shapes import annotation_file, make_shapes

        if annotation_file(data_root, "val").is_file():
            return Path(data_root)
        return make_shapes(data_root)
