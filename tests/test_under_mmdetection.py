"""Configs with parts of ours under MMDetection's own scripts, which know nothing of `load_config`."""

import ast
import inspect
import re
import runpy
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mmdet
import pytest
from coco_folder import NAMES, write_coco
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import localvit_det
from localvit_det.config import load_config
from localvit_det.config.load import complete_for_runner
from localvit_det.config.options import _READ, OF_LOADING
from localvit_det.config.short_settings import SHORT
from localvit_det.datasets import synthetic_shapes_datasets
from localvit_det.errors import ConfigError

TOOLS = Path(mmdet.__file__).parent / ".mim/tools"
NANO = REPOSITORY / "configs/mask_rcnn_shuffle_nano_shapes.py"
SHORTLY = (
    *("train_cfg.max_epochs=1", "train_cfg.val_interval=1", "train_dataloader.batch_size=2"),
    *(f"{split}_dataloader.{key}" for split in ("train", "val") for key in ("num_workers=0", "persistent_workers=0")),
)
# What a user of MMDetection adds to a config: an import and a backbone.
PLAIN = """
_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py", "mmdet::_base_/datasets/coco_detection.py",
          "mmdet::_base_/schedules/schedule_1x.py", "mmdet::_base_/default_runtime.py"]
custom_imports = dict(imports=["localvit_det"], allow_failed_imports=False)
arch = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.0)
model = dict(
    backbone=dict(_delete_=True, type="ShuffleTransformer", arch=arch, window_size=5),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=16),
    bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1),
)
classes = ("cat", "dog", "zebra")
scale = (96, 96)
loading = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True),
           dict(type="Resize", scale=scale, keep_ratio=True), dict(type="PackDetInputs")]
files = dict(metainfo=dict(classes=classes), data_root="ROOT/", pipeline=loading)
train_dataloader = dict(dataset=dict(ann_file="annotations/instances_train2017.json", **files))
val_dataloader = dict(dataset=dict(ann_file="annotations/instances_val2017.json",
                                   **{**files, "pipeline": [*loading[:-1], dict(type="PackDetInputs", meta_keys=(
                                       "img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))]}))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="ROOT/annotations/instances_val2017.json")
test_evaluator = val_evaluator
"""


@pytest.fixture
def run(monkeypatch, tmp_path) -> Callable[..., Path]:
    """Run one of MMDetection's scripts in an empty folder, and return its work dir."""
    if not TOOLS.is_dir():
        pytest.skip("this MMDetection brings no scripts")
    monkeypatch.chdir(tmp_path)

    def run_script(script: str, *arguments: object) -> Path:
        monkeypatch.setattr(DefaultScope, "_instance_dict", OrderedDict())  # as in a fresh process
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments), "--work-dir", "work"])
        runpy.run_path(str(TOOLS / script), run_name="__main__")
        return tmp_path / "work"

    return run_script


def test_a_plain_config_trains_and_tests(run, tmp_path):
    config = tmp_path / "plain.py"
    config.write_text(PLAIN.replace("ROOT", str(write_coco(tmp_path / "data"))))
    work = run("train.py", config, "--cfg-options", *SHORTLY)
    assert (work / "epoch_1.pth").is_file()
    run("test.py", config, work / "epoch_1.pth", "--cfg-options", *SHORTLY)


def test_a_config_of_ours_draws_its_shapes_and_trains(run, monkeypatch):
    """Its runner and hooks are found where no scope is set yet, and what its work dir says runs as well."""
    few = partial(synthetic_shapes_datasets.make_shapes, num_train=4, num_val=2, size=64)
    monkeypatch.setattr(synthetic_shapes_datasets, "make_shapes", few)
    work = run("train.py", NANO, "--cfg-options", *SHORTLY)
    assert (work / "epoch_1.pth").is_file()
    hooks = Config.fromfile(work / NANO.name).custom_hooks
    assert {"LoadPolicyHook", "BrokenImagesHook", "ProgressBarHook"} <= {hook.type for hook in hooks}
    run("train.py", work / NANO.name, "--resume", "--cfg-options", "train_cfg.max_epochs=2")
    assert (work / "epoch_2.pth").is_file()


def test_shapes_at_another_place_are_not_drawn(run, tmp_path):
    with pytest.raises(localvit_det.errors.DataError, match="There are no synthetic shapes at"):
        run("train.py", NANO, "--cfg-options", "train_dataloader.dataset.data_root=elsewhere/", *SHORTLY)


def test_the_script_ends_in_one_sentence_before_it_writes(run, tmp_path):
    with pytest.raises(ConfigError, match=r"leaves image_size, epochs to `load_config`, .* `localvit train`"):
        run("train.py", NANO, "--cfg-options", "image_size=96", "epochs=3")
    assert not any(tmp_path.iterdir())


# ---- what is refused

ASKED = {
    **{"allow_pickle": False, "augment": "flip", "classes": ["cat"], "crowds_as_objects": True, "draw": True},
    **{"data_root": "/data/mine", "image_size": 96, "omit_hooks": ["CurvesHook"], "pretrained": "file.pth"},
    **{"val_split": 0.1, "warm_start": "SwinTransformer", "with_mask": False},
    **{"batch": 3, "epochs": 3, "imgsz": 96, "lr": 0.5, "workers": 3},
}


def nano(**settings: object) -> Config:
    cfg = Config.fromfile(NANO)
    for key, value in settings.items():
        cfg[key] = value
    return cfg


def test_every_setting_that_only_load_config_applies_is_tried():
    assert ASKED.keys() == OF_LOADING.keys() | SHORT.keys()


@pytest.mark.parametrize("key", ASKED)
def test_a_setting_that_nothing_applies(key):
    with pytest.raises(ConfigError, match=rf"^The config leaves {key} to `load_config`, .*[^.]\.$") as caught:
        complete_for_runner(nano(**{key: ASKED[key]}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", OF_LOADING)
def test_a_setting_that_asks_for_nothing(key):
    complete_for_runner(nano(**{key: OF_LOADING[key]}))


@pytest.mark.parametrize(
    "settings",
    [
        {"load_policy": "finetune", "broken_images": "stop", "max_pixels": 1e6, "fit_warmup": False},
        {"epochs": 8, "batch": 8, "workers": 1, "lr": 1e-3},
        {"model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "file.pth"}, "pretrained": "file.pth"},
        {"train_dataloader.dataset.pipeline.0": {"type": "RandomCrop", "crop_size": (64, 64)}, "image_size": (64, 64)},
        {
            **{f"{split}_dataloader.dataset.metainfo": {"classes": NAMES} for split in ("train", "val", "test")},
            "classes": [*NAMES],
        },
    ],
    ids=lambda settings: [*settings][-1],
)
def test_what_the_runner_applies_or_the_config_itself(settings):
    """MMDetection's own configs have names like ours, and use them."""
    cfg = nano()
    cfg.merge_from_dict(settings)
    complete_for_runner(cfg)


def test_a_value_that_makes_no_sense():
    with pytest.raises(ConfigError, match="load_policy='finetun' is none of"):
        complete_for_runner(nano(load_policy="finetun"))


def test_a_root_that_the_datasets_of_a_parent_do_not_follow(tmp_path):
    child = tmp_path / "child.py"
    child.write_text(f"_base_ = {str(NANO)!r}\ndata_root = '/data/mine/'\n")
    with pytest.raises(ConfigError, match="leaves data_root to"):
        complete_for_runner(Config.fromfile(child))
    child.write_text(
        f"_base_ = {str(NANO)!r}\n"
        + "".join(
            f"{split}_dataloader = dict(dataset=dict(data_root='/mine/'))\n" for split in ("train", "val", "test")
        )
    )
    complete_for_runner(Config.fromfile(child))  # which leaves its parent's name unused


def test_another_backbone_in_front_of_the_same_neck():
    cfg = nano()
    cfg.model.backbone.arch.embed_dims = 48
    with pytest.raises(
        ConfigError, match=r"leaves model.neck.in_channels \(ShuffleTransformer gives \[48, 96, 192, 384\]"
    ):
        complete_for_runner(cfg)


def test_a_completed_config_runs_and_so_does_what_a_work_dir_has(tmp_path):
    cfg = load_config(NANO, {"image_size": 96, "classes": ["circle", "star"], "with_mask": False}, data=False)
    complete_for_runner(cfg)
    cfg.dump(tmp_path / "dumped.py")
    complete_for_runner(dumped := Config.fromfile(tmp_path / "dumped.py"))
    complete_for_runner(load_config(tmp_path / "dumped.py", data=False))
    dumped.image_size = 640
    with pytest.raises(ConfigError, match="leaves image_size to"):
        complete_for_runner(dumped)


def test_a_work_dir_of_an_earlier_version_runs():
    complete_for_runner(nano(image_size=96, started_with={"config": "a.py"}))


def test_the_list_is_what_the_code_reads():
    """What a runner or a hook reads is not left to `load_config`, and what only completing reads is."""
    package = Path(localvit_det.__file__).parent
    by_runs: set[str] = set()
    by_loading: set[str] = set()
    for file in package.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        by_runs |= set(re.findall(r"(?:runner|self)\.cfg(?:\.get\(\"|\.)(\w+)", text))
        if file.parent.name == "config":
            by_loading |= {
                node.args[0].value
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Call)
                and ast.unparse(node.func) == "cfg.get"
                and isinstance(node.args[0], ast.Constant)
            }
    of_mmengine = {*inspect.signature(Runner.__init__).parameters, "runner_type", "custom_imports", "tta_pipeline"}
    notes = {"completed_with", "recognized", "test_pipeline"}
    assert not by_runs & OF_LOADING.keys()
    left = (by_loading & _READ) - by_runs - of_mmengine - notes
    assert left - {"load_policy", "broken_images"} <= OF_LOADING.keys() <= _READ
    assert OF_LOADING.keys() - by_loading <= {"augment", "omit_hooks"} | {"warm_start"}
