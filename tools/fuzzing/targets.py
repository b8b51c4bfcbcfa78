"""Who reads the changed files: five targets, each with valid files to begin with."""

import argparse
import io
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import cv2
import numpy as np
import safetensors.torch
import torch
import yaml
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from PIL import Image

from localvit_det.checkpoint.exported import is_exported
from localvit_det.checkpoint.layouts import weights_in
from localvit_det.checkpoint.read import classes_in, load_weights_only, saved_classes
from localvit_det.checkpoint.safe_config import read_config
from localvit_det.datasets.annotations import forget_annotations, read_annotations
from localvit_det.datasets.converters import convert_dataset
from localvit_det.datasets.images import BrokenImageError, decode, read_depth, read_header
from localvit_det.datasets.normalize import normalized
from localvit_det.errors import UserError
from localvit_det.evaluation.coco import GroundTruth
from localvit_det.files import CACHE
from localvit_det.predict.readers import read_pages
from localvit_det.preflight.data import find_problems

from .mutations import (
    TEXTS,
    change_bytes,
    change_pickle,
    change_tree,
    change_xml,
    change_zip,
    join_safetensors,
    split_safetensors,
)

OUR_ERRORS = (UserError, BrokenImageError)
Seed = tuple[str, bytes]  # suffix and content of a valid file
_MAX_PIXELS = 1_000_000
_LABELS = b"\n# labels\n"  # between data.yaml and a file of labels
_SIZE = (100, 80)


class Target(NamedTuple):
    """One kind of files.

    Attributes:
        prepare: Write what is needed next to an input into a folder, and return valid files.
        change: Return the content of a file with one change.
        read: Read a file that lies in the folder.
    """

    prepare: Callable[[Path], list[Seed]]
    change: Callable[[Random, str, bytes, Sequence[bytes]], bytes]
    read: Callable[[Path, Path], None]


def _checkpoints(folder: Path) -> list[Seed]:
    history = HistoryBuffer([1.0, 0.5], [1, 1])
    weights = {"backbone.a.weight": torch.ones(4, 3), "backbone.a.bias": torch.zeros(4), "b": torch.ones(2).half()}
    text = (
        "model = dict(type='RetinaNet', backbone=dict(type='DWNet', depths=(1, 1)))\nval_dataloader = dict(a=[1.5])\n"
    )
    trained = {
        "meta": {"epoch": 1, "cfg": text, "dataset_meta": {"classes": ("cat", "dog"), "palette": [(1, 2, 3)]}},
        "state_dict": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "message_hub": {"log_scalars": {"loss": history}, "resumed_keys": {}, "runtime_info": {"lr": np.float64(0.1)}},
    }
    official = {"model": weights, "args": argparse.Namespace(lr=0.1, path=Path("x")), "epoch": 3}
    found = []
    for content in (trained, official, weights):
        for modern, protocol in ((True, 2), (False, 2), (True, 4)):
            stream = io.BytesIO()
            torch.save(content, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
            found.append((".pt", stream.getvalue()))
    return [*found, (".pkl", pickle.dumps({"a": [1, (2, "x")]})), (".safetensors", safetensors.torch.save(weights))]


def _change_checkpoint(random: Random, suffix: str, content: bytes, others: Sequence[bytes]) -> bytes:
    if suffix == ".safetensors" and random.random() < 0.7:
        header, tensors = split_safetensors(content)
        try:
            header = json.dumps(change_tree(random, json.loads(header))).encode()
        except (ValueError, RecursionError):
            header = change_bytes(random, header, others)
        return join_safetensors(header, tensors)
    if content.startswith(b"PK") and random.random() < 0.8:
        return change_zip(random, content)
    return (change_pickle if random.random() < 0.5 else lambda *a: change_bytes(*a, others))(random, content)


def _read_checkpoint(folder: Path, file: Path) -> None:
    is_exported(file)
    content = load_weights_only(file)
    classes_in(content)
    weights_in(content)
    saved_classes(file)  # another way to the disk
    if isinstance(content.get("meta"), dict) and "cfg" in content["meta"]:
        read_config(content, file)


def _annotations(folder: Path) -> list[Seed]:
    os.environ[CACHE] = str(folder / "cache")
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (1, 2)]
    (folder / "images").mkdir()
    for image in images:
        Image.new("RGB", _SIZE).save(folder / "images" / image["file_name"])
    shapes = [
        [[60, 40, 90, 40, 90, 60.5]],
        [[60, 40, 90, 40, 90, 60], [1, 1, 9, 1, 9, 9, 1, 9]],
        {"size": [80, 100], "counts": [100, 20, 7880]},
        {"size": [80, 100], "counts": "T3d0Xf7"},
    ]
    boxes = [
        dict(id=i, image_id=1 + i % 2, category_id=1 + i % 2, bbox=[60, 40, 30, 20], area=600, segmentation=shape)
        for i, shape in enumerate(shapes, 1)
    ]
    categories = [{"id": 1, "name": "cat", "supercategory": "none"}, {"id": 2, "name": "dog"}]
    plain = {"images": images, "categories": categories, "annotations": [{**box, "iscrowd": 0} for box in boxes]}
    lacking = {**plain, "annotations": [*boxes, {**boxes[0], "iscrowd": 1}]}
    parent = {"categories": [{"id": 0, "name": "all"}, *({**one, "supercategory": "all"} for one in categories)]}
    return [(".json", json.dumps(one).encode()) for one in (plain, lacking, {**plain, **parent})]


_JSON = tuple(b'[ ] { } , : "id" NaN -Infinity 1e999 \\u0000 \\ud800 \xef\xbb\xbf \xff\xfe 007 1. -'.split())


def _change_json(random: Random, suffix: str, content: bytes, others: Sequence[bytes]) -> bytes:
    if random.random() < 0.9:
        try:
            return json.dumps(change_tree(random, json.loads(content))).encode()
        except (ValueError, RecursionError):
            pass
    return change_bytes(random, content, others, _JSON)


def _with_shape(results: dict) -> dict:
    """Return what an image adds when it is loaded."""
    shape = results["height"], results["width"]
    return {**results, "img_shape": shape, "ori_shape": shape}


def _read_annotations(folder: Path, file: Path) -> None:
    """Check a file as trainings and evaluations do; what passes has to be read by both."""
    forget_annotations()
    shutil.rmtree(folder / "cache", ignore_errors=True)
    load = {"type": "mmdet.LoadAnnotations", "with_bbox": True, "with_mask": True}
    for split, order in (("train", ()), ("val", ("dog", "cat"))):
        copy = normalized(file, order=order)[0]
        classes = read_annotations(copy).categories
        dataset = {"ann_file": str(copy), "data_prefix": {"img": str(folder / "images")}, "pipeline": [load]}
        dataset.update(type="CocoDataset", metainfo={"classes": classes}, test_mode=split == "val")
        evaluator = {"type": "CocoMetric", "ann_file": str(copy), "metric": ["bbox", "segm"]}
        settings = {f"{split}_dataloader": {"dataset": dataset}, f"{split}_evaluator": evaluator}
        for mistake in find_problems(Config({**settings, "max_pixels": _MAX_PIXELS}), split):
            raise mistake
        del dataset["type"]
        loaded = CocoDataset(**{**dataset, "pipeline": [_with_shape, load]}, serialize_data=False)
        for index in range(len(loaded)):
            loaded[index]
        if split == "val":
            truth = GroundTruth(json.loads(copy.read_bytes()), None, classes, masks=True)
            for annotation in truth.dataset["annotations"]:
                truth.annToMask(annotation)


def _yolo(folder: Path) -> list[Seed]:
    for place in ("images/train", "images/val", "labels/train"):
        (folder / "set" / place).mkdir(parents=True)
        if place.startswith("images"):
            Image.new("RGB", _SIZE).save(folder / f"set/{place}/a.png")
    places = {"train": "images/train", "val": ["images/val"]}
    contents = [
        ({**places, "names": ["cat", "dog", "traffic light"]}, b"0 0.5 0.5 0.25 0.1\n2 0.1 0.2 0.3 0.2 0.25 0.45\n"),
        ({**places, "names": {0: "cat", 1: "dog"}, "path": ".", "nc": 2}, b"1 0.333333 0.71234 0.123456 0.2 0.9\n"),
        ({**places, "names": {0: "cat"}, "kpt_shape": [2, 3]}, b"0 .5 .5 .2 .2 .4 .4 2 .6 .6 1\n"),
    ]
    return [(".yaml", yaml.safe_dump(one).encode() + _LABELS + labels) for one, labels in contents]


_YAML = (
    *b"&a *a <<: ? - : ! | > % @ !!python/object:os.system !!binary 2001-01-01 1:60 .inf 0o7 ~ { [ ] }".split(),
    *(b"---\n", b"...\n", b"\t", b"\r", b"  ", b"!!set ", b"!!omap ", b"\x85", b"\xef\xbb\xbf", b"\xff\xfe"),
)  # fmt: skip


def _change_yaml(random: Random, suffix: str, content: bytes, others: Sequence[bytes]) -> bytes:
    text, _, labels = content.partition(_LABELS)
    if random.random() < 0.4:
        words = labels.split(b" ")
        words[random.randrange(len(words))] = random.choice(TEXTS).encode()
        labels = b" ".join(words) if random.random() < 0.7 else change_bytes(random, labels, others)
        return text + _LABELS + labels
    if random.random() < 0.6:
        try:
            tree = change_tree(random, yaml.safe_load(text))
            return yaml.safe_dump(tree, allow_unicode=True).encode(errors="surrogatepass") + _LABELS + labels
        except Exception:  # an earlier change has broken it
            pass
    return change_bytes(random, text, others, _YAML) + _LABELS + labels


def _read_yolo(folder: Path, file: Path) -> None:
    text, _, labels = file.read_bytes().partition(_LABELS)
    (folder / "set/data.yaml").write_bytes(text)
    (folder / "set/labels/train/a.txt").write_bytes(labels)
    _convert(folder)


def _convert(folder: Path) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)
    convert_dataset(folder / "set", folder / "out")
    for written in (folder / "out/annotations").iterdir():
        try:
            read_annotations(written)
        except UserError as error:
            raise AssertionError("what was converted cannot be read") from error


_OBJECT = (
    "<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>9</ymin><xmax>{}</xmax>"
    "<ymax>60</ymax></bndbox>{}</object>"
)
_POLYGON = "<polygon><x1>10</x1><y1>10</y1><x2>50.5</x2><y2>10</y2><x3>50</x3><y3>60</y3></polygon>"
_XML = (
    *b"&b; &#0; &#x110000; <![CDATA[ ]]> <!-- xmlns:a='b' </object> <object> <polygon> <name/> <xmin/>".split(),
    *(b'<!DOCTYPE a [<!ENTITY b "c">]>', b"<?xml version='1.0' encoding='utf-16'?>", b"\xff\xfe", b"<!DOCTYPE"),
)


def _voc(folder: Path) -> list[Seed]:
    (folder / "set/JPEGImages").mkdir(parents=True)
    (folder / "set/Annotations").mkdir()
    Image.new("RGB", _SIZE).save(folder / "set/JPEGImages/a.png")
    head = "<annotation><filename>a.png</filename><size><width>100</width><height>80</height><depth>3</depth></size>"
    bodies = (_OBJECT.format("cat", 5, 50.5, ""), _OBJECT.format("dog", 1, 100, _POLYGON) * 2, "")
    return [(".xml", f"{head}{body}</annotation>".encode()) for body in bodies]


def _change_xml(random: Random, suffix: str, content: bytes, others: Sequence[bytes]) -> bytes:
    return change_xml(random, content) if random.random() < 0.7 else change_bytes(random, content, others, _XML)


def _read_voc(folder: Path, file: Path) -> None:
    shutil.copyfile(file, folder / "set/Annotations/a.xml")
    _convert(folder)


def _images(folder: Path) -> list[Seed]:
    pixels = np.arange(24 * 16 * 3, dtype=np.uint32).reshape(16, 24, 3).astype(np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    found = []
    for kind, options in (
        ("JPEG", {"exif": exif}),
        ("JPEG", {"progressive": True}),
        ("PNG", {"exif": exif}),
        ("PNG", {"save_all": True, "append_images": [image]}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw", "save_all": True, "append_images": [image]}),
        ("GIF", {"save_all": True, "append_images": [image.rotate(90)]}),
        ("WEBP", {}),
        ("WEBP", {"save_all": True, "append_images": [image.rotate(90)]}),
        *(("BMP", {}), ("PPM", {})),
    ):
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found.append((f".{kind.lower()}", stream.getvalue()))
    wide = (pixels.astype(np.uint16) * 257, pixels.astype(np.float32))
    pairs = ((".png", wide[0]), (".tiff", wide[0]), (".tiff", wide[1]))
    return [*found, *((suffix, cv2.imencode(suffix, values)[1].tobytes()) for suffix, values in pairs)]


_TAGS = (
    *(bytes([0xFF, code]) for code in (0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xE1)),
    b"IHDR",
    b"IDAT",
    b"acTL",
    b"fcTL",
)
_TAGS += (
    b"eXIf",
    b"VP8X",
    b"ANMF",
    b"VP8L",
    b"Exif\0\0MM\0*",
    b"\x00\x2c",
    b"\x21\xf9\x04",
    b"\x3b",
    b"II+\0",
    b"jP  ",
)
_TAGS += tuple(
    struct.pack("<HHII", tag, kind, 1, 2**31) for tag in (256, 257, 258, 273, 279, 282, 274) for kind in (3, 5)
)


def _change_image(random: Random, suffix: str, content: bytes, others: Sequence[bytes]) -> bytes:
    if random.random() < 0.6:  # headers are at the beginning, except TIFF's
        at = len(content) - 300 if suffix == ".tiff" and random.random() < 0.7 else 0
        head, middle, tail = content[: max(at, 0)], content[max(at, 0) :][:300], content[max(at, 0) + 300 :]
        return head + change_bytes(random, middle, others, _TAGS) + tail
    return change_bytes(random, content, others, _TAGS)


def _read_image(folder: Path, file: Path) -> None:
    content, mistake = file.read_bytes(), None
    pixel_range = (0, 255) if file.suffix == ".tiff" else None
    for read in (
        lambda: read_header(str(file), _MAX_PIXELS),
        lambda: read_depth(content, _MAX_PIXELS),
        lambda: decode(content, (24, 16), limit=_MAX_PIXELS, pixel_range=pixel_range),
        lambda: list(read_pages(content, _MAX_PIXELS, limit=20, pixel_range=pixel_range)),
    ):
        try:
            read()
        except OUR_ERRORS as error:  # each reader for itself
            mistake = error
    if mistake:
        raise mistake


TARGETS = {
    "checkpoint": Target(_checkpoints, _change_checkpoint, _read_checkpoint),
    "annotations": Target(_annotations, _change_json, _read_annotations),
    "yaml": Target(_yolo, _change_yaml, _read_yolo),
    "xml": Target(_voc, _change_xml, _read_voc),
    "image": Target(_images, _change_image, _read_image),
}
