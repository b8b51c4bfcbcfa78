"""Class names in config, annotations, heads and checkpoints agree, or one sentence says where they do not."""

import logging

import pytest
import torch
from coco_folder import NAMES, edited
from conftest import lines_logged_by
from mmengine.config import Config
from preflight_cases import fails

import localvit_det  # noqa: F401
from localvit_det.errors import CheckpointError, ConfigError, DataError
from localvit_det.preflight import check_config, start


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["cat", "dgo", "zebra"], ["'dgo' (did you mean 'dog'?)", "shift", "classes=auto"]),
        (["cat", "dog", "Zebra"], ["'Zebra' (did you mean 'zebra'?)"]),
        (["cat", "dog", "spaceship"], ["'spaceship';"]),
        (["car", "bus"], ["2 of the 2 classes", "car, bus", "cat, dog, zebra", "classes=auto"]),
    ],
)
def test_classes_not_as_in_the_file(load, classes, words):
    fails(load(classes=classes), DataError, "train_dataloader.dataset", "instances_train2017.json", *words)


def test_classes_in_another_order(load):
    """Files are brought into the order of the config when it is loaded; a dataset that is changed later is refused."""
    check_config(load(classes=["dog", "cat", "zebra"]))
    cfg = load()
    cfg.train_dataloader.dataset.metainfo.classes = ("dog", "cat", "zebra")
    words = ("instances_train2017.json", "another order", "where the file has 'cat' the config has 'dog'")
    fails(cfg, DataError, "train_dataloader.dataset", *words)


def test_misspelt_class_in_the_val_annotations(load):
    content = edited(lambda c: c["categories"][1].update(name="dogg"))
    fails(load(val=content), DataError, "val_dataloader.dataset", "'dog' (did you mean 'dogg'?)")


def test_subset_of_the_classes_is_only_reported(load, logged):
    check_config(load(classes=["cat", "zebra"]), train=False)
    assert [(level, line[-10:]) for level, line in logged] == [(logging.INFO, " not: dog.")]


def test_coco_config_on_other_classes(load):
    fails(load(classes=None), DataError, "has the classes cat, dog, zebra, and the config none of its own", "the 80 of")


def test_classes_as_one_string(load):
    cfg = load(classes=None, **{"train_dataloader.dataset.metainfo": {"classes": "balloon"}})
    fails(cfg, ConfigError, "train_dataloader.dataset.metainfo.classes", "('balloon',)")


@pytest.mark.parametrize(
    ("model", "head"),
    [
        ("mask-rcnn_r50_fpn", "model.roi_head.mask_head"),
        ("cascade-mask-rcnn_r50_fpn", "model.roi_head.bbox_head.1"),
        ("retinanet_r50_fpn", "model.bbox_head"),
    ],
)
def test_num_classes_of_one_head(load, model, head):
    cfg = load(model=model)
    cfg.merge_from_dict({f"{head}.num_classes": 5})
    fails(cfg, ConfigError, f"{head}.num_classes is 5", "3 classes (cat, dog, zebra)")


@pytest.mark.parametrize("named", [True, False])
def test_resume_with_other_classes(load, tmp_path, named, monkeypatch):
    said = lines_logged_by(monkeypatch, start)
    work_dir = tmp_path / "work_dirs/run"
    work_dir.mkdir(parents=True)
    file = work_dir / "epoch_1.pth"

    def resumed(*classes: str) -> Config:
        meta = {"epoch": 1, "iter": 4, "dataset_meta": {"classes": classes}}
        torch.save({"state_dict": {}, "message_hub": {}, "optimizer": {}, "meta": meta}, file)
        cfg = load()
        cfg.resume, cfg.load_from = True, str(file) if named else None
        return cfg

    check_config(resumed(*NAMES))
    assert said == [f"Starts from: resumed from {file}."]
    sentence = "which takes the rows of its heads by class name"
    fails(resumed("dog", "cat", "zebra"), CheckpointError, file, "dog, cat, zebra, and train_dataloader", sentence)
    fails(resumed("cat", "dog", "zebu"), CheckpointError, file, "cat, dog, zebu", ", ".join(NAMES), sentence)
    fails(resumed("cat", "dog"), CheckpointError, file)
    cfg = resumed("dog", "cat", "zebra")
    cfg.resume = False
    check_config(cfg)


def test_a_whole_model_that_starts_from_other_classes(load, tmp_path):
    file = tmp_path / "start.pth"
    torch.save({"state_dict": {"x": torch.zeros(1)}, "meta": {"dataset_meta": {"classes": NAMES[::-1]}}}, file)
    body = f"model = dict(init_cfg=dict(type='Pretrained', checkpoint={str(file)!r}))"
    fails(load(body), CheckpointError, file, "zebra, dog, cat", "--load-from")
