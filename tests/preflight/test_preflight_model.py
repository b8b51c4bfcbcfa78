"""Mistakes in classes and models end in one sentence, before the first iteration."""

import logging

import pytest
from coco_folder import edited
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from preflight_cases import SHUFFLE, fails

import localvit_det  # noqa: F401
from localvit_det.errors import ConfigError, DataError
from localvit_det.preflight import check_config

# ---------------------------------------------------------------------------------------------- classes


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


def test_subset_of_the_classes_is_only_told(load, logged):
    check_config(load(classes=["cat", "zebra"]), train=False)
    assert [(level, line[-10:]) for level, line in logged] == [(logging.INFO, " not: dog.")]


def test_coco_config_on_other_classes(load):
    fails(load(classes=None), DataError, "77 of the 80 classes", "cat, dog, zebra")


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


# ---------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("arch='tiny', window_sise=7", ["model.backbone", "window_sise", "did you mean 'window_size'?"]),
        ("arch='tiny', depth=50, style='pytorch'", ["model.backbone", "depth", "style", "_delete_=True"]),
        ("arch='tiny', bananas=1", ["bananas", "_delete_=True"]),
        ("arch='huge'", ["model.backbone", "huge", "base"]),
        ("arch='tiny', out_indices=(0, 1, 2, 7)", ["model.backbone", "out_indices"]),
    ],
)
def test_wrong_arguments_of_our_backbones(load, arguments, words):
    fails(load(SHUFFLE.format(arguments)), ConfigError, "ShuffleTransformer", *words)


def test_unknown_keys_are_found_anywhere(load):
    cfg = load()
    cfg.train_dataloader.dataset = {**cfg.train_dataloader.dataset, "type": "ShapesDataset", "filter_cgf": {}}
    fails(cfg, ConfigError, "train_dataloader.dataset", "filter_cgf", "did you mean 'filter_cfg'?")


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("model.type", "MaskRCN", "MaskRCNN"),
        ("model.backbone.type", "ShufleTransformer", "ShuffleTransformer"),
        ("model.neck.type", "fpn", "FPN"),
        ("model.roi_head.mask_head.type", "FCNMaskHed", "FCNMaskHead"),
        ("model.data_preprocessor.type", "DetDataPreprocesor", "DetDataPreprocessor"),
    ],
)
def test_unknown_types(load, key, value, near):
    fails(load(**{key: value}), ConfigError, f"{key} '{value}'", f"did you mean '{near}'?")


def test_neck_channels_that_contradict_our_backbone(load):
    cfg = load(SHUFFLE.format("arch='tiny'"), **{"model.neck.in_channels": [256, 512, 1024, 2048]})
    fails(cfg, ConfigError, "[96, 192, 384, 768]", "model.neck.in_channels is [256, 512, 1024, 2048]")


def test_neck_channels_of_any_other_backbone(load):
    @MODELS.register_module()
    class TwoMaps(BaseModule):
        def forward(self, x):
            float(x.mean())  # asks for a value, which the meta device does not have
            return x[:, :2], x

    try:
        fails(
            load("model = dict(backbone=dict(_delete_=True, type='TwoMaps'))"),
            ConfigError,
            "[2, 3]",
            "[256, 512",
        )
        body = "model = dict(backbone=dict(_delete_=True, type='TwoMaps'), neck=dict(in_channels=[2, 3]))"
        check_config(load(body))
    finally:
        del MODELS.module_dict["TwoMaps"]
