"""`with_mask=False`: the same config without masks."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config

from localvit_det.config import load_config
from localvit_det.config.parts import walk
from localvit_det.errors import ConfigError


def losses(cfg: Config, classes: int) -> dict[str, torch.Tensor]:
    model = MODELS.build(cfg.model).train()
    data = demo_mm_inputs(1, [(3, 96, 128)], num_classes=classes, with_mask=False)
    return model(**model.data_preprocessor(data, training=True), mode="loss")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mask_rcnn_shuffle_nano_shapes", "FasterRCNN"),
        pytest.param("cascade_mask_rcnn_shuffle_t_3x_coco", "CascadeRCNN", marks=pytest.mark.slow),
        ("rtmdet_ins_shuffle_t_coco", "RTMDet"),
    ],
)
def test_form_without_masks(name, kind):
    cfg = load_config(name, {"with_mask": False})
    assert cfg.model.type == kind
    assert not any("mask" in path or "mask_head" in node for path, node in walk(cfg.model, "model"))
    for split in ("train", "val", "test"):
        loading = [node for _, node in walk(cfg[f"{split}_dataloader"]) if "with_mask" in node]
        assert loading or split != "train"
        assert not any(node["with_mask"] for node in loading)
    for split in ("val", "test"):
        assert cfg[f"{split}_evaluator"].metric in ("bbox", ["bbox"])
    for stage in cfg.model.get("train_cfg", {}).get("rcnn", ()) if kind == "CascadeRCNN" else ():
        stage.sampler.num = 16
    classes = 3 if "nano" in name else 80
    found = losses(cfg, classes)
    assert found
    assert not any("mask" in key for key in found)
    before = cfg.pretty_text
    assert load_config_again(cfg).pretty_text == before


def load_config_again(cfg: Config) -> Config:
    from localvit_det.config.box_only import use_with_mask

    use_with_mask(cfg)
    return cfg


def test_models_that_need_masks():
    with pytest.raises(ConfigError, match=r"with_mask=False: Mask2Former has no form without masks; .*faster_rcnn"):
        load_config("mask2former_shuffle_t_coco", {"with_mask": False})


@pytest.mark.parametrize("value", [0, "no", None])
def test_other_values(value):
    if value is None:
        assert load_config("mask_rcnn_shuffle_nano_shapes", {"with_mask": None}).model.type == "MaskRCNN"
        return
    with pytest.raises(ConfigError, match="neither True nor False"):
        load_config("mask_rcnn_shuffle_nano_shapes", {"with_mask": value})
