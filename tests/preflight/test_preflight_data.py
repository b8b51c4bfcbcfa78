"""Each mistake in annotation files and images ends in one sentence before the first iteration."""

import json
import logging
from pathlib import Path

import pytest
from coco_folder import NAMES, annotations, edited, write_coco
from file_counts import counted_files
from mmdet.registry import DATASETS
from mmengine.model import BaseModel
from preflight_cases import fails

import localvit_det  # noqa: F401
from localvit.commands import train
from localvit_det.errors import DataError
from localvit_det.preflight import check_config


def test_missing_annotation_file(load, tmp_path):
    cfg = load()
    gone = tmp_path / "mine/annotations/instances_train2017.json"
    gone.rename(gone.with_name("train.json"))
    holds = f"{gone.parent} holds instances_val2017.json, train.json"
    fails(cfg, DataError, "annotation file of train_dataloader.dataset", gone, holds, "data_root")


def test_wrong_data_root_names_what_exists_above(load, tmp_path):
    cfg = load(data_root=str(tmp_path / "nowhere"))
    fails(cfg, DataError, tmp_path / "nowhere/annotations", f"{tmp_path} holds", "mine/")


def test_missing_image_folder(load, tmp_path):
    cfg = load()
    (tmp_path / "mine/val2017").rename(tmp_path / "mine/valid")
    fails(cfg, DataError, "image folder of val_dataloader.dataset", tmp_path / "mine/val2017", "valid/")


def test_absent_images(load, tmp_path):
    cfg = load()
    for name in ("002.jpg", "003.jpg"):
        (tmp_path / "mine/train2017" / name).unlink()
    fails(cfg, DataError, "2 of the 4 images", tmp_path / "mine/train2017/002.jpg")


def test_images_in_subfolders(load, tmp_path):
    def nest(content):
        content["images"][0]["file_name"] = "sub/001.jpg"

    (tmp_path / "mine/train2017/sub").mkdir(parents=True)
    cfg = load(train=edited(nest))
    check_config(cfg)
    (tmp_path / "mine/train2017/sub/001.jpg").unlink()
    fails(cfg, DataError, "1 of the 4 images", "train2017/sub/001.jpg")


def test_no_images(load):
    fails(load(train=annotations(0)), DataError, "instances_train2017.json lists no images")


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_annotations(load, split):
    content = edited(lambda c: c["annotations"].clear())
    fails(load(**{split: content}), DataError, f"instances_{split}2017.json has no usable annotation", "classes=auto")


def test_file_without_annotations_serves_to_write_results(load):
    cfg = load(val=edited(lambda c: c.pop("annotations")))
    cfg.test_evaluator.format_only = True
    check_config(cfg, train=False)


def test_all_images_too_small(load):
    cfg = load(**{"train_dataloader.dataset.filter_cfg.min_size": 90})
    fails(cfg, DataError, "smaller than 90 pixels", "filter_cfg")


def sparse() -> dict:
    """Of six images one is empty, one of another class, one small, one has a crowd alone, one a box of no size."""
    content = annotations(6)
    content["images"][2].update(width=20)
    content["annotations"] = content["annotations"][2:]  # two for each image
    for one in content["annotations"]:
        one.update(category_id=10, bbox=[1, 1, 10, 10], segmentation=[[1, 1, 9, 1, 9, 9]])
        one.update({2: {"category_id": 30}, 4: {"iscrowd": 1}, 5: {"bbox": [1, 1, 0, 0]}}.get(one["image_id"], {}))
    return content


@pytest.mark.parametrize(
    ("rules", "reported"),
    [
        ({"filter_empty_gt": True, "min_size": 32}, "3 of 6 images are left out: 2 without objects, 1 smaller than 32"),
        ({"filter_empty_gt": True}, "2 of 6 images are left out: 2 without objects ("),
        ({"min_size": 32}, "1 of 6 images are left out: 1 smaller than 32 pixels ("),
        ({"filter_empty_gt": False, "min_size": 5}, None),
        (None, None),
    ],
)
def test_images_that_are_left_out(load, logged, rules, reported):
    cfg = load(train=sparse(), classes=["cat", "dog"])
    cfg.train_dataloader.dataset.filter_cfg = rules
    check_config(cfg)
    lines = [line for _, line in logged if "left out" in line]
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 6 - (int(reported[0]) if reported else 0)
    assert [reported in line for line in lines] == ([True] if reported else [])
    assert all(line.startswith("train: ") and "(train_dataloader.dataset.filter_cfg)" in line for line in lines)


def test_more_pixels_than_the_limit_of_the_config(load):
    def enlarge(content):
        content["images"][0].update(width=20000, height=10000)

    cfg = load(train=annotations(), max_pixels=7999)
    fails(cfg, DataError, "image id 1 (001.jpg) with the size 100 x 80, over 7,999 pixels", "max_pixels=N")
    cfg.max_pixels = 8e3
    check_config(cfg)
    large = edited(enlarge)
    cfg = load()
    file = Path(cfg.train_dataloader.dataset.data_root, "annotations/instances_train2017.json")
    file.write_text(json.dumps(large))  # and no image of 600 MB
    fails(cfg, DataError, "20000 x 10000, over 100,000,000 pixels")
    cfg.max_pixels = 300_000_000
    check_config(cfg)  # one of four that are looked at has another size, which is reported


def change_boxes(boxes, count=8):
    def change(content):
        for annotation, box in zip(content["annotations"][:count], boxes * 8, strict=False):
            annotation["bbox"] = box

    return edited(change)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[60, 40, 90, 60]], ["[x1, y1, x2, y2]", "8 run over the edge"]),
        ([[0.6, 0.5, 0.3, 0.25]], ["fractions of the image's size", "8 are smaller than one pixel"]),
        ([[200, 200, 30, 20]], ["8 lie outside their image"]),
        ([[10, 10, 0, 20], [10, 10, 20, -5]], ["8 are smaller than one pixel"]),
    ],
)
def test_most_boxes_bad(load, boxes, words):
    fails(load(train=change_boxes(boxes)), DataError, "Most of the 8 annotations", *words)


def test_few_bad_boxes_are_one_warning(load, logged):
    def change(content):
        content["annotations"][0]["bbox"] = [200, 10, 20, 20]
        content["annotations"][1]["bbox"] = [10, 10, 0, 20]
        content["annotations"][2]["category_id"] = 77
        content["annotations"][3]["image_id"] = 77

    check_config(load(train=edited(change)))
    (level, line), (_, left_out) = logged
    assert level == logging.WARNING
    assert "1 of 4 images are left out: 1 without objects" in left_out
    assert "skip 4 of the 8 annotations" in line
    for reason in ("1 lie outside", "1 are smaller", "1 have a category_id", "1 have an image_id"):
        assert reason in line


@pytest.mark.parametrize("key", ["iscrowd", "area"])
def test_annotations_without_a_key(load, tmp_path, key):
    """A file that is loaded gets them in a copy; one that lacks them after that is refused."""
    cfg = load()
    content = edited(lambda c: c["annotations"][0].pop(key))
    (tmp_path / "mine/annotations/instances_val2017.json").write_text(json.dumps(content))
    fails(cfg, DataError, f"lack the key {key}", "instances_val2017.json")


def test_evaluator_with_another_file(load, tmp_path):
    cfg = load(**{"val_evaluator.ann_file": str(tmp_path / "other.json")})
    fails(cfg, DataError, "annotation file of val_evaluator is missing", tmp_path / "other.json")
    (tmp_path / "other.json").write_text(json.dumps(annotations(1)))
    fails(cfg, DataError, "lacks 3 of the 4 images", "same annotation file")


def test_data_set_prepares_itself_first(load, tmp_path):
    from mmdet.datasets import CocoDataset

    class SelfMade(CocoDataset):
        @classmethod
        def prepare(cls, data_root, consent):
            write_coco(Path(data_root))

    with DATASETS.switch_scope_and_registry("mmdet"):
        DATASETS.register_module(module=SelfMade, force=True)
    try:
        kinds = {f"{split}_dataloader.dataset.type": "SelfMade" for split in ("train", "val", "test")}
        check_config(load(data_root=str(tmp_path / "made"), **kinds))
        assert load(data_root=str(tmp_path / "again"), classes="auto", **kinds).classes == NAMES
    finally:
        del DATASETS.module_dict["SelfMade"]


def test_files_that_a_start_opens(tmp_path, cache, monkeypatch):
    """On a disk that takes 20 ms for each file, their number counts: it is that of a sample, each opened once."""

    class FirstStepError(Exception):
        pass

    def step(*_, **__):
        raise FirstStepError

    write_coco(tmp_path / "mine", annotations(70), annotations(70))
    monkeypatch.setattr(BaseModel, "train_step", step)
    options = [f"data_root={tmp_path}/mine", "classes=auto", "batch=2", "workers=0"]
    with counted_files(str(tmp_path / "mine")) as opened, pytest.raises(FirstStepError):
        train.main(["mask_rcnn_shuffle_nano_shapes", "--work-dir", str(tmp_path / "run"), "--cfg-options", *options])
    for split, most in (("train", 50 + 2), ("val", 50)):  # and a batch, of which MMDetection alone would open each
        assert 50 <= sum(count for path, count in opened.items() if f"/{split}2017/" in path) <= most
    assert max(opened.values()) <= 6  # the validation's annotations, which MMDetection alone opens twice
