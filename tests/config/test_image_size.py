"""One `image_size` in the pipelines of every config."""

import pytest
from coco_folder import write_config
from mmengine.config import Config

from localvit_det.config import load_config
from localvit_det.config.image_size import use_image_size
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
    # A checkpoint keeps the setting beside what it has changed: reading it again changes nothing more.
    before = cfg.pretty_text
    use_image_size(cfg, ())
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
