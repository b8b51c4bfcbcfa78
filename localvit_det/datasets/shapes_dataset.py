"""The drawn shapes as data sets of MMDetection."""

from pathlib import Path

from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmdet.registry import DATASETS
from mmengine.logging import print_log

from ..errors import DataError
from .annotations import what_is_there
from .drawing import BACKGROUND, BACKGROUND_COLOR, CLASSES, PALETTES

DEFAULT_ROOT = "data/shapes"  # as in configs/_base_/shapes.py


def is_shapes_set(ann_file: str | Path) -> bool:
    """Whether an annotation file is one of a set of drawn shapes."""
    with open(ann_file, "rb") as stream:
        return b'"Drawn shapes"' in stream.read(200)


@DATASETS.register_module()
class ShapesDataset(CocoDataset):
    """COCO-format set of drawn shapes that can make itself, at its default place or where it is told to.

    For a set with other classes give `metainfo=dict(classes=…)`, as for any `CocoDataset`.
    """

    METAINFO = {  # noqa: RUF012 - declared so by mmengine
        "classes": CLASSES,
        "palette": [PALETTES["bright"][name] for name in CLASSES],
    }

    @classmethod
    def prepare(cls, data_root: str | Path, consent: bool = False) -> Path:
        """Makes the default set under `data_root` unless a shapes set is there; any process may call it.

        Args:
            consent: Draw at another place than the default one, too: elsewhere a missing set is more likely a slip in
                its path.

        Raises:
            DataError: The folder cannot be written, holds something else, or has no set and there is no consent.
        """
        # Imported late, else `python -m localvit_det.datasets.shapes` would find itself imported already.
        from .shapes import annotation_file, make_shapes

        root = Path(data_root)
        if annotation_file(root, "val").is_file():
            return root
        if not consent and root != Path(DEFAULT_ROOT):
            raise DataError(
                f"There is no set of drawn shapes at {root.absolute()} ({what_is_there(root.absolute())}): correct "
                f"data_root, or draw a new set there with --draw."
            )
        print_log(f"Drawing the shapes set of 400 and 100 images into {root.absolute()}.", "current")
        return make_shapes(root)


@DATASETS.register_module()
class ShapesPanopticDataset(CocoPanopticDataset):
    """The drawn shapes as things, and what is behind them as stuff."""

    METAINFO = {  # noqa: RUF012 - declared so by mmengine
        "classes": (*CLASSES, BACKGROUND),
        "thing_classes": CLASSES,
        "stuff_classes": (BACKGROUND,),
        "palette": [*ShapesDataset.METAINFO["palette"], BACKGROUND_COLOR],
    }

    @classmethod
    def prepare(cls, data_root: str | Path, consent: bool = False) -> Path:
        """Makes the set as `ShapesDataset` does, and its panoptic maps.

        Raises:
            DataError: Likewise.
        """
        from .shape_maps import make_panoptic_maps

        root = ShapesDataset.prepare(data_root, consent)
        make_panoptic_maps(root)
        return root
