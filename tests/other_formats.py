"""A few images in the formats of other tools, with the objects of a set in COCO's format."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import yaml
from pycocotools import mask as coco_masks

CLASSES = ("red circle", "blue square", "a triangle")
SPLITS = ("train", "val")


def read(source: Path) -> Iterator[tuple[str, Path, dict, list[dict]]]:
    """Split, file, entry and annotations of each image; a set of `make_shapes`."""
    for split in SPLITS:
        content = json.loads((source / f"annotations/instances_{split}2017.json").read_text())
        for image in content["images"]:
            own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
            yield split, source / f"{split}2017" / image["file_name"], image, own


def points(part: list[float]) -> list[tuple[float, float]]:
    return list(zip(part[::2], part[1::2], strict=True))


def put(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, folder)


def yolo(source: Path, root: Path) -> None:
    """As Roboflow exports it, without the test split that data.yaml names."""
    for split, file, image, own in read(source):
        folder = root / {"train": "train", "val": "valid"}[split]
        put(file, folder / "images")
        (folder / "labels").mkdir(exist_ok=True)
        lines = []
        for one in own:  # an object in parts has its largest alone
            part = max(one["segmentation"], key=len)
            shares = (value / image["width"] for value in part)
            lines.append(f"{one['category_id'] - 1} " + " ".join(map(str, shares)))
        (folder / f"labels/{file.stem}.txt").write_text("\n".join(lines))
    paths = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}
    (root / "data.yaml").write_text(yaml.safe_dump({**paths, "nc": 3, "names": list(CLASSES)}))


def voc(source: Path, root: Path) -> None:
    for split, file, image, own in read(source):
        put(file, root / split)
        objects = ""
        for one in own:
            x, y, w, h = one["bbox"]
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h), strict=True)
            box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
            objects += f"<object><name>{CLASSES[one['category_id'] - 1]}</name><bndbox>{box}</bndbox></object>"
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
        (root / split / f"{file.stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def labelme(source: Path, root: Path) -> None:
    for split, file, image, own in read(source):
        put(file, root / split)
        shapes = [
            {"label": CLASSES[one["category_id"] - 1], "points": points(part), "group_id": number, "shape_type": kind}
            for number, one in enumerate(own)
            for part in one["segmentation"]
            for kind in ("polygon",)
        ]
        shapes.append({"label": "spot", "points": [[3, 4]], "group_id": None, "shape_type": "point"})
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": file.name, "imageData": None}
        content |= {"imageHeight": image["height"], "imageWidth": image["width"]}
        (root / split / f"{file.stem}.json").write_text(json.dumps(content))


def via(source: Path, root: Path) -> None:
    content: dict[str, dict] = {split: {} for split in SPLITS}
    for split, file, _, own in read(source):
        put(file, root / split)
        regions = []
        for one in own:
            part = max(one["segmentation"], key=len)
            shape = {"name": "polygon", "all_points_x": part[::2], "all_points_y": part[1::2]}
            kind = {"kind": CLASSES[one["category_id"] - 1], "quality": {"good": True}}
            regions.append({"shape_attributes": shape, "region_attributes": kind})
        entry = {"filename": file.name, "size": file.stat().st_size, "regions": regions, "file_attributes": {}}
        content[split][f"{file.name}{file.stat().st_size}"] = entry
    for split, images in content.items():
        (root / split / "via_region_data.json").write_text(json.dumps({"_via_img_metadata": images}))


def cvat(source: Path, root: Path) -> None:
    images = ""
    for number, (split, file, image, own) in enumerate(read(source)):
        put(file, root / "images" / split)
        shapes = ""
        for group, one in enumerate(own, 1):
            for part in one["segmentation"]:
                corners = ";".join(f"{x},{y}" for x, y in points(part))
                label = CLASSES[one["category_id"] - 1]
                shapes += f'<polygon label="{label}" points="{corners}" occluded="0" z_order="0" group_id="{group}"/>'
        size = f'width="{image["width"]}" height="{image["height"]}"'
        subset = {"train": "Train", "val": "Validation"}[split]
        images += f'<image id="{number}" name="{file.name}" subset="{subset}" {size}>{shapes}</image>'
    (root / "annotations.xml").write_text(f"<annotations><version>1.1</version>{images}</annotations>")


FORMATS: dict[str, Callable[[Path, Path], None]] = {
    "YOLO": yolo,
    "Pascal VOC": voc,
    "labelme": labelme,
    "VIA": via,
    "CVAT": cvat,
}
WHOLE = ("labelme", "CVAT")  # which keep all parts of an object


def png(mask: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", mask.astype(np.uint8))[1].tobytes()).decode()


def area(segmentation: dict | list, height: int, width: int) -> float:
    polygons = isinstance(segmentation, list)
    rle = coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width)) if polygons else segmentation
    return float(coco_masks.area(rle))
