"""Modern heads on these backbones: a loss step and a prediction of each, and swapping the backbone by its own entry."""

import pytest
import torch
from conftest import REPOSITORY
from families import FAMILIES
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from small_detectors import shrink, step_and_predict

from localvit_det.backbones import LocalViT
from localvit_det.config import load_config
from localvit_det.config.model import match_channels
from localvit_det.errors import ConfigError
from localvit_det.fused import fused_copy
from localvit_det.preflight.classes import check_num_classes
from localvit_det.preflight.components import check_backbone

HEADS = {
    "faster_rcnn": "faster_rcnn_{}_t_coco.py",
    "rtmdet_ins": "rtmdet_ins_{}_t_coco.py",
    "dino": "dino_{}_t_coco.py",
    "mask2former": "mask2former_{}_t_coco.py",
    "mask2former_panoptic": "mask2former_{}_t_coco-panoptic.py",
    "panoptic_fpn": "panoptic_fpn_{}_t_coco.py",
}
NETS = {"shuffle": "ShuffleTransformer", "dwnet": "DWNet"}
CASES = [(head, list(NETS)[number % 2]) for number, head in enumerate(HEADS)]  # test_configs.py has them with one head


def config_of(head: str, net: str = "shuffle") -> Config:
    return load_config(REPOSITORY / "configs" / HEADS[head].format(net))


@pytest.mark.parametrize(
    ("head", "net"),
    [
        pytest.param(*case, marks=pytest.mark.slow if case[0] not in ("faster_rcnn", "rtmdet_ins") else ())
        for case in CASES
    ],
)
def test_a_loss_step_and_a_prediction(head, net):
    cfg = shrink(config_of(head, net))
    check_backbone(cfg)
    panoptic = "panoptic" in head
    model = MODELS.build(cfg.model)
    model.init_weights()  # DINO leaves some as the memory was, which may be NaN
    assert isinstance(model.backbone, LocalViT)
    # RTMDet's pipeline pads all images, and their masks, to one size.
    sizes = [(3, 96, 128), (3, 96, 128) if cfg.model.type == "RTMDet" else (3, 80, 96)]
    data = demo_mm_inputs(2, sizes, num_classes=80, with_mask=True, with_semantic=panoptic, use_box_type=True)
    predictions = step_and_predict(model, data)
    build_optim_wrapper(model, cfg.optim_wrapper)
    with torch.no_grad():
        fused = fused_copy(model)(**model.data_preprocessor(data, training=False), mode="predict")
    assert len(predictions) == len(fused) == 2
    if panoptic:
        assert all(p.pred_panoptic_seg.sem_seg.shape[-2:] == p.ori_shape for p in predictions)
    else:
        assert all(p.pred_instances.bboxes.shape[1] == 4 for p in predictions)
        assert ("masks" in predictions[0].pred_instances) == (head in ("rtmdet_ins", "mask2former"))


@pytest.mark.parametrize("head", HEADS)
def test_the_backbone_is_swapped_by_its_own_entry(head):
    cfg = config_of(head)
    outs = cfg.model.backbone.get("out_indices", (0, 1, 2, 3))
    for family in FAMILIES:
        for arch in MODELS.get(family).arch_settings:
            cfg.model.backbone = {"type": family, "arch": arch, "out_indices": outs}
            match_channels(cfg)
            part = cfg.model.neck if "neck" in cfg.model else cfg.model.panoptic_head
            assert part.in_channels == list(MODELS.get(family).out_channels_of(cfg.model.backbone)), family


def test_a_neck_that_counts_from_the_deepest_map(tmp_path):
    backbone = "dict(_delete_=True, type='ShuffleTransformer', arch='tiny', out_indices=(1, 2, 3))"
    (tmp_path / "own.py").write_text(
        "_base_ = 'mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py'\n"
        f"custom_imports = dict(imports=['localvit_det'])\nmodel = dict(backbone={backbone})\n"
    )
    cfg = load_config(tmp_path / "own.py", data=False)
    check_backbone(cfg)
    assert cfg.model.neck.in_channels == [768, 384, 192]
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        assert len(model.neck(model.backbone(torch.zeros(1, 3, 64, 64)))) == 3
    cfg.model.neck.in_channels = [192, 384, 768]
    with pytest.raises(ConfigError, match=r"in_channels is \[192, 384, 768\]: set it to \[768, 384, 192\]"):
        check_backbone(cfg)


def test_channels_that_somebody_types_are_kept_and_refused():
    path = REPOSITORY / "configs" / HEADS["mask2former"].format("shuffle")
    cfg = load_config(path, {"model.panoptic_head.in_channels": [64, 192, 384, 768]})
    with pytest.raises(ConfigError, match=r"panoptic_head.in_channels is \[64, .*: set it to \[96, 192"):
        check_backbone(cfg)


def test_classes_reach_mask2former():
    path = REPOSITORY / "configs" / HEADS["mask2former"].format("dwnet")
    cfg = load_config(path, {"classes": ["cat", "dog"]})
    head = cfg.model.panoptic_head
    assert (head.num_things_classes, head.loss_cls.class_weight) == (2, [1.0, 1.0, 0.1])
    assert cfg.model.panoptic_fusion_head.num_things_classes == 2
    check_num_classes(cfg, "train")
    head.num_things_classes = 3
    with pytest.raises(ConfigError, match=r"panoptic_head.num_things_classes is 3, but .* has 2"):
        check_num_classes(cfg, "train")


def test_classes_are_refused_for_panoptic_sets():
    path = REPOSITORY / "configs" / HEADS["panoptic_fpn"].format("dwnet")
    with pytest.raises(ConfigError, match="panoptic"):
        load_config(path, {"classes": ["cat"]})
