"""Datasets in Pascal VOC's format become datasets in COCO's; each image gets its own labels."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from coco_folder import gray, write_config
from yolo_set import H, W, label_of, objects, same

from localvit_det.config import load_config
from localvit_det.datasets.converters import convert_dataset, find_converter
from localvit_det.errors import DataError
from localvit_det.preflight import check_config

pytest.importorskip("supervision")


def voc(boxes: Sequence[tuple], polygon: str = "") -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox>{polygon}</object>"
        for name, a, b, c, d in boxes
    )
    return f"<annotation><size><width>{W}</width><height>{H}</height></size>{objects}</annotation>"


VOC = {"one": [("dog", 1, 1, 200, 120), ("a cat", 10, 20, 30, 60)], "two": [("dog", 5, 6, 7, 9)], "empty": []}
VOC_BOXES = {  # pixels are counted from 1, and the last one belongs to the box
    "one": [("dog", [0, 0, 200, 120], []), ("a cat", [9, 19, 21, 41], [])],
    "two": [("dog", [4, 5, 3, 4], [])],
    "empty": [],
}


@pytest.mark.parametrize("devkit", [True, False])
def test_voc(tmp_path, devkit):
    root = tmp_path / "voc"
    for split in ("train", "val"):
        images = root / ("JPEGImages" if devkit else split)
        labels = root / ("Annotations" if devkit else split)
        for folder in (images, labels):
            folder.mkdir(parents=True, exist_ok=True)
        for name, boxes in VOC.items():
            stem = f"{split}-{name}" if devkit else name
            (images / f"{stem}.jpg").write_bytes(gray(W, H))
            (labels / f"{stem}.xml").write_text(voc(boxes))
        if devkit:
            (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
            (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(f"{split}-{name}" for name in VOC))
    assert find_converter(root).name == "Pascal VOC"
    convert_dataset(root, tmp_path / "coco")
    for split in ("train", "val"):
        found = objects(tmp_path / f"coco/annotations/instances_{split}.json")
        same({name.removeprefix(f"{split}-"): items for name, items in found.items()}, VOC_BOXES)
    cfg = load_config(
        write_config(tmp_path), {"data_root": str(tmp_path / "coco"), "classes": "auto", "with_mask": False}
    )
    assert set(cfg.classes) == {"dog", "a cat"}
    check_config(cfg)


def test_polygons_of_voc(tmp_path):
    root = tmp_path / "voc"
    root.mkdir()
    (root / "a.jpg").write_bytes(gray(W, H))
    corners = "<polygon><x1>11</x1><y1>21</y1><x2>31</x2><y2>21</y2><x3>31</x3><y3>41.5</y3></polygon>"
    (root / "a.xml").write_text(voc([("dog", 11, 21, 31, 42)], corners))
    convert_dataset(root, tmp_path / "coco")
    [(_, box, polygons, area)] = objects(tmp_path / "coco/annotations/instances_default.json")["a"]
    assert box == [10, 20, 21, 22]
    assert polygons == [[10, 20, 30, 20, 30, 40.5]]
    assert area == pytest.approx(205)


def write_voc(root: Path, images: Sequence[str], labels: Sequence[str], lists: dict[str, str] | None = None) -> Path:
    """A set in which the class of a label is its path."""
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(gray(W, H))
    for name in labels:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(voc([(name, 1, 1, 20, 20)]))
    for split, text in (lists or {}).items():
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text(text)
    return root


@pytest.mark.parametrize(
    "expected",
    [
        {"train/images/1.jpg": "train/annotations/1.xml", "val/images/1.jpg": "val/annotations/1.xml"},
        {"train/images/1.jpg": "", "val/images/1.jpg": "val/annotations/1.xml"},
        {"images/train/1.jpg": "Annotations/train/1.xml", "images/val/1.jpg": "Annotations/val/1.xml"},
        {"images/cam1/1.jpg": "", "images/cam2/1.jpg": "annotations/cam2/1.xml"},
        {"images/cam1/1.jpg": "", "images/cam2/2.jpg": "annotations/cam2/2.xml", "": "annotations/cam2/1.xml"},
        {"frames/a/1.jpg": "boxes/a/1.xml", "frames/b/1.jpg": "boxes/b/1.xml"},
        {"JPEGImages/train/1.jpg": "Annotations/1.xml", "JPEGImages/val/2.jpg": "Annotations/2.xml"},
        {"images/1.jpg": "annotations/1.xml", "": "annotations_old/1.xml"},
        {"a/1.jpg": "a/1.xml", "b/1.jpg": "b/1.xml", "": "annotations/1.xml"},
    ],
)
def test_by_folder(tmp_path, expected):
    root = write_voc(tmp_path / "voc", [image for image in expected if image], [*filter(None, expected.values())])
    convert_dataset(root, tmp_path / "coco")
    expected.pop("", None)
    assert label_of(tmp_path / "coco") == expected


def test_masks_are_no_images(tmp_path):
    images = ["JPEGImages/1.jpg", "SegmentationClass/1.png", "SegmentationObject/1.png"]
    convert_dataset(write_voc(tmp_path / "voc", images, ["Annotations/1.xml"]), tmp_path / "coco")
    assert label_of(tmp_path / "coco") == {"JPEGImages/1.jpg": "Annotations/1.xml"}


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (["images/1.jpg"], ["a/1.xml", "b/1.xml"], r"voc/a/1\.xml and .*voc/b/1\.xml both fit .*images/1\.jpg by"),
        (["a/1.jpg", "b/1.jpg"], ["xml/1.xml"], r"voc/a/1\.jpg and .*voc/b/1\.jpg both fit .*xml/1\.xml by"),
    ],
)
def test_which_is_unclear(tmp_path, images, labels, words):
    with pytest.raises(DataError, match=words):
        convert_dataset(write_voc(tmp_path / "voc", images, labels), tmp_path / "coco")


def test_lists_of_voc(tmp_path):
    images = [f"JPEGImages/{stem}.jpg" for stem in ("1", "2", "a b", "3")]
    labels = [f"Annotations/{stem}.xml" for stem in ("1", "2", "a b", "3", "7")]
    lists = {"train": "1 1\na b\n7\n8\n", "val": "2\n"}
    out = convert_dataset(write_voc(tmp_path / "voc", images, labels, lists), tmp_path / "coco").splitlines()
    assert out[1:] == [
        "train: 2 images, 2 objects",
        "val: 1 images, 1 objects",
        "train: listed in ImageSets/Main/train.txt, but not there: 2 (7, 8)",
        "Images in no list of ImageSets/Main, left out: 1 (JPEGImages/3.jpg)",
        "Files of labels without an image, left out: 1 (Annotations/7.xml)",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8\n9", r"ImageSets/Main/val\.txt lists 2 images, none of which is there \(8, 9\): correct"),
        ("", r"ImageSets/Main/val\.txt lists no images"),
    ],
)
def test_empty_split_of_voc(tmp_path, text, words):
    root = write_voc(tmp_path / "voc", ["JPEGImages/1.jpg"], ["Annotations/1.xml"], {"train": "1", "val": text})
    with pytest.raises(DataError, match=words):
        convert_dataset(root, tmp_path / "coco")


def test_list_with_a_stem_of_two_images(tmp_path):
    images = ["train/images/1.jpg", "val/images/1.jpg"]
    labels = ["train/annotations/1.xml", "val/annotations/1.xml"]
    root = write_voc(tmp_path / "voc", images, labels, {"train": "1", "val": "1"})
    convert_dataset(root, tmp_path / "coco")
    file = tmp_path / "coco/annotations/instances_val.json"
    assert [image["file_name"] for image in json.loads(file.read_text())["images"]] == ["val/images/1.jpg"]
    (root / "val").rename(root / "other")
    with pytest.raises(DataError, match=r"both .*other/images/1\.jpg and .*train/images/1\.jpg are called"):
        convert_dataset(root, tmp_path / "coco2")
