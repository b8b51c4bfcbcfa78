"""One `image_size` in the pipelines of every config, and `with_mask=False`: the same config without masks."""

import pytest
import torch
from coco_folder import write_config
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config

from localvit_det.config import load_config
from localvit_det.config.model import leave_out_masks
from localvit_det.config.pipelines import scale_images
from localvit_det.config.utils import walk
from localvit_det.errors import ConfigError

KEYS = ("scale", "scales", "crop_size", "size", "img_scale")


def sizes(pipeline: list) -> list:
    """All sizes of a pipeline, in order."""
    found = []
    for step in pipeline:
        for branch in step.get("transforms", ()):
            found += sizes(branch)
        found += [step[key] for key in KEYS if key in step]
    return found


def both(cfg: Config) -> tuple[list, list]:
    assert sizes(cfg.val_dataloader.dataset.pipeline) == sizes(cfg.test_dataloader.dataset.pipeline)
    return sizes(cfg.train_dataloader.dataset.pipeline), sizes(cfg.test_dataloader.dataset.pipeline)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (640, (640, 640)),
        ("640", (640, 640)),
        ("640x480", (640, 480)),
        ("640 X 480", (640, 480)),
        ((640, 480), (640, 480)),
        ([640], (640, 640)),
    ],
)
def test_one_scale(tmp_path, value, size):
    cfg = load_config(write_config(tmp_path), {"image_size": value})
    assert both(cfg) == ([size], [size])
    assert cfg.image_size == size


@pytest.mark.parametrize("value", ["big", 0, 16, 20_000, 640.0, (1, 2, 3), True, "640x", {}])
def test_no_size(tmp_path, value):
    with pytest.raises(ConfigError, match=r"image_size=.*640x480"):
        load_config(write_config(tmp_path), {"image_size": value})


EXPECTED = {
    # Nothing is scaled in training until now.
    "mask_rcnn_shuffle_nano_shapes": ([(320, 320)], [(320, 320)]),
    # Several scales: the largest becomes the size, the others keep their ratio to it.
    "mask_rcnn_shuffle_t_3x_coco": (
        [
            [(round(320 * short / 800),) * 2 for short in range(480, 801, 32)],
            [(160, 160), (200, 200), (240, 240)],
            (154, 240),
            [(round(320 * short / 800),) * 2 for short in range(480, 801, 32)],
        ],
        [(320, 320)],
    ),
    # Crops of 1024, also of batches, and tests at 1333×800.
    "mask2former_shuffle_t_coco": ([(320, 320), (320, 320)], [(320, 320)]),
    # Mosaics of 640 that are scaled to 1280 and cut to 640.
    "rtmdet_ins_shuffle_t_coco": (
        [(320, 320), (640, 640), (320, 320), (320, 320), (320, 320)],
        [(320, 320), (320, 320)],
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_recipes(name, tmp_path):
    cfg = load_config(name, {"image_size": 320})
    assert both(cfg) == EXPECTED[name]
    pads = cfg.model.data_preprocessor.get("batch_augments") or []
    assert [pad.get("size") for pad in pads] == ([(320, 320)] if "mask2former" in name else [])
    for hook in cfg.custom_hooks:
        if "switch_pipeline" in hook:
            assert sizes(hook.switch_pipeline) == [(320, 320)] * 3
    # A checkpoint keeps the setting next to what it has changed: reading it again changes nothing more.
    before = cfg.pretty_text
    scale_images(cfg, ())
    assert cfg.pretty_text == before


def test_without_it_nothing_changes():
    cfg = load_config("mask2former_shuffle_t_coco")  # whose parent has a name image_size of its own, that of crops
    assert both(cfg) == ([(1024, 1024), (1024, 1024)], [(1333, 800)])
    assert both(load_config("mask_rcnn_shuffle_nano_shapes")) == ([], [(160, 160)])


def test_sizes_that_are_no_squares():
    cfg = load_config("mask_rcnn_shuffle_t_3x_coco", {"image_size": "640x400"})
    train, test = both(cfg)
    assert test == [(640, 400)]
    assert train[0][0] == (384, 240)
    assert train[0][-1] == (640, 400)


def test_models_that_are_no_detectors():
    with pytest.raises(ConfigError, match="image_size=64 has no effect"):
        load_config("upernet_shuffle_nano_shapes", {"image_size": 64})


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
    leave_out_masks(cfg)
    assert cfg.pretty_text == before


def test_models_that_need_masks():
    with pytest.raises(ConfigError, match=r"with_mask=False: Mask2Former has no form without masks; .*faster_rcnn"):
        load_config("mask2former_shuffle_t_coco", {"with_mask": False})


@pytest.mark.parametrize("value", [0, "no", None])
def test_other_values_of_with_mask(value):
    if value is None:
        assert load_config("mask_rcnn_shuffle_nano_shapes", {"with_mask": None}).model.type == "MaskRCNN"
        return
    with pytest.raises(ConfigError, match="neither True nor False"):
        load_config("mask_rcnn_shuffle_nano_shapes", {"with_mask": value})
