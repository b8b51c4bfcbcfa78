"""Folders and files of others that were made to take all time or memory: each is refused at once, in a sentence."""

import io
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from localvit_det.datasets.converters import convert_dataset
from localvit_det.datasets.images import BrokenImageError, decode, read_header
from localvit_det.datasets.layouts import look_into, walk_folders
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
        convert_dataset(root, root.parent / "coco")
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
    "name of two classes": ("names: [a, b, a]\ntrain: images\n", "has 2 classes of the name 'a'"),
    "name of two numbers": ("names: {0: a, 1: a}\ntrain: images\n", "has 2 classes of the name 'a'"),
    "path that is too long": (f"names: [a]\ntrain: {'x' * 300}\n", "is not there"),
    "path with a zero": ('names: [a]\ntrain: "a\\0b"\n', "is not there"),
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
    "polygon of seven numbers": ITEM.format(
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
        "<polygon><x1>1</x1><y1>1</y1><x2>5</x2><y2>1</y2><x3>5</x3><y3>5</y3><x4>3</x4></polygon>"
    ),
    "polygon of nothing": ITEM.format("<polygon><x1/></polygon>"),
    "tag without an end": "<annotation><object></annotation>",
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
    convert_dataset(root, tmp_path / "converted")
    assert [path.name for path in (tmp_path / "converted/images").iterdir()] == ["a.png"]
    assert look_into(root).jsons == []
    with pytest.raises(BrokenImageError, match="is no file"):
        read_header(root / "images/b.jpg")
    os.mkfifo(root / "data.yaml")
    convert_dataset(root, tmp_path / "again")
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
    assert len(list(walk_folders(root))) == 3
    assert set(look_into(root).images) == {"images"}
    convert_dataset(root, tmp_path / "coco")
    assert len(list((tmp_path / "coco").rglob("*.png"))) == 1


def test_ways_that_double(tmp_path):
    """Twenty folders with two links each to the next one: a million paths."""
    root = tmp_path / "set"
    for number in range(20):
        (root / f"{number:02d}").mkdir(parents=True)
        for way in "ab" if number else ():
            (root / f"{number - 1:02d}/{way}").symlink_to(root / f"{number:02d}")
    assert len(list(walk_folders(root))) <= 8 * 20 + 1
    # Splits may be links to one folder.
    for split in ("train", "val"):
        (tmp_path / f"other/{split}").parent.mkdir(exist_ok=True)
        (tmp_path / f"other/{split}").symlink_to(root / "19")
    assert [folder.name for folder, _ in walk_folders(tmp_path / "other")] == ["other", "train", "val"]


def hdr(width: int, height: int) -> bytes:
    """An image that OpenCV decodes and Pillow does not know."""
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (height, width) + bytes(4 * width * height)


def webp(kind: str) -> bytes:
    """A WebP of one color, as PIL writes it, that says it had 16,000 x 16,000 pixels."""
    stream = io.BytesIO()
    image = Image.new("RGBA" if kind == "VP8X" else "RGB", (8, 8))
    image.save(stream, "WEBP", lossless=kind == "VP8L", **({"exif": b"Exif\0\0"} if kind == "VP8X" else {}))
    content = bytearray(stream.getvalue())
    assert content[12:16] == kind.encode()
    side = 16_000
    if kind == "VP8X":
        content[24:30] = 2 * (side - 1).to_bytes(3, "little")
    elif kind == "VP8L":
        bits = int.from_bytes(content[21:25], "little") & ~0xFFFFFFF | side - 1 | side - 1 << 14
        content[21:25] = bits.to_bytes(4, "little")
    else:
        content[26:30] = 2 * side.to_bytes(2, "little")
    return bytes(content)


@pytest.mark.parametrize("kind", ["VP8X", "VP8L", "VP8 "])
def test_webp_is_measured_before_it_is_opened(kind, monkeypatch, tmp_path):
    (tmp_path / "a.webp").write_bytes(webp(kind))
    monkeypatch.setattr(Image, "open", None)
    for file in (tmp_path / "a.webp", webp(kind)):
        with pytest.raises(BrokenImageError, match="has 16000 x 16000 pixels"):
            read_header(file)


def test_size_of_webp_is_pillows():
    for options in ({}, {"lossless": True}, {"exif": b"Exif\0\0"}):
        Image.new("RGB", (31, 17)).save(stream := io.BytesIO(), "WEBP", **options)
        with pytest.raises(BrokenImageError, match="has 31 x 17 pixels"):
            read_header(stream.getvalue(), limit=31 * 17 - 1)
        assert read_header(stream.getvalue(), limit=31 * 17).stored == (31, 17)


def test_png_with_a_chunk_that_announces_gigabytes(monkeypatch):
    content = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    assert decode(content + b"more").shape == (8, 8, 3)
    at = content.index(b"IDAT") - 4
    wrong = content[:at] + (1 << 30).to_bytes(4, "big") + content[at + 4 :]
    monkeypatch.setattr(cv2, "imdecode", None)
    for broken in (wrong, content[:-14]):
        with pytest.raises(BrokenImageError, match="is a PNG that is cut off"):
            decode(broken)


def test_images_that_do_not_tell_their_size():
    with pytest.raises(BrokenImageError, match="does not tell its size"):
        decode(hdr(8, 8))
    there, content = cv2.imencode(".tiff", np.full((7, 9, 3), 1000, np.uint16))
    assert there
    assert decode(content.tobytes()).shape == (7, 9, 3)
    with pytest.raises(BrokenImageError, match="has 9 x 7 pixels, over the limit of 60"):
        decode(content.tobytes(), limit=60)
