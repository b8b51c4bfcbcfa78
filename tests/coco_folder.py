"""Tiny COCO-format folders and a config for them, for the tests of config and preflight."""

import copy
import json
import struct
import zlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

NAMES = ("cat", "dog", "zebra")


def annotations(count: int = 4) -> dict:
    """A good annotation dict: two boxes with polygons in each image, all classes used."""
    images = [{"id": i, "file_name": f"{i:03d}.jpg", "width": 100, "height": 80} for i in range(1, count + 1)]
    boxes = [
        {
            "id": i,
            "image_id": 1 + (i - 1) // 2,
            "category_id": 10 * (1 + i % 3),
            "bbox": [60, 40, 30, 20],
            "area": 600,
            "iscrowd": 0,
            "segmentation": [[60, 40, 90, 40, 90, 60]],
        }
        for i in range(1, 2 * count + 1)
    ]
    categories = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(NAMES)]
    return {"images": images, "annotations": boxes, "categories": categories}


def write_coco(root: Path, train: dict | None = None, val: dict | None = None) -> Path:
    """Writes a folder in COCO's layout; the images are gray."""
    good = annotations()
    for split, content in (("train", train or good), ("val", val or good)):
        folder = root / f"{split}2017"
        folder.mkdir(parents=True, exist_ok=True)
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
        for image in content["images"]:
            (folder / image["file_name"]).write_bytes(gray(image["width"], image["height"]))
    return root


@cache
def gray(width: int, height: int) -> bytes:
    """A JPEG file of one color."""
    return cv2.imencode(".jpg", np.full((max(height, 1), max(width, 1), 3), 114, np.uint8))[1].tobytes()


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size; its pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def edited(change) -> dict:
    """A good annotation dict after `change(dict)`."""
    content = copy.deepcopy(annotations())
    change(content)
    return content


def write_config(folder: Path, body: str = "", model: str = "mask-rcnn_r50_fpn") -> Path:
    """Writes a config over MMDetection's own model and COCO dataset."""
    path = folder / "config.py"
    (folder / "parent.py").write_text(_parent(model))
    path.write_text(f"_base_ = './parent.py'\n{body}\n")
    return path


def dataset_config(root: Path, split: str = "train2017", **more: object) -> dict:
    """The config of a dataset in COCO's layout with boxes and masks."""
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}]
    files = {"ann_file": f"annotations/instances_{split}.json", "data_prefix": {"img": f"{split}/"}}
    rest = {"metainfo": {"classes": NAMES}, "pipeline": [*load, {"type": "PackDetInputs"}], **more}
    return {"type": "CocoDataset", "data_root": f"{root}/", **files, **rest}


@cache
def _parent(model: str) -> str:
    # Read once: MMEngine takes half a second to find MMDetection's configs.
    bases = [f"mmdet::_base_/models/{model}.py", "mmdet::_base_/datasets/coco_instance.py"]
    return Config.fromstring(f"_base_ = {bases!r}", ".py").pretty_text
