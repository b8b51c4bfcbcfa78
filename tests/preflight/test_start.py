"""One line says what a training starts from, and a warning what to add where the backbone is random for no reason."""

import logging

import pytest
import torch
from conftest import REPOSITORY
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from preflight_cases import fails

from localvit_det.config import load_config
from localvit_det.errors import CheckpointError
from localvit_det.preflight import start
from localvit_det.preflight.resources import checkpoint_to_resume
from localvit_det.preflight.start import check_start

ARCH = {"_delete_": True, "embed_dims": 32, "depths": (2, 2, 2, 2), "drop_path_rate": 0.0}


@pytest.fixture
def said(monkeypatch):
    """What a check says, by level; warnings last."""
    lines = []
    monkeypatch.setattr(start, "print_log", lambda text, _, level=logging.INFO: lines.append((level, text)))

    def check(cfg, work_dir="work_dirs/none"):
        lines.clear()
        cfg.work_dir = str(work_dir)
        check_start(cfg, checkpoint_to_resume(cfg))
        assert lines[0][1].startswith("Starts from: ")
        return lines[0][1].removeprefix("Starts from: "), [text for level, text in lines if level == logging.WARNING]

    return check


def config(name="mask_rcnn_dwnet_t_coco", **options):
    return load_config(REPOSITORY / f"configs/{name}.py", options)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("mask_rcnn_shuffle_t_coco", "by hand from https://drive.google.com/"),
        ("mask_rcnn_dwnet_t_coco", "add --pretrained official, which downloads https://github.com/Atten4Vis/"),
        ("mask_rcnn_swin_t_coco", "add --pretrained official, which downloads https://github.com/SwinTransformer/"),
        ("retinanet_svt_s_coco", ", a copy of https://drive.google.com/"),
        ("mask_rcnn_gg_t_coco", "add --pretrained official --cfg-options warm_start=swin"),
        ("dino_dwnet_t_coco", "add --pretrained official"),
    ],
)
def test_a_coco_recipe_at_random_is_warned_of_with_what_to_add(said, name, advice):
    cfg = config(name)
    line, (warning,) = said(cfg)
    assert line.startswith(f"backbone {cfg.model.backbone.type} random; neck, ")
    assert line.endswith("heads random.")
    assert advice in warning


@pytest.mark.parametrize(
    "name", ["mask_rcnn_shuffle_nano_shapes", "pretrain/gg_t_in1k", "pretrain/shuffle_nano_shapes"]
)
def test_trials_on_shapes_and_pretrainings_are_meant_to_start_at_random(said, name):
    if name.startswith("pretrain"):
        pytest.importorskip("mmpretrain")
    line, warnings = said(config(name))
    assert "random" in line
    assert not warnings


def test_size_of_ones_own(said):
    _, (warning,) = said(config(**{"model.backbone.arch": ARCH}))
    assert "no published weights of it are known here, so take a size that `localvit weights` lists, or add" in warning
    assert "with weights of your own (docs/tasks.md" in warning


def test_what_counts_as_pretrained(said, load):
    line, warnings = said(load())  # MMDetection's ResNet
    assert line == "backbone from torchvision://resnet50; neck, heads random."
    assert not warnings
    cfg = load("model = dict(init_cfg=dict(type='mmengine.PretrainedInit', checkpoint='x.pth'))")
    assert said(cfg)[0] == "all from x.pth."
    cfg = load()
    cfg.model.backbone.init_cfg = None
    cfg.model.backbone.pretrained = "open-mmlab://resnet50"
    assert said(cfg)[0].startswith("backbone from open-mmlab://resnet50")
    cfg.model.backbone.pretrained = None
    cfg.model.roi_head.init_cfg = [{"type": "Normal", "layer": "Linear"}, {"type": "Pretrained", "checkpoint": "y.pth"}]
    line, warnings = said(cfg)
    assert line == "backbone ResNet random; roi_head from y.pth; neck, heads random."
    assert warnings


def backbone_file(path, **sets):
    net = MODELS.build({"type": "DWNet", "arch": {key: value for key, value in ARCH.items() if key != "_delete_"}})
    state = {f"backbone.{name}": tensor for name, tensor in net.state_dict().items() if "out_norms" not in name}
    torch.save({"model": state | {"head.fc.weight": torch.zeros(1000, 256)}, **sets}, path)


def test_file_of_a_backbone_is_compared_before_anything_else(said, tmp_path):
    backbone_file(tmp_path / "net.pth", model_ema={"x": torch.ones(1)})
    line, warnings = said(config(pretrained=str(tmp_path / "net.pth"), **{"model.backbone.arch": ARCH}))
    assert line == (
        f"backbone from {tmp_path}/net.pth (ImageNet classifier, 237 of 253 weights, output norms new; model is taken, "
        "not model_ema (FILE#model_ema takes that)); neck, heads random."
    )
    assert not warnings
    with pytest.raises(
        CheckpointError, match="its backbone is DWNet with 32 channels and 2-2-2-2 blocks and the model's"
    ):
        said(config(pretrained=str(tmp_path / "net.pth")))
    cfg = config("mask_rcnn_gg_t_coco", pretrained=str(tmp_path / "net.pth"), warm_start="swin")
    assert said(cfg)[0].startswith(f"backbone from {tmp_path}/net.pth (warm start from swin)")


def test_key_of_a_file_is_no_part_of_its_path(load, tmp_path):
    backbone_file(tmp_path / "net.pth")
    init = f"dict(type='Pretrained', checkpoint='{tmp_path}/gone.pth#model')"
    cfg = load(f"model = dict(backbone=dict(init_cfg=dict(_delete_=True, **{init})))")
    fails(cfg, CheckpointError, f"does not exist: {tmp_path}/gone.pth (")


def test_detectors_and_resumed_trainings(said, tmp_path):
    options = {"model.backbone.arch": ARCH}
    cfg = config(**options)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    state = {name: torch.zeros(tensor.shape) for name, tensor in model.state_dict().items()}
    meta = {"epoch": 2, "iter": 9, "dataset_meta": {"classes": CocoDataset.METAINFO["classes"]}}
    torch.save({"state_dict": state, "meta": meta, "message_hub": {}, "optimizer": {}}, tmp_path / "epoch_2.pth")
    file = str(tmp_path / "epoch_2.pth")
    total = len(state)
    assert said(config(**options, load_from=file))[0] == f"all from {file} ({total} of {total} weights)."
    cfg = config(**options, load_from=file, load_policy="finetune", classes=["person", "car", "c"])
    assert said(cfg)[0].endswith(" weights), heads for 2 of 3 classes, by name.")
    cfg = config("dino_dwnet_t_coco", **options, load_from=file, load_policy="finetune", classes=["person"])
    assert "heads for 1 of 1 classes, by name" in said(cfg)[0]  # what does not fit, the loading says
    cfg = config(**options)
    cfg.resume = True
    torch.save({"state_dict": state, "meta": {**meta, "iter": 12}}, tmp_path / "best_bbox_epoch_3.pth")  # no optimizer
    assert said(cfg, tmp_path)[0] == f"resumed from {file}."
    assert said(cfg, tmp_path / "none")[0].startswith("backbone DWNet random")  # nothing to resume
    cfg.load_from = file
    assert said(cfg, tmp_path / "none")[0] == f"resumed from {file}."
