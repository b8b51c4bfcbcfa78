"""`augment=NAME`: boxes, masks and labels stay those of the objects; what is drawn depends on seed and place alone."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS

from localvit.commands import analyze
from localvit_det.config import load_config
from localvit_det.datasets import FittingCopyPaste, MaskedMosaic
from localvit_det.datasets.synthetic_shapes import CLASSES, PALETTES, make_shapes
from localvit_det.engine.data_loader import SeededBatch, SeededFetch
from localvit_det.errors import ConfigError

NANO = "mask_rcnn_shuffle_nano_shapes"
NAMES = ("none", "flip", "color", "crop", "lsj", "mosaic", "copypaste")
SIZE, IMAGES = 160, 7  # one more is empty


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "set", num_train=8, num_val=1, size=SIZE)


def dataset_of(shapes: Path, name: str, **options: object) -> object:
    cfg = load_config(NANO, {"data_root": str(shapes), "augment": name, **options})
    return DATASETS.build(cfg.train_dataloader.dataset)


def batch(*keys: int) -> SeededBatch:
    found = SeededBatch(key % IMAGES for key in keys)
    found.keys = [(3, 0, 0, key) for key in keys]
    return found


def bounds(mask: np.ndarray) -> list[int]:
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [x[0], y[0], x[-1] + 1, y[-1] + 1]


@pytest.mark.parametrize("name", NAMES)
def test_boxes_masks_and_colors(shapes, name):
    objects = right = 0
    for packed in SeededFetch(dataset_of(shapes, name))(batch(*range(16))):
        image, found = packed["inputs"].numpy(), packed["data_samples"].gt_instances  # C, H, W
        height, width = image.shape[1:]
        assert max(height, width) <= SIZE
        assert image.dtype == (np.float32 if name == "color" else np.uint8)
        assert len(found.masks) == len(found.bboxes) == len(found.labels)
        masks = found.masks.to_ndarray()  # objects, H, W
        assert masks.shape[1:] == (height, width)
        for mask, box, label in zip(masks, found.bboxes.numpy(), found.labels.tolist(), strict=True):
            assert mask.any()
            # Bitmaps of polygons are half a pixel off, which scaling doubles at most.
            np.testing.assert_allclose(box, bounds(mask), atol=2)
            inner = cv2.erode(mask, np.ones((3, 3), np.uint8)).astype(bool)
            if inner.sum() > 20:
                color = np.median(image[:, inner], 1)[::-1]  # RGB
                nearest = min(CLASSES, key=lambda kind: np.abs(np.array(PALETTES["bright"][kind]) - color).sum())
                objects, right = objects + 1, right + (nearest == CLASSES[label])
    assert objects > 20
    assert right >= (0.5 if name == "color" else 0.97) * objects


@pytest.mark.parametrize("name", ["mosaic", "copypaste", "lsj"])
def test_what_is_drawn_depends_on_seed_and_place(shapes, name):
    fetch = SeededFetch(dataset_of(shapes, name))
    first = fetch(batch(*range(12)))[8:]
    again = SeededFetch(dataset_of(shapes, name))(batch(*range(8, 12)))  # as a resumed training, or another worker
    for one, other in zip(first, again, strict=True):
        assert one["inputs"].equal(other["inputs"])
        masks = (part["data_samples"].gt_instances.masks.to_ndarray() for part in (one, other))
        np.testing.assert_array_equal(*masks)


def test_every_image_takes_part():
    """MMDetection's own draw may lead one behind the last, and ends a training."""
    seen = {FittingCopyPaste().get_indexes(range(4)) for _ in range(200)}
    seen |= {index for _ in range(200) for index in MaskedMosaic().get_indexes(range(4))}
    assert seen == set(range(4))


def test_boxes_alone(shapes):
    for name in ("mosaic", "lsj"):
        for packed in SeededFetch(dataset_of(shapes, name, with_mask=False))(batch(*range(4))):
            assert "masks" not in packed["data_samples"].gt_instances
    with pytest.raises(ConfigError, match="augment=copypaste pastes objects by their masks, and the config loads none"):
        dataset_of(shapes, "copypaste", with_mask=False)


def test_polygons(shapes):
    options = {"train_dataloader.dataset.pipeline.1.poly2mask": False}
    for name in ("mosaic", "copypaste"):
        for packed in SeededFetch(dataset_of(shapes, name, **options))(batch(*range(4))):
            found = packed["data_samples"].gt_instances
            for mask, box in zip(found.masks.to_ndarray(), found.bboxes.numpy(), strict=True):
                np.testing.assert_allclose(box, bounds(mask), atol=2)


def sizes(cfg) -> list:
    outer = cfg.train_dataloader.dataset
    steps = [*outer.get("dataset", {}).get("pipeline", []), *outer.pipeline]
    return [step[key] for step in steps for key in ("scale", "img_scale", "crop_size", "size") if key in step]


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        (NANO, {"augment": "mosaic"}, [(160, 160), (320, 320), (160, 160), (160, 160)]),
        (NANO, {"augment": "lsj", "image_size": 96}, [(96, 96), (96, 96)]),
        ("mask_rcnn_shuffle_t_coco", {"augment": "copypaste"}, [(1024, 1024)] * 3),
        ("mask_rcnn_shuffle_t_coco", {"augment": "flip"}, [(1333, 800)]),
        ("mask_rcnn_shuffle_t_coco", {"augment": "flip", "image_size": "640x480"}, [(640, 480)]),
        ("mask2former_shuffle_t_coco", {"augment": "none"}, [(1024, 1024)]),
    ],
)
def test_sizes(config, options, expected):
    cfg = load_config(config, options, data=False)
    assert [tuple(size) for size in sizes(cfg)] == expected


def test_saved_configs_are_read_again(tmp_path, shapes):
    cfg = load_config(NANO, {"data_root": str(shapes), "augment": "mosaic"})
    cfg.dump(tmp_path / "saved.py")
    again = load_config(tmp_path / "saved.py")
    assert again.train_dataloader.to_dict() == cfg.train_dataloader.to_dict()
    flipped = load_config(tmp_path / "saved.py", {"augment": "flip"})
    assert (
        flipped.train_dataloader.to_dict()
        == load_config(NANO, {"data_root": str(shapes), "augment": "flip"}).train_dataloader.to_dict()
    )


@pytest.mark.parametrize(
    ("config", "name", "words"),
    [
        (NANO, "mosaik", r"augment=mosaik is none of none, flip, .* \(did you mean 'mosaic'\?\): give one"),
        ("rtmdet_ins_shuffle_t_coco", "lsj", "PipelineSwitchHook changes the pipeline in the middle"),
        ("panoptic_fpn_shuffle_t_coco", "mosaic", "mixes images, which has no place for label maps"),
        ("sem_fpn_shuffle_nano_shapes", "flip", "needs a detector that trains on one dataset"),
        ("pretrain/shuffle_t_in1k", "flip", "needs a detector that trains on one dataset"),
    ],
)
def test_refusals(config, name, words):
    with pytest.raises(ConfigError, match=words):
        load_config(config, {"augment": name}, data=False)


@pytest.mark.slow
def test_a_page_shows_it(tmp_path, shapes, capsys):
    options = ["--cfg-options", f"data_root={shapes}", "augment=copypaste"]
    page = tmp_path / "page.html"
    analyze.main(["data", NANO, "--augmented", "--images", "2", "--out", str(page), "--files", str(tmp_path), *options])
    assert "Augmented images of train" in page.read_text()
    assert len([name for name in os.listdir(tmp_path) if name.startswith("augmented_")]) == 2
