"""What names of files and folders say, one rule at a time."""

import json
import os

import pytest

from localvit_det.datasets import layouts
from localvit_det.datasets.layouts import (
    Folders,
    absent_images,
    assign,
    change_of,
    layout_name,
    look_into,
    split_of,
    walk,
)
from localvit_det.errors import DataError

COCO = json.dumps({"images": [], "annotations": [], "categories": []})


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("train/val/x.json", "val"),  # the last part that says something
        ("valid/_annotations.coco.json", "val"),
        ("dev.json", "val"),
        ("Testing-1.json", "test"),
        ("trainval.json", None),
        ("train_val.json", None),  # both
        ("train_val/test.json", "test"),
        ("test/train_val.json", "test"),
        ("training_train.json", "train"),
        ("result.json", None),
        ("", None),
    ],
)
def test_split_of_a_name(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("jsons", "chosen"),
    [
        (["train.json", "val.json"], {"train": "train.json", "val": "val.json"}),
        (["all.json", "train.json"], {"train": "train.json"}),
        (["all.json"], {"all": "all.json"}),
        (["a/instances_train.json", "a/other_train.json"], {"train": "a/instances_train.json"}),
        (["train/_annotations.coco.json", "train/x.json"], {"train": "train/_annotations.coco.json"}),
        (
            ["a_train.json", "b_train.json", "val.json"],
            "several annotation files for train (a_train.json, b_train.json)",
        ),
        (["a.json", "b.json"], "has several annotation files (a.json, b.json)"),
        ([], "holds no annotation file"),
    ],
)
def test_which_file_is_of_which_split(tmp_path, jsons, chosen):
    found = Folders(tmp_path, jsons=jsons)
    if isinstance(chosen, dict):
        assert assign(found) == chosen
    else:
        with pytest.raises(DataError) as error:
            assign(found)
        assert chosen in str(error.value)


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["train/_annotations.coco.json", "valid/_annotations.coco.json"], "Roboflow's layout"),
        (["train/_annotations.coco.json", "val.json"], "files in COCO's format"),
        (["annotations/instances_train2017.json", "x.json"], "COCO's layout"),
        (["annotations/instances_Train.json"], "CVAT's layout"),
        (["annotations/instances_Train.json", "annotations/y.json"], "files in COCO's format"),
        (["labels/instances_Train.json"], "files in COCO's format"),
        (["a/result.json"], "Label Studio's layout"),
        (["a/result.json", "b/result.json"], "files in COCO's format"),
    ],
)
def test_whose_layout(names, layout):
    assert layout_name(dict(enumerate(names))) == layout


def test_what_is_looked_at(tmp_path):
    for name in ("a.json", "x/b.json", "1/2/3/4/c.json", "1/2/3/4/5/d.json", ".hidden/e.json", ".f.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(COCO)
    for name in ("captions_train.json", "person_keypoints_val.json", "image_info_test.json"):
        (tmp_path / name).write_text(COCO)
    (tmp_path / "g.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "photos").mkdir()
    for name in ("b.PNG", "a.jpg", "c.txt", ".d.jpeg"):
        (tmp_path / "photos" / name).touch()
    found = look_into(tmp_path)
    assert found.jsons == ["a.json", "1/2/3/4/c.json", "x/b.json"]
    assert found.images == {"photos": [".d.jpeg", "a.jpg", "b.PNG"]}
    assert found.described() == "images in photos/ (3)"
    assert Folders(tmp_path).described() == "no images"
    seven = Folders(tmp_path, images={"": ["a"], **{str(i): ["a", "b"] for i in range(7)}})
    assert seven.described() == "images in ./ (1), 0/ (2), 1/ (2), 2/ (2), 3/ (2), 4/ (2) and 2 more folders"


@pytest.mark.parametrize(("count", "seen"), [(20, 20), (21, 0)])
def test_a_file_for_each_image_is_passed_over(tmp_path, count, seen):
    for i in range(count):
        (tmp_path / f"{i}.json").write_text(COCO)
    assert len(look_into(tmp_path).jsons) == seen


def test_links_are_followed_without_end(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "link").symlink_to(tmp_path / "a/b")
    folders = [os.path.relpath(folder, tmp_path) for folder, _ in walk(tmp_path)]
    assert folders == [".", "a", "a/b", "link", "link/up"]
    assert [folder.name for folder, _ in walk(tmp_path / "a", depth=0)] == ["a"]


def test_a_few_ways_to_one_folder(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    for i in range(10):
        (tmp_path / f"link{i}").symlink_to(tmp_path / "a/b")
    assert len(list(walk(tmp_path))) == 2 + 8


def test_too_many_folders(tmp_path, monkeypatch):
    for i in range(6):
        (tmp_path / str(i)).mkdir()
    assert len(list(walk(tmp_path))) == 7
    monkeypatch.setattr(layouts, "_MAX_FOLDERS", 5)
    with pytest.raises(DataError, match="has over 5 folders"):
        list(walk(tmp_path))


def test_absent_images(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").touch()
    (tmp_path / "2.jpg").touch()
    names = ["a/1.jpg", "2.jpg", "a/2.jpg", "b/1.jpg", "1.jpg"]
    assert sorted(absent_images(tmp_path, names)) == ["1.jpg", "a/2.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    ("name", "path", "change"),
    [
        ("a/x.jpg", "b/x.jpg", ""),
        ("a\\x.jpg", "b/x.jpg", ""),
        ("x%20y.jpg", "x y.jpg", ""),
        ("x.jpg", "x.JPG", "case"),
        ("e\N{COMBINING ACUTE ACCENT}.jpg", "é.jpg", "Unicode form"),
    ],
)
def test_kind_of_correction(name, path, change):
    assert change_of(name, path) == change


@pytest.mark.parametrize("split", ["train", "val"])
def test_of_equal_names_that_of_the_own_split_is_meant(split):
    candidates = ["train/images/a.jpg", "val/images/a.jpg"]
    assert layouts._nearest(layouts._Name.of("a.jpg"), candidates, split) == f"{split}/images/a.jpg"
    assert layouts._nearest(layouts._Name.of("a.jpg"), candidates, None) is None
