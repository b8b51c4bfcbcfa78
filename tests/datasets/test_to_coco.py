"""Sets in YOLO's and Pascal VOC's formats become sets in COCO's, with the same boxes."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_folder import gray, write_config
from yolo_set import NAMES, OWN, YOLO, H, W, write_yolo

from localvit.commands import convert
from localvit_det.config import load_config
from localvit_det.datasets.converters import convert_dataset, find_converter
from localvit_det.errors import DataError, OutputError, RequirementError
from localvit_det.preflight import check_config

pytest.importorskip("supervision")


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


def yolo_by_hand() -> dict[str, list[tuple]]:
    """What YOLO's definition says about the labels above, without the library."""
    result: dict[str, list[tuple]] = {"unlabelled": []}
    for name, lines in YOLO.items():
        result[name] = []
        for line in lines.splitlines():
            number, *values = line.split()
            v = [float(value) for value in values]
            if len(v) > 5:
                x, y = [a * W for a in v[::2]], [a * H for a in v[1::2]]
                box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
                polygon = [[value for point in zip(x, y, strict=True) for value in point]]
            else:
                box, polygon = [(v[0] - v[2] / 2) * W, (v[1] - v[3] / 2) * H, v[2] * W, v[3] * H], []
            result[name].append((NAMES[int(number)], box, polygon))
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


@pytest.mark.parametrize(
    ("body", "folders"),
    [
        (f"names: {dict(enumerate(NAMES))}\ntrain: images/train\nval: images/val\n", OWN),
        # Roboflow's, whose paths lead one folder too high, and Ultralytics' own with a path of another machine
        (f"names: {[*NAMES]}\ntrain: ../train/images\nval: ../valid/images\n", ("train/images", "valid/images")),
        (f"path: /nowhere\nnames: {[*NAMES]}\ntrain: [images/train]\nval: images/val\n", OWN),
        ("", OWN),
    ],
)
def test_yolo(tmp_path, capsys, body, folders):
    root, target = write_yolo(tmp_path / "yolo", body, folders), tmp_path / "coco"
    if not body:
        (root / "classes.txt").write_text("\n".join(NAMES))
    assert find_converter(root).name == "YOLO"
    convert.main([str(root), str(target)])
    out = capsys.readouterr().out
    assert "train: 4 images, 3 objects, 1 without a file of labels" in out
    assert f"data_root={target} classes=auto" in out
    for split in ("train", "val"):
        same(objects(target / f"annotations/instances_{split}.json"), yolo_by_hand())

    cfg = load_config(write_config(tmp_path), {"data_root": str(target), "classes": "auto", "with_mask": False})
    assert cfg.classes == NAMES
    check_config(cfg)


def test_lists_of_images(tmp_path):
    root = write_yolo(tmp_path / "yolo", "names: [a cat, dog, traffic light]\ntrain: train.txt\nval: images/val\n")
    (root / "train.txt").write_text("./images/train/one.jpg\nimages/train/two.jpg\n")
    convert_dataset(root, tmp_path / "coco")
    found = objects(tmp_path / "coco/annotations/instances_train.json")
    same(found, {name: yolo_by_hand()[name] for name in ("one", "two")})


def test_key_points_are_left_out(tmp_path):
    body = "names: [a cat]\ntrain: images/train\nval: images/train\nkpt_shape: [2, 3]\n"
    root = write_yolo(tmp_path / "yolo", body, ["images/train"])
    for file in (root / "labels/train").iterdir():
        file.write_text("0 0.5 0.5 0.25 0.1 0.4 0.5 2 0.6 0.5 2\n")
    (root / "labels/train/two.txt").write_text("0 0.5 0.5 0.25 0.1\n")
    out = convert_dataset(root, tmp_path / "coco")
    assert (
        "train: 4 images, 3 objects, 1 without a file of labels, taken as images without objects, keypoints of 2 "
        in out
    )
    assert "keypoints of 2 objects are left out" in out
    [(_, box, polygons, _)] = objects(tmp_path / "coco/annotations/instances_train.json")["one"]
    assert box == pytest.approx([75, 54, 50, 12], abs=1e-4)
    assert polygons == []
    (root / "labels/train/two.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n")
    with pytest.raises(
        DataError, match=r"two\.txt cannot be read \(line 1 has 9 numbers, where kpt_shape .* makes 11 "
    ):
        convert_dataset(root, tmp_path / "coco2")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "0 0.5 0.5 0.25 0.1 0.4 0.5 2 0.6 0.5 2",
            "line 3 has 2, where coordinates go from 0 to 1; labels with keypoints",
        ),
        ("0 100 60 50 12", r"line 3 has 100, where coordinates go from 0 to 1\)"),
        ("0 0.1 0.1 0.2 -0.1 0.2 0.2", "line 3 has -0.1, where"),
        ("0 0.1 0.1 nan 0.1 0.2 0.2", "line 3 has nan, where"),
    ],
)
def test_coordinates_outside(tmp_path, line, words):
    root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\n", ["images/train"])
    # Rounding; edges of a box that reach out; a confidence or the number of a track.
    good = "0 0.1 0.1 1.0001 0.1 -0.001 0.2\n\n"
    (root / "labels/train/one.txt").write_text(good + "0 0.9 0.5 0.3 0.1 7\n0 0.1 0.1 0.2 0.1 0.2 0.2 7\n")
    convert_dataset(root, tmp_path / "coco")
    (root / "labels/train/one.txt").write_text(good + line)
    with pytest.raises(DataError, match=rf"labels/train/one\.txt cannot be read \({words}"):
        convert_dataset(root, tmp_path / "coco2")


def test_images_outside_keep_their_folders(tmp_path):
    root = tmp_path / "yolo"
    root.mkdir()
    (root / "data.yaml").write_text("names: [dog]\ntrain: [../a/images, ../b/images]\nval: ../a/images\n")
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}/images").mkdir(parents=True)
        (tmp_path / f"{name}/images/1.bmp").write_bytes(bitmap(value))
    convert_dataset(root, tmp_path / "coco")
    assert label_of(tmp_path / "coco").keys() == {"train/a/images/1.bmp", "train/b/images/1.bmp", "val/1.bmp"}
    for name, value in (("a", 1), ("b", 2)):
        assert (tmp_path / f"coco/train/{name}/images/1.bmp").read_bytes() == bitmap(value)


def test_images_of_one_name_and_size(tmp_path):
    root, other = tmp_path / "yolo", tmp_path / "other"
    for folder, value in ((root / "train", 1), (other, 2)):
        folder.mkdir(parents=True)
        (folder / "1.bmp").write_bytes(bitmap(value))
    (root / "data.yaml").write_text(f"names: [dog]\ntrain: [train, {other}]\n")
    with pytest.raises(DataError, match=r"images .*other/1\.bmp and .*yolo/train/1\.bmp would get the same name"):
        convert_dataset(root, tmp_path / "coco")


def bitmap(value: int) -> bytes:
    """Files of one size, whatever the pixels."""
    return cv2.imencode(".bmp", np.full((H, W, 3), value, np.uint8))[1].tobytes()


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


class TestLabelsOfVoc:
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
    def test_by_folder(self, tmp_path, expected):
        root = write_voc(tmp_path / "voc", [image for image in expected if image], [*filter(None, expected.values())])
        convert_dataset(root, tmp_path / "coco")
        expected.pop("", None)
        assert label_of(tmp_path / "coco") == expected

    def test_masks_are_no_images(self, tmp_path):
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
    def test_which_is_unclear(self, tmp_path, images, labels, words):
        with pytest.raises(DataError, match=words):
            convert_dataset(write_voc(tmp_path / "voc", images, labels), tmp_path / "coco")


class TestLeftOut:
    def test_lists_of_voc(self, tmp_path):
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
    def test_empty_split_of_voc(self, tmp_path, text, words):
        root = write_voc(tmp_path / "voc", ["JPEGImages/1.jpg"], ["Annotations/1.xml"], {"train": "1", "val": text})
        with pytest.raises(DataError, match=words):
            convert_dataset(root, tmp_path / "coco")

    def test_list_with_a_stem_of_two_images(self, tmp_path):
        images = ["train/images/1.jpg", "val/images/1.jpg"]
        labels = ["train/annotations/1.xml", "val/annotations/1.xml"]
        root = write_voc(tmp_path / "voc", images, labels, {"train": "1", "val": "1"})
        convert_dataset(root, tmp_path / "coco")
        file = tmp_path / "coco/annotations/instances_val.json"
        assert [image["file_name"] for image in json.loads(file.read_text())["images"]] == ["val/images/1.jpg"]
        (root / "val").rename(root / "other")
        with pytest.raises(DataError, match=r"both .*other/images/1\.jpg and .*train/images/1\.jpg are called"):
            convert_dataset(root, tmp_path / "coco2")

    def test_labels_of_yolo(self, tmp_path):
        root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\n")
        assert "left out" not in convert_dataset(root, tmp_path / "coco")  # labels of images that data.yaml leaves out
        (root / "images/val/one.jpg").unlink()
        (root / "labels/train/three.txt").write_text("0 0.5 0.5 0.1 0.1")
        (root / "labels/classes.txt").write_text("a cat")
        last = convert_dataset(root, tmp_path / "coco2").splitlines()[-1]
        assert last == "Files of labels without an image, left out: 2 (labels/train/three.txt, labels/val/one.txt)"

    def test_empty_split_of_yolo(self, tmp_path):
        root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\nval: images/none\n")
        (root / "images/none").mkdir()
        with pytest.raises(DataError, match="names images/none for val, where no images are: correct it, or leave val"):
            convert_dataset(root, tmp_path / "coco")


def objects_of_split(root: Path, target: Path) -> set[str]:
    """Convert a set, and return the names of its images for training."""
    convert_dataset(root, target)
    content = json.loads((target / "annotations/instances_train.json").read_text())
    return {image["file_name"] for image in content["images"]}


class TestMistakes:
    def test_bad_labels_name_their_file(self, tmp_path):
        root = write_yolo(tmp_path / "yolo", "names: [a cat]\ntrain: images/train\nval: images/val\n")
        with pytest.raises(
            DataError, match=r"labels/train/one.txt cannot be read \(class 2, where there are 1 names\)"
        ):
            convert_dataset(root, tmp_path / "coco")
        (root / "labels/train/one.txt").write_text("0 0.5 nonsense 0.2 0.1")
        with pytest.raises(DataError, match=r"labels/train/one.txt cannot be read"):
            convert_dataset(root, tmp_path / "coco")
        assert [path.name for path in tmp_path.iterdir()] == ["yolo"]

    def test_bad_xml(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(gray(W, H))
        (tmp_path / "a.xml").write_text("<annotation><object></annotation>")
        with pytest.raises(DataError, match=r"a\.xml cannot be read"):
            convert_dataset(tmp_path, tmp_path / "coco")

    def test_broken_images_are_named_and_left_out(self, tmp_path, capsys):
        root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\nval: images/val\n")
        whole = objects_of_split(root, tmp_path / "whole")
        broken = root / "images/train/one.jpg"
        broken.write_bytes(b"")
        (root / "images/train/two.jpg").write_bytes(b"no image")
        with pytest.raises(SystemExit) as stop:
            convert.main([str(root), str(tmp_path / "coco")])
        assert stop.value.code == 3
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"left out: 2 images ({broken}, {root}/images/train/two.jpg)"
        left = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
        names = {image["file_name"] for image in left["images"]}
        assert names == whole - {"images/train/one.jpg", "images/train/two.jpg"}
        assert len(left["images"]) == len(names) == 2
        assert {one["image_id"] for one in left["annotations"]} <= {image["id"] for image in left["images"]}

    def test_nothing_but_broken_images(self, tmp_path):
        root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\n")
        for image in root.glob("images/*/*.*"):
            image.write_bytes(b"")
        with pytest.raises(DataError, match=r"Nothing is left: the image .* is in no format that is known"):
            convert_dataset(root, tmp_path / "coco")
        assert [path.name for path in tmp_path.iterdir()] == ["yolo"]

    def test_target_that_is_there(self, tmp_path):
        root = write_yolo(tmp_path / "yolo", "names: [a cat]\ntrain: images/train\nval: images/val\n")
        (tmp_path / "coco").mkdir()
        (tmp_path / "coco/mine.txt").touch()
        with pytest.raises(OutputError, match="is there already"):
            convert_dataset(root, tmp_path / "coco")

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("", "does not name its classes"),
            ("names: [a]\ntrain: images/tarin\n", "names images/tarin, which is not there"),
            ("names: [a]\ntrain: images/train\nkpt_shape: 17x3\n", r"kpt_shape in .* is '17x3': write \[NUMBER, 2\]"),
        ],
    )
    def test_incomplete_yolo(self, tmp_path, body, words):
        with pytest.raises(DataError, match=words):
            convert_dataset(write_yolo(tmp_path / "yolo", body), tmp_path / "coco")

    def test_other_folders(self, tmp_path, capsys):
        (tmp_path / "nothing").mkdir()
        with pytest.raises(SystemExit):
            convert.main([str(tmp_path / "nothing"), str(tmp_path / "coco")])
        assert "is in no format that can be converted" in capsys.readouterr().err

    def test_without_the_library(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "supervision.dataset.formats.yolo", None)
        with pytest.raises(RequirementError, match=r"pip install 'localvit_det\[convert\]'"):
            convert_dataset(write_yolo(tmp_path / "yolo", "names: [a, b, c]\ntrain: images/train\n"), tmp_path / "coco")
