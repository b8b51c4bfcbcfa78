"""A small set in YOLO's format, and what converted datasets have."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from coco_folder import gray

NAMES = ("a cat", "dog", "traffic light")
W, H = 200, 120
OWN = ("images/train", "images/val")
YOLO = {
    # class, centre, size; a polygon; a box with a confidence
    "one": "0 0.5 0.5 0.25 0.1\n2 0.1 0.2 0.3 0.2 0.25 0.45 0.1 0.4\n",
    "two": "1 0.333333 0.71234 0.123456 0.2 0.9\n",
    "empty": "",
}


def write_yolo(root: Path, body: str, folders: Sequence[str] = OWN) -> Path:
    for folder in folders:
        labels = root / folder.replace("images", "labels")
        (root / folder).mkdir(parents=True)
        labels.mkdir(parents=True)
        for name, lines in YOLO.items():
            (root / folder / f"{name}.jpg").write_bytes(gray(W, H))
            (labels / f"{name}.txt").write_text(lines)
        (root / folder / "unlabelled.png").write_bytes(gray(W, H))
    if body:
        (root / "data.yaml").write_text(body)
    return root


def objects(file: Path) -> dict[str, list[tuple]]:
    """(class, box, polygons) by the name of the image, in order."""
    content = json.loads(file.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    result: dict[str, list[tuple]] = {Path(image["file_name"]).stem: [] for image in content["images"]}
    stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    assert all((image["width"], image["height"]) == (W, H) for image in content["images"])
    for one in content["annotations"]:
        result[stems[one["image_id"]]].append(
            (names[one["category_id"]], one["bbox"], one["segmentation"], one["area"])
        )
    return result


def same(found: dict[str, list[tuple]], expected: dict[str, list[tuple]]) -> None:
    assert found.keys() == expected.keys()
    for name, items in expected.items():
        assert len(found[name]) == len(items)
        for (a, box, polygons, area), (b, box_b, polygons_b) in zip(found[name], items, strict=True):
            assert a == b
            assert box == pytest.approx(box_b, abs=1e-4)
            assert len(polygons) == len(polygons_b)
            for one, other in zip(polygons, polygons_b, strict=True):
                assert one == pytest.approx(other, abs=1e-9)
            assert 0 < area <= box[2] * box[3] + 1e-3


def label_of(folder: Path) -> dict[str, str]:
    """The path of the label that each image has got."""
    result = {}
    for file in (folder / "annotations").iterdir():
        content = json.loads(file.read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: image["file_name"] for image in content["images"]}
        result |= dict.fromkeys(images.values(), "")
        result |= {images[one["image_id"]]: names[one["category_id"]] for one in content["annotations"]}
    return result
