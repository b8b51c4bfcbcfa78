"""What holds for converters of all formats: names of images, what is left out, and refusals."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_folder import gray
from yolo_set import NAMES, H, W, label_of, write_yolo

from localvit.commands import files
from localvit_det.datasets.converters import (
    CONVERTERS,
    Converter,
    Label,
    convert_dataset,
    convert_in_cache,
    converted_before,
)
from localvit_det.errors import DataError, OutputError

pytest.importorskip("supervision")


class Tables(Converter):
    """A format from outside of the package: a table next to the images, a line for each object."""

    name = "tables"
    signs = "objects.csv"

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        return (root / "objects.csv").is_file()

    def list_images(self) -> dict[str, list[tuple[Path, Path]]]:
        return {"train": [(image, self.root / "objects.csv") for image in sorted(self.root.glob("*.jpg"))]}

    def read_labels(self, file: Path, size: tuple[int, int], image: Path) -> Iterator[Label]:
        for line in file.read_text().splitlines():
            name, *box = line.split(",")
            yield Label(name, tuple(map(float, box)))


def test_a_format_from_outside(tmp_path, monkeypatch, cache):
    root = tmp_path / "tables"
    root.mkdir()
    (root / "a.jpg").write_bytes(gray(W, H))
    (root / "objects.csv").write_text("dog,10,20,30,50\n")
    with pytest.raises(DataError, match=r"is in no format that can be converted: YOLO has data\.yaml"):
        convert_dataset(root, tmp_path / "coco")
    monkeypatch.setattr("localvit_det.datasets.converters.CONVERTERS", [*CONVERTERS, Tables])
    assert (first := convert_in_cache(root)).name == "tables"
    assert converted_before(root) == first
    with monkeypatch.context() as edited:
        edited.setattr("inspect.getsource", lambda converter: f"class {converter.__name__}: ...")
        assert converted_before(root) is None
    os.utime(root / "objects.csv", ns=(0, 0))
    assert converted_before(root) is None
    assert convert_dataset(root, tmp_path / "coco").splitlines()[1] == "train: 1 images, 1 objects"
    content = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert content["annotations"][0]["bbox"] == [10, 20, 20, 30]
    (root / "objects.csv").write_text("dog,x\n")
    with pytest.raises(DataError, match=r"The labels .*objects\.csv cannot be read \(could not convert"):
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


def objects_of_split(root: Path, target: Path) -> set[str]:
    """Convert a set, and return the names of its images for training."""
    convert_dataset(root, target)
    content = json.loads((target / "annotations/instances_train.json").read_text())
    return {image["file_name"] for image in content["images"]}


def test_broken_images_are_named_and_left_out(tmp_path, capsys):
    root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\nval: images/val\n")
    whole = objects_of_split(root, tmp_path / "whole")
    broken = root / "images/train/one.jpg"
    broken.write_bytes(b"")
    (root / "images/train/two.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        files.convert([str(root), str(tmp_path / "coco")])
    assert stop.value.code == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"left out: 2 images ({broken}, {root}/images/train/two.jpg)"
    left = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    names = {image["file_name"] for image in left["images"]}
    assert names == whole - {"images/train/one.jpg", "images/train/two.jpg"}
    assert len(left["images"]) == len(names) == 2
    assert {one["image_id"] for one in left["annotations"]} <= {image["id"] for image in left["images"]}


def test_nothing_but_broken_images(tmp_path):
    root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\n")
    for image in root.glob("images/*/*.*"):
        image.write_bytes(b"")
    with pytest.raises(DataError, match=r"Nothing is left: the image .*jpg is empty"):
        convert_dataset(root, tmp_path / "coco")
    assert [path.name for path in tmp_path.iterdir()] == ["yolo"]


def test_target_that_is_there(tmp_path):
    root = write_yolo(tmp_path / "yolo", "names: [a cat]\ntrain: images/train\nval: images/val\n")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/mine.txt").touch()
    with pytest.raises(OutputError, match="is there already"):
        convert_dataset(root, tmp_path / "coco")
