"""Masks kept as crops: pixel by pixel those of MMDetection after anything that a pipeline does, in fewer bytes."""

import pickle

import mmcv
import numpy as np
import pytest
from coco_folder import dataset_config
from conftest import REPOSITORY
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from pycocotools import mask as coco

from localvit_det.datasets import CompactMasks, LoadCompactAnnotations

HEIGHT, WIDTH = 90, 130
STEPS = {
    "rescale": lambda rng, masks: masks.rescale([(200, 150), (77, 61), 0.5, 1.7][rng.integers(4)]),
    "resize": lambda rng, masks: masks.resize(tuple(rng.integers(20, 200, 2).tolist())),
    "smooth": lambda rng, masks: masks.resize((masks.height + 3, masks.width + 5), "bilinear"),
    "flip": lambda rng, masks: masks.flip(["horizontal", "vertical", "diagonal"][rng.integers(3)]),
    "crop": lambda rng, masks: masks.crop(_box(rng, masks)),
    "pad": lambda rng, masks: masks.pad((masks.height + int(rng.integers(9)), masks.width + int(rng.integers(9)))),
    "pad with ones": lambda rng, masks: masks.pad((masks.height + 2, masks.width), 1),
    "some": lambda rng, masks: masks[rng.permutation(len(masks))[: max(1, len(masks) - 1)]],
    "one": lambda rng, masks: masks[0] if len(masks) else masks,
    "shift": lambda rng, masks: masks.translate((masks.height, masks.width), 4, interpolation="nearest"),
}


def _box(rng, masks):
    left, top = rng.integers(0, masks.width), rng.integers(0, masks.height)
    return np.array([left, top, left + rng.integers(1, masks.width), top + rng.integers(1, masks.height)])


def instances(rng: np.random.Generator, count: int) -> list[dict]:
    """Polygons of one part or two, on the border and beyond, RLE of both kinds, and polygons that are none."""

    def polygon():
        points = rng.uniform(-10, 40, (int(rng.integers(3, 9)), 2)) + rng.uniform(0, (WIDTH, HEIGHT), 2)
        return points.round(1).flatten().tolist()

    whole = np.asfortranarray(np.pad(rng.integers(0, 2, (30, 40)), ((20, 40), (10, 80))).astype(np.uint8))
    rle = coco.encode(whole)
    rle["counts"] = rle["counts"].decode()
    runs = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 3 + 5, 7, HEIGHT * (WIDTH - 3) - 12]}
    kinds = [lambda: [polygon()], lambda: [polygon(), polygon()], lambda: rle, lambda: runs, lambda: [[1, 2, 3, 4]]]
    return [{"mask": kinds[i % 5](), "ignore_flag": 0, "bbox": [0, 0, 1, 1], "bbox_label": 0} for i in range(count)]


def loaded(rng: np.random.Generator, count: int) -> tuple[BitmapMasks, CompactMasks]:
    results = {"ori_shape": (HEIGHT, WIDTH), "instances": instances(rng, count)}
    settings = {"with_bbox": True, "with_mask": True}
    found = [kind(**settings)(dict(results)) for kind in (LoadAnnotations, LoadCompactAnnotations)]
    assert np.array_equal(found[0]["gt_ignore_flags"], found[1]["gt_ignore_flags"])
    return found[0]["gt_masks"], found[1]["gt_masks"]


def assert_same(plain: BitmapMasks, ours: BitmapMasks) -> None:
    assert (len(plain), plain.height, plain.width) == (len(ours), ours.height, ours.width)
    assert plain.masks.dtype == ours.masks.dtype == np.uint8
    assert np.array_equal(plain.masks, ours.masks)


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("count", [0, 1, 10])
def test_all_steps_in_any_order(count, backend):
    mmcv.use_backend(backend)
    rng, drawn = np.random.default_rng(count), 0
    names = [name for name in STEPS if name not in ("smooth", "shift") or backend == "cv2"]
    try:
        for _ in range(25):
            plain, ours = loaded(rng, count)
            for name in rng.choice(names, 4):
                seed = int(rng.integers(1 << 30))
                try:
                    expected = STEPS[name](np.random.default_rng(seed), plain)
                except (ValueError, AssertionError):  # of MMDetection's own, on what has no pixels
                    continue
                plain, ours = expected, STEPS[name](np.random.default_rng(seed), ours)
            drawn += plain.masks.any()
            assert_same(plain, pickle.loads(pickle.dumps(ours)))
    finally:
        mmcv.use_backend("cv2")
    assert bool(drawn) is bool(count)


def test_a_pipeline_makes_no_whole_masks(monkeypatch):
    plain, ours = loaded(np.random.default_rng(3), 10)
    monkeypatch.setattr(CompactMasks, "masks", property(lambda self: pytest.fail("whole masks"), lambda self, _: None))
    sizes = [
        len(
            pickle.dumps(
                m.rescale((1333, 800)).flip().crop(np.array([100, 50, 900, 700])).pad((800, 1344))[np.arange(9)]
            )
        )
        for m in (plain, ours)
    ]
    assert sizes[0] > 9 * 800 * 1344 > 8 * sizes[1]


def test_whoever_writes_into_the_pixels_is_not_forgotten():
    ours = loaded(np.random.default_rng(4), 1)[1]
    ours.masks[:] = 1
    assert len(ours) == 1
    assert ours.flip()[0].masks.all()


def test_real_pictures_through_whole_pipelines(coco_root):
    """Images, boxes, labels and masks, of what is trained on and what is ignored."""
    augmentation = Config.fromfile(REPOSITORY / "configs/_base_/augmentation.py").augmentation
    for name in ("one_scale", "multi_scale_crop"):
        found = []
        for kind in ("LoadAnnotations", "LoadCompactAnnotations"):
            steps = [{"type": "LoadImageFromFile"}, {"type": kind, "with_bbox": True, "with_mask": True}]
            pipeline = [*steps, *augmentation[name], {"type": "PackDetInputs"}]
            dataset = DATASETS.build(dataset_config(coco_root, "val2017", metainfo={}, pipeline=pipeline))
            samples = []
            for index in range(0, 48, 16):
                np.random.seed(index)
                samples.append(dataset.prepare_data(index))
            found.append(samples)
        for plain, ours in zip(*found, strict=True):
            assert (plain["inputs"] == ours["inputs"]).all()
            for kind in ("gt_instances", "ignored_instances"):
                one, other = plain["data_samples"].get(kind), ours["data_samples"].get(kind)
                assert_same(one.masks, other.masks)
                assert (one.bboxes.tensor == other.bboxes.tensor).all()
                assert (one.labels == other.labels).all()


def test_recipes_use_it():
    for name in ("mask_rcnn_shuffle_t_coco", "cascade_mask_rcnn_dwnet_t_3x_coco", "mask_rcnn_shuffle_nano_shapes"):
        dataset = Config.fromfile(REPOSITORY / f"configs/{name}.py").train_dataloader.dataset
        assert TRANSFORMS.get(dataset.pipeline[1].type) is LoadCompactAnnotations
