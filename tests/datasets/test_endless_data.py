"""Folders and files of others that were made to take all time or memory: each is refused at once, in a sentence."""

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from localvit_det.datasets.images import BrokenImageError, decode, read_header
from localvit_det.datasets.layouts import look_into, walk
from localvit_det.datasets.to_coco import convert_set
from localvit_det.errors import DataError


@pytest.fixture(autouse=True)
def quick():
    start = time.process_time()
    yield
    assert time.process_time() - start < 2


def yolo(root: Path, data: str | None = "names: [a]\ntrain: images\n", labels: str = "0 0.5 0.5 0.2 0.2\n") -> Path:
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    cv2.imwrite(str(root / "images/a.png"), np.zeros((8, 8, 3), np.uint8))
    (root / "labels/a.txt").write_text(labels)
    if data is not None:
        (root / "data.yaml").write_text(data)
    return root


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        convert_set(root, root.parent / "coco")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (root.parent / "coco").exists()
    return str(caught.value)


LETTERS = list(zip("abcdefghijk", "bcdefghijkl", strict=True))
LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in LETTERS)
MERGES = "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}]}}\n" for a, b in LETTERS)
DATA = {
    "aliases": (LAUGHS + "names: *l\ntrain: images\n", "has an alias"),
    "merges": (MERGES + "names: [a]\ntrain: images\n", "has an alias"),
    "nested deep": ("names: " + "[" * 100_000, "nest"),
    "digits": ("nc: " + "9" * 5000 + "\nnames: [a]\ntrain: images\n", "cannot be read as YAML"),
    "class of a large number": ("names: {99999999999: a}\ntrain: images\n", "has numbers that are not from 0 to"),
    "class of a negative number": ("names: {-5: a}\ntrain: images\n", "has numbers that are not from 0 to"),
    "megabytes": ("names: [a]\ntrain: images\n#" + "x" * (1 << 20), "where at most"),
    "object of Python": ("names: !!python/object/apply:os.getcwd []\ntrain: images\n", "cannot be read as YAML"),
    "number for a folder": ("names: [a]\ntrain: 7\n", "has no folder for train"),
    "folder of folders": ("names: [a]\ntrain: [[images]]\n", "has no folder for train"),
    "device for a list": ("names: [a]\ntrain: /dev/zero\n", "is no file"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_yaml(case, tmp_path):
    data, words = DATA[case]
    assert words in refusal(yolo(tmp_path / "set", data))


@pytest.mark.parametrize("word", ["9" * 5000, "9" * 4000, "1e5", "x", "nan"])
def test_class_of_a_label(word, tmp_path):
    pytest.importorskip("supervision")
    assert "for a class" in refusal(yolo(tmp_path / "set", labels=f"{word} 0.5 0.5 0.2 0.2\n"))


def test_label_of_gigabytes(tmp_path):
    pytest.importorskip("supervision")
    root = yolo(tmp_path / "set")
    os.truncate(root / "labels/a.txt", 100 << 30)  # takes no room on the disk
    assert "bytes, where at most" in refusal(root)


def voc(root: Path, text: str) -> Path:
    root.mkdir()
    cv2.imwrite(str(root / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (root / "a.xml").write_text(text)
    return root


ITEM = "<annotation><object><name>a</name>{}</object></annotation>"
XML = {
    "entities": '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>',
    "file of others": '<!DOCTYPE x [<!ENTITY a SYSTEM "/etc/passwd">]><annotation>&a;</annotation>',
    "nothing in it": "<annotation><object></object></annotation>",
    "digits": ITEM.format("<bndbox><xmin>" + "9" * 5000 + "</xmin></bndbox>"),
    "polygon of nothing": ITEM.format("<polygon><x1/></polygon>"),
}


@pytest.mark.parametrize("case", XML)
def test_xml(case, tmp_path):
    pytest.importorskip("supervision")
    assert "cannot be read" in refusal(voc(tmp_path / "set", XML[case]))


def test_pipes_are_no_files(tmp_path):
    pytest.importorskip("supervision")
    root = yolo(tmp_path / "set", data=None)
    (root / "classes.txt").write_text("a\n")
    for name in ("images/b.jpg", "labels/b.txt", "other.yaml", "c.xml", "annotations.json"):
        os.mkfifo(root / name)
    convert_set(root, tmp_path / "converted")
    assert [path.name for path in (tmp_path / "converted/images").iterdir()] == ["a.png"]
    assert look_into(root).jsons == []
    with pytest.raises(BrokenImageError, match="is no file"):
        read_header(root / "images/b.jpg")
    os.mkfifo(root / "data.yaml")
    convert_set(root, tmp_path / "again")
    named = yolo(tmp_path / "named", "names: [a]\ntrain: list.txt\n")
    os.mkfifo(named / "list.txt")
    assert "is no file" in refusal(named)


def test_links_to_the_own_folder(tmp_path):
    pytest.importorskip("supervision")
    root = yolo(tmp_path / "set", data=None)
    (root / "classes.txt").write_text("a\n")
    for number in range(40):
        (root / f"images/again{number}").symlink_to(root)
    (root / "nowhere").symlink_to(root / "nowhere")
    assert len(list(walk(root))) == 3
    assert set(look_into(root).images) == {"images"}
    convert_set(root, tmp_path / "coco")
    assert len(list((tmp_path / "coco").rglob("*.png"))) == 1


def test_ways_that_double(tmp_path):
    """Twenty folders with two links each to the next one: a million paths."""
    root = tmp_path / "set"
    for number in range(20):
        (root / f"{number:02d}").mkdir(parents=True)
        for way in "ab" if number else ():
            (root / f"{number - 1:02d}/{way}").symlink_to(root / f"{number:02d}")
    assert len(list(walk(root))) <= 8 * 20 + 1
    # Splits may be links to one folder.
    for split in ("train", "val"):
        (tmp_path / f"other/{split}").parent.mkdir(exist_ok=True)
        (tmp_path / f"other/{split}").symlink_to(root / "19")
    assert [folder.name for folder, _ in walk(tmp_path / "other")] == ["other", "train", "val"]


def test_more_folders_than_any_set_has(tmp_path, monkeypatch):
    for number in range(12):
        (tmp_path / f"{number}").mkdir()
    monkeypatch.setattr("localvit_det.datasets.layouts._MAX_FOLDERS", 10)
    with pytest.raises(DataError, match="has over 10 folders"):
        list(walk(tmp_path))


def hdr(width: int, height: int) -> bytes:
    """An image that OpenCV decodes and Pillow does not know."""
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (height, width) + bytes(4 * width * height)


def test_images_that_do_not_tell_their_size():
    with pytest.raises(BrokenImageError, match="does not tell its size"):
        decode(hdr(8, 8))
    there, content = cv2.imencode(".tiff", np.full((7, 9, 3), 1000, np.uint16))
    assert there
    assert decode(content.tobytes()).shape == (7, 9, 3)
    with pytest.raises(BrokenImageError, match="has 9 x 7 pixels, over the limit of 60"):
        decode(content.tobytes(), limit=60)
