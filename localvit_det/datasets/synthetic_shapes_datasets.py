"""The synthetic shapes as datasets of MMDetection, and their label maps: semantic ones, and panoptic ones as in COCO.

The dataset makes itself when it is first used, and its maps are made from its annotations, next to them:

    semantic/train2017/000000000001.png       a class at every pixel, the background last
    panoptic/train2017.json, train2017/….png  a segment at every pixel: things, and the background as stuff
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from pycocotools import mask as coco_masks

from ..errors import DataError
from ..files import atomic_folder, what_is_there, write_text
from .synthetic_shapes import BACKGROUND, BACKGROUND_COLOR, CLASSES, PALETTES, annotation_file, make_shapes

DEFAULT_ROOT = "data/shapes"  # as in configs/_base_/shapes.py
_SPLITS = ("train", "val")


class MadeWhenUsed(BaseDataset):
    """Added to a dataset: what it reads is made by its `prepare` where it is absent, whoever runs the config."""

    prepare: Callable[[str | Path], Path]

    def full_init(self) -> None:
        """Load the data, which may have to be made."""
        if not os.path.exists(self.ann_file or self.data_prefix["seg_map_path"]):
            self.prepare(self.data_root)
        super().full_init()


@DATASETS.register_module()
class ShapesDataset(MadeWhenUsed, CocoDataset):
    """A COCO-format dataset of synthetic shapes that makes itself, at its default place or with consent.

    For other classes give `metainfo=dict(classes=…)`, as for any `CocoDataset`.
    """

    METAINFO = {  # noqa: RUF012 - declared so by mmengine
        "classes": CLASSES,
        "palette": [PALETTES["bright"][name] for name in CLASSES],
    }

    @classmethod
    def prepare(cls, data_root: str | Path, consent: bool = False) -> Path:
        """Make the default dataset under `data_root` unless there is one; any process may call it.

        Args:
            consent: Draw at another place than the default one, too: elsewhere a missing dataset is more likely a slip
                in its path.

        Raises:
            DataError: The folder cannot be written, holds something else, or has no dataset and there is no consent.
        """
        root = Path(data_root)
        if annotation_file(root, "val").is_file():
            return root
        if not consent and root != Path(DEFAULT_ROOT):
            raise DataError(
                f"There are no synthetic shapes at {root.absolute()} ({what_is_there(root.absolute())}): correct "
                f"data_root, or draw new ones there with --draw."
            )
        print_log(f"Drawing the synthetic shapes, 400 and 100 images, into {root.absolute()}.", "current")
        return make_shapes(root)


@DATASETS.register_module()
class ShapesPanopticDataset(MadeWhenUsed, CocoPanopticDataset):
    """The synthetic shapes as things, and what is behind them as stuff."""

    METAINFO = {  # noqa: RUF012 - declared so by mmengine
        "classes": (*CLASSES, BACKGROUND),
        "thing_classes": CLASSES,
        "stuff_classes": (BACKGROUND,),
        "palette": [*ShapesDataset.METAINFO["palette"], BACKGROUND_COLOR],
    }

    @classmethod
    def prepare(cls, data_root: str | Path, consent: bool = False) -> Path:
        """Make the dataset as `ShapesDataset` does, and its panoptic maps.

        Raises:
            DataError: Likewise.
        """
        root = ShapesDataset.prepare(data_root, consent)
        make_panoptic_maps(root)
        return root


def make_semantic_maps(root: str | Path) -> Path:
    """Make `semantic` in a dataset of synthetic shapes, unless it is there; any process may call it.

    Returns:
        The folder.

    Raises:
        DataError: The annotations cannot be read, or the folder cannot be written.
    """

    def write(draft: Path, split: str, content: dict) -> None:
        background = len(content["categories"])
        for image, segments in _segments(content):
            labels = np.full((image["height"], image["width"]), background, np.uint8)
            for annotation, mask in segments:
                labels[mask] = annotation["category_id"] - 1
            _save(draft / f"{split}2017", image["file_name"], labels)

    return _make(Path(root), "semantic", write)


def make_panoptic_maps(root: str | Path) -> Path:
    """Make `panoptic` in a dataset of synthetic shapes, unless it is there; any process may call it.

    Returns:
        The folder.

    Raises:
        DataError: As of :func:`make_semantic_maps`.
    """

    def write(draft: Path, split: str, content: dict) -> None:
        stuff = 1 + max(category["id"] for category in content["categories"])
        categories = [{**category, "isthing": 1} for category in content["categories"]]
        categories.append({"id": stuff, "name": BACKGROUND, "isthing": 0})
        annotations = []
        for image, segments in _segments(content):
            ids = np.ones((image["height"], image["width"]), np.int32)  # 0 would be void
            labels = {1: stuff}
            for number, (annotation, mask) in enumerate(segments, start=2):
                ids[mask] = number
                labels[number] = annotation["category_id"]
            name = _save(draft / f"{split}2017", image["file_name"], np.stack([0 * ids, 0 * ids, ids], axis=-1))
            infos = [_info(ids, number, label) for number, label in labels.items() if (ids == number).any()]
            annotations.append({"image_id": image["id"], "file_name": name, "segments_info": infos})
        table = {"images": content["images"], "categories": categories, "annotations": annotations}
        write_text(draft / f"{split}2017.json", json.dumps(table))

    return _make(Path(root), "panoptic", write)


def _make(root: Path, name: str, write: Callable[[Path, str, dict], None]) -> Path:
    folder = root / name
    if folder.is_dir():
        return folder
    print_log(f"Making the {name} maps of the synthetic shapes in {folder.absolute()}.", "current")
    try:
        with atomic_folder(folder) as draft:
            for split in _SPLITS:
                (draft / f"{split}2017").mkdir()
                write(draft, split, json.loads(annotation_file(root, split).read_text()))
    except (OSError, ValueError, KeyError) as error:
        if not folder.is_dir():  # unless another process was faster
            raise DataError(
                f"The {name} maps of the synthetic shapes cannot be made in {root.absolute()} ({error}): name a folder "
                "that can be written, with a whole dataset in it."
            ) from error
    return folder


def _segments(content: dict) -> Iterator[tuple[dict, list[tuple[dict, np.ndarray]]]]:
    """Yield each image with its annotations and their masks (H, W), from back to front."""
    by_image: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for image in content["images"]:
        size = image["height"], image["width"]
        yield (
            image,
            [
                (annotation, coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, *size))).astype(bool))
                for annotation in by_image[image["id"]]
                if (polygons := annotation["segmentation"])
            ],
        )


def _info(ids: np.ndarray, number: int, label: int) -> dict:
    """Return COCO's entry of a segment."""
    rows, columns = np.nonzero(ids == number)
    left, top = int(columns.min()), int(rows.min())
    return {
        "id": number,
        "category_id": label,
        "area": len(rows),
        "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
        "iscrowd": 0,
    }


def _save(folder: Path, image_name: str, values: np.ndarray) -> str:
    """Write a PNG (channels in OpenCV's order) under the image's name, and return its own."""
    name = Path(image_name).with_suffix(".png").name
    (folder / name).write_bytes(cv2.imencode(".png", values.astype(np.uint8))[1].tobytes())
    return name
