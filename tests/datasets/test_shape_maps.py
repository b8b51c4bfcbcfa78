"""Semantic and panoptic maps of the synthetic shapes agree with their annotations."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS
from pycocotools.coco import COCO

from localvit_det.datasets.synthetic_shapes import annotation_file, make_shapes
from localvit_det.datasets.synthetic_shapes_datasets import make_panoptic_maps, make_semantic_maps
from localvit_det.errors import DataError
from localvit_det.ops.panopticapi import rgb2id
from localvit_det.preflight.images import check_panoptic_maps


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=12, num_val=9, size=96)


@pytest.fixture(scope="module")
def coco(root: Path) -> COCO:
    return COCO(str(annotation_file(root, "val")))


def test_semantic_maps(root, coco):
    folder = make_semantic_maps(root)
    assert len(list((folder / "train2017").iterdir())) == 12
    for image in coco.loadImgs(coco.getImgIds()):
        labels = cv2.imread(str(folder / "val2017" / f"{image['id']:012d}.png"), cv2.IMREAD_UNCHANGED)
        assert (labels.dtype, labels.shape) == (np.uint8, (96, 96))
        expected = np.full((96, 96), 3)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):  # from back to front
            expected[coco.annToMask(annotation) == 1] = annotation["category_id"] - 1
        np.testing.assert_array_equal(labels, expected)


def test_panoptic_maps(root, coco):
    folder = make_panoptic_maps(root)
    table = json.loads((folder / "val2017.json").read_text())
    assert [category["isthing"] for category in table["categories"]] == [1, 1, 1, 0]
    assert {annotation["image_id"] for annotation in table["annotations"]} == set(coco.imgs)
    empty = 0
    for annotation in table["annotations"]:
        colors = cv2.imread(str(folder / "val2017" / annotation["file_name"]))[..., ::-1]
        ids = rgb2id(np.ascontiguousarray(colors))
        infos = annotation["segments_info"]
        assert set(np.unique(ids)) == {info["id"] for info in infos}
        for info in infos:
            mask = (ids == info["id"]).astype(np.uint8)
            assert info["area"] == mask.sum()
            assert tuple(info["bbox"]) == cv2.boundingRect(mask)
        things = [info["category_id"] for info in infos if info["category_id"] < 4]
        drawn = coco.loadAnns(coco.getAnnIds(annotation["image_id"]))
        assert sorted(things) == sorted(item["category_id"] for item in drawn)
        empty += not things
    assert empty  # an image without objects is all background


def test_the_panoptic_data_set_makes_itself(root):
    cls = DATASETS.get("ShapesPanopticDataset")
    assert cls.prepare(root) == root
    dataset = cls(
        ann_file="panoptic/train2017.json",
        data_root=str(root),
        data_prefix={"img": "train2017/", "seg": "panoptic/train2017/"},
        pipeline=[{"type": "LoadImageFromFile"}, {"type": "LoadPanopticAnnotations"}],
    )
    item = dataset[0]
    assert len(item["gt_masks"]) == len(item["gt_bboxes"]) > 0
    assert set(np.unique(item["gt_seg_map"])) <= {0, 1, 2, 3}


def test_many_may_ask_at_once(tmp_path):
    root = make_shapes(tmp_path / "shapes", num_train=2, num_val=2, size=64)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(make_semantic_maps, [root] * 4)) == {root / "semantic"}
    assert not [path.name for path in root.iterdir() if path.name.startswith(".")]


def test_a_folder_without_a_set(tmp_path):
    with pytest.raises(DataError, match="semantic maps of the synthetic shapes cannot be made"):
        make_semantic_maps(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_large_panoptic_map_is_found_before_a_run(root):
    dataset = {"data_root": str(root), "data_prefix": {"seg": "panoptic/val2017/"}}
    make_panoptic_maps(root)
    check_panoptic_maps("val_dataloader.dataset", dataset, 96 * 96)
    with pytest.raises(DataError, match=r"The label map .*png of val_dataloader.dataset has 96 x 96 pixels, over the"):
        check_panoptic_maps("val_dataloader.dataset", dataset, 96 * 96 - 1)
