"""What names of files and folders say, and the files that names in annotation files mean."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from localvit_det.datasets import layouts
from localvit_det.datasets.layouts import (
    Folders,
    assign,
    change_of,
    find_images,
    layout_name,
    look_into,
    split_of,
    walk_folders,
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
    folders = [os.path.relpath(folder, tmp_path) for folder, _ in walk_folders(tmp_path)]
    assert folders == [".", "a", "a/b", "link", "link/up"]
    assert [folder.name for folder, _ in walk_folders(tmp_path / "a", depth=0)] == ["a"]


def test_too_many_folders(tmp_path, monkeypatch):
    for i in range(6):
        (tmp_path / str(i)).mkdir()
    assert len(list(walk_folders(tmp_path))) == 7
    monkeypatch.setattr(layouts, "_MAX_FOLDERS", 5)
    with pytest.raises(DataError, match="has over 5 folders"):
        list(walk_folders(tmp_path))


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


FRAMES = [f"frame{number:04d}.jpg" for number in range(20)]
CAMERAS = [f"cam{camera}/{frame}" for camera in (1, 2) for frame in FRAMES]


@pytest.fixture
def found(tmp_path):
    """What `find_images` makes of files and names: the path of each name, or the sentence of the error."""

    def find(files: list[str], names: list[str], ann_file: str = "train.json") -> dict[str, str] | str:
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        try:
            folder, renames = find_images(look_into(tmp_path), ann_file, names)
        except DataError as error:
            return str(error)
        return {name: Path(folder, renames.get(name, name)).as_posix() for name in names}

    return find


def below(folder: str, names: list[str] = FRAMES) -> list[str]:
    return [f"{folder}/{name}" for name in names]


@pytest.mark.parametrize(
    ("files", "names", "words"),
    [
        (below("cam2"), CAMERAS, ("lacks 20 of the 40", "cam1/frame0000.jpg: cam2/frame0000.jpg is not taken")),
        (FRAMES, CAMERAS, ("fewer images than the 40", "cam1/frame0000.jpg and cam2/frame0000.jpg would both")),
        (below("train"), CAMERAS, ("cam1/frame0000.jpg and cam2/frame0000.jpg would both be train/frame0000.jpg",)),
        (below("images"), CAMERAS, ("lacks 40 of the 40",)),
        (below("cam2"), below("cam1"), ("lacks 20 of the 20",)),
        # A camera's frames have names of their own, and the other one's folder has all of them.
        (below("cam2"), [*below("cam1", FRAMES[:10]), *below("cam2", FRAMES[10:])], ("lacks 10 of the 20",)),
        (below("cam2"), [*below("/a/cam1", FRAMES[:10]), *below("/a/cam2", FRAMES[10:])], ("lacks 10 of the 20",)),
        (below("b/images"), [*below("a/images"), *below("b/images")], ("lacks 20 of the 40",)),
        (below("val2017"), below("train2017"), ("lacks 20 of the 20",)),
        (below("images", FRAMES[:1]), ["images/frame0000.jpg", "images\\frame0000.jpg"], ("would both be images/",)),
        (["elsewhere.jpg"], FRAMES, ("has none of the 20 images",)),
    ],
)  # fmt: skip
def test_contradictions_are_refused(found, files, names, words):
    sentence = found(files, names)
    assert isinstance(sentence, str)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (below("images", CAMERAS), CAMERAS),
        (below("train2017"), below("train2017")),
        (below("images"), below("train2017")),
        (below("photos"), below("/home/anna/pictures")),
        (below("photos"), below("C:\\data\\pictures".replace("\\", "/"))),
        (below("photos"), [name.replace("/", "\\") for name in below("D:/data")]),
        (below("photos"), [f"{name}?token=1#top" for name in below("https://host/bucket")]),
        (below("images"), [*below("/a/2020", FRAMES[:10]), *below("/a/2021", FRAMES[10:])]),  # gathered in one folder
        ([f"day{index % 2}/{frame}" for index, frame in enumerate(FRAMES)], FRAMES),
        (below("photos", [f"one {frame}" for frame in FRAMES]), [f"one%20{frame}" for frame in FRAMES]),
        (below("photos", [frame.replace("jpg", "JPG") for frame in FRAMES]), FRAMES),
        (below("photos", [f"e\N{COMBINING ACUTE ACCENT}{f}" for f in FRAMES]), [f"é{f}" for f in FRAMES]),
        (below("photos", [f"é{frame}" for frame in FRAMES]), [unicodedata.normalize("NFD", f"é{f}") for f in FRAMES]),
    ],
)  # fmt: skip
def test_each_name_gets_its_file(found, tmp_path, files, names):
    paths = found(files, names)
    assert isinstance(paths, dict), paths
    assert sorted(paths.values()) == sorted(files)
    for (name, path), file in zip(paths.items(), files, strict=True):
        assert path == file, name


def test_images_of_another_split_do_not_stand_in(found):
    paths = found([*below("train", FRAMES[1:]), *below("val")], FRAMES)
    assert set(paths.values()) == set(below("train"))


def test_images_of_another_folder_do_not_stand_in(found):
    paths = found([*below("one", FRAMES[1:]), *below("two", FRAMES[:5])], FRAMES)  # two/ has others of the same names
    assert set(paths.values()) == set(below("one"))


def test_mixed_letter_case(found):
    files = [f"photos/{frame.replace('jpg', 'JPG') if index % 2 else frame}" for index, frame in enumerate(FRAMES)]
    assert list(found(files, FRAMES).values()) == files
