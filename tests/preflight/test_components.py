"""Wrong types, keys and channels of what a config builds end in one sentence."""

import pytest
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from preflight_cases import SHUFFLE, fails

import localvit_det  # noqa: F401
from localvit_det.errors import ConfigError
from localvit_det.preflight import check_config


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
        ("train_dataloader.dataset.type", "CocoDatset", "CocoDataset"),
    ],
)
def test_unknown_types(load, key, value, near):
    fails(load(**{key: value}), ConfigError, f"{key} '{value}'", f"did you mean '{near}'?")


def test_neck_channels_of_any_other_backbone(load):
    @MODELS.register_module()
    class TwoMaps(BaseModule):
        def forward(self, x):
            float(x.mean())  # asks for a value, which the meta device does not have
            return x[:, :2], x

    try:
        fails(load("model = dict(backbone=dict(_delete_=True, type='TwoMaps'))"), ConfigError, "[2, 3]", "[256, 512")
        body = "model = dict(backbone=dict(_delete_=True, type='TwoMaps'), neck=dict(in_channels=[2, 3]))"
        check_config(load(body))
    finally:
        del MODELS.module_dict["TwoMaps"]


RUNTIME = """
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="CheckpointHook", interval=1),
)
custom_hooks = [dict(type="NumClassCheckHook"), dict(type="EMAHook", momentum=1e-4)]
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
"""


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("default_hooks.logger.intervall", ["LoggerHook does not take: intervall (did you mean 'interval'?)"]),
        ("default_hooks.checkpoint.every_minute", ["CheckpointHook does not take", "'every_minutes'"]),
        ("default_hooks.loger.interval", ["default_hooks.loger has a hook without a type", "'default_hooks.logger'"]),
        ("custom_hooks.0.often", ["custom_hooks has keys that NumClassCheckHook does not take: often"]),
        ("train_cfg.max_epoch", ["train_cfg has keys that EpochBasedTrainLoop does not take: max_epoch", "max_epochs"]),
        ("val_cfg.fp17", ["val_cfg has keys that ValLoop does not take: fp17 (did you mean 'fp16'?)"]),
        ("train_dataloader.batchsize", ["a dataloader does not take: batchsize (did you mean 'batch_size'?)"]),
        ("train_dataloader.sampler.shufle", ["DefaultSampler does not take: shufle"]),
        ("optim_wrapper.optimizer.momentun", ["SGD does not take: momentun (did you mean 'momentum'?)"]),
    ],
)
def test_keys_that_the_runner_would_break_on(load, option, words):
    cfg = load(RUNTIME, runner_type="ReliableRunner", **{option: 3})
    fails(cfg, ConfigError, *words)
    cfg.runner_type = "RunnerOfOthers"  # what it takes is not known
    check_config(cfg)


def test_keys_that_the_runner_takes(load):
    options = {
        "default_hooks.checkpoint.every_minutes": 3,
        "default_hooks.logger.priority": "LOW",
        "custom_hooks.1.alpha": 3,  # the average's own, which EMAHook hands on
        "train_cfg.dynamic_intervals": [(1, 2)],
        "train_dataloader.num_batch_per_epoch": 2,
        "train_dataloader.pin_memory": True,
        "optim_wrapper.optimizer.momentum": 0.9,
        "optim_wrapper.accumulative_counts": 2,
    }
    check_config(load(RUNTIME, runner_type="ReliableRunner", **options))
    check_config(load(RUNTIME, **{"train_dataloader.batchsize": 3}), train=False)  # which does not build it
    hooks = "custom_hooks = [dict(type='CurvesHook', priority='LOW')]"
    check_config(load(hooks))
    fails(load(RUNTIME, **{"default_hooks.checkpoint.every_minutes": 3}), ConfigError, "every_minutes")  # MMEngine's
