"""Synthetic shapes: the drawing, its datasets in MMDetection, and label maps that agree with the annotations."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS
from pycocotools.coco import COCO
from shapely.geometry import Polygon

import localvit_det  # noqa: F401 - registers the dataset
from localvit_det.datasets import synthetic_shapes, synthetic_shapes_datasets
from localvit_det.datasets.shapes import main
from localvit_det.datasets.synthetic_shapes import OUTLINES, PALETTES, annotation_file, draw_image, make_shapes
from localvit_det.datasets.synthetic_shapes_datasets import make_panoptic_maps, make_semantic_maps
from localvit_det.errors import DataError
from localvit_det.ops.panopticapi import rgb2id
from localvit_det.preflight.images import check_panoptic_maps

SMALL = {"num_train": 10, "num_val": 4, "size": 96}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of the default size in pixels, with fewer images."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=80, num_val=20)


@pytest.fixture(scope="module")
def coco(root: Path) -> COCO:
    return COCO(str(annotation_file(root, "train")))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, again, other = (
        contents(make_shapes(tmp_path / name, **SMALL, seed=seed)) for name, seed in [("a", 3), ("b", 3), ("c", 4)]
    )
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    assert len(first) == 10 + 4 + 2


def test_outlines_have_area_1() -> None:
    assert {name: len(ring) for name, ring in OUTLINES.items()} == {
        "circle": 48, "square": 4, "triangle": 3, "star": 10,
    }  # fmt: skip
    for name, ring in OUTLINES.items():
        assert Polygon(ring).area == pytest.approx(1)
        radii = np.linalg.norm(ring, axis=1)
        assert radii.min() / radii.max() == pytest.approx(0.45 if name == "star" else 1)
        assert ring[0] == pytest.approx([0, -radii.max()])  # points up


# What these seeds have always drawn, from back to front: label, areas of the parts, bounds of the first one. Then the
# mean of each channel, and the deviation of the image. Another drawing needs another _VERSION in synthetic_shapes.py.
DRAWN = {
    4: (
        [
            (3, [1556.30, 44.92], [32.62, 14.96, 88.18, 82.57]),
            (2, [222.94], [24.00, 61.25, 46.59, 81.89]),
            (2, [135.73], [30.10, 44.17, 46.35, 61.76]),
            (1, [204.47], [0.00, 22.38, 14.19, 37.61]),
        ],
        [168.37, 182.25, 191.77, 31.10],
    ),
    11: (
        [
            (0, [1314.41, 3.09], [0.00, 30.36, 46.57, 79.26]),
            (3, [3270.85], [9.71, 0.00, 96.00, 81.72]),
            (3, [69.30], [17.92, 28.45, 31.17, 42.21]),
        ],
        [115.52, 138.60, 136.15, 57.88],
    ),
}


@pytest.mark.parametrize("seed", DRAWN)
def test_drawing_stays_as_it_was(seed: int) -> None:
    image, objects = draw_image(np.random.default_rng(seed), 96, tuple(OUTLINES), "dusk")
    expected, colors = DRAWN[seed]
    assert [one.label for one in objects] == [label for label, *_ in expected]
    for one, (_, areas, bounds) in zip(objects, expected, strict=True):
        assert [part.area for part in one.parts] == pytest.approx(areas, abs=0.02)
        assert one.parts[0].bounds == pytest.approx(bounds, abs=0.02)
    assert [*image.reshape(-1, 3).mean(0), image.std()] == pytest.approx(colors, abs=0.1)


def test_more_images_leave_the_first_ones_alone(tmp_path: Path) -> None:
    few = contents(make_shapes(tmp_path / "few", **SMALL))
    many = contents(make_shapes(tmp_path / "many", **{**SMALL, "num_train": 12}))
    images = [name for name in few if name.startswith("train2017")]
    assert all(few[name] == many[name] for name in images)


def test_train_and_val_differ(root: Path) -> None:
    images = [path.read_bytes() for path in root.glob("*2017/*.jpg")]
    assert len(set(images)) == len(images) == 100


def test_numbers_start_at_1(root: Path, coco: COCO) -> None:
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    assert sorted(coco.imgs) == list(range(1, 81))
    assert coco.cats == {i: {"id": i, "name": name} for i, name in enumerate(("circle", "square", "triangle"), 1)}
    assert sorted(COCO(str(annotation_file(root, "val"))).imgs) == list(range(81, 101))


def test_variety(coco: COCO) -> None:
    areas = np.array([annotation["area"] for annotation in coco.anns.values()])
    assert {annotation["category_id"] for annotation in coco.anns.values()} == {1, 2, 3}
    assert np.histogram(areas, [0, 32**2, 96**2, 160**2])[0].min() >= 5  # COCO's small, medium, large
    assert 1 <= sum(not coco.getAnnIds(image) for image in coco.imgs) <= 8
    assert any(len(annotation["segmentation"]) > 1 for annotation in coco.anns.values())


def test_masks_boxes_and_areas_agree(coco: COCO) -> None:
    box_differences = []
    for image in coco.imgs:
        annotations = coco.loadAnns(coco.getAnnIds(image))
        masks = [coco.annToMask(annotation) for annotation in annotations]
        for annotation, mask in zip(annotations, masks, strict=True):
            assert abs(mask.sum() - annotation["area"]) <= 4 + 0.04 * annotation["area"]
            left, top, width, height = annotation["bbox"]
            assert min(left, top) >= 0
            assert max(left + width, top + height) <= 160
            box_differences.append(np.abs(np.subtract(annotation["bbox"], cv2.boundingRect(mask))))
        # Only the visible part of an object is its mask: no pixel belongs to two, but for rounding at edges.
        overlap = np.sum([np.zeros((160, 160)), *masks], axis=0) > 1
        assert not cv2.erode(overlap.astype(np.uint8), np.ones((3, 3))).any()
    assert np.mean(box_differences) < 0.6  # half a pixel is rounding
    assert np.max(box_differences) < 6  # the thin end of a visible sliver covers no whole pixel


def test_masks_cover_the_painted_pixels(root: Path, coco: COCO) -> None:
    """A shift by two pixels, or an order of occlusion turned round, would mix in other colours."""
    colours = np.array([PALETTES["bright"][name] for name in ("circle", "square", "triangle")], float)
    right = total = 0
    for image in coco.loadImgs(list(coco.imgs)):
        rgb = cv2.imread(str(root / "train2017" / image["file_name"]))[..., ::-1].astype(float)
        nearest = np.linalg.norm(rgb[:, :, None] - colours, axis=-1).argmin(-1) + 1
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            inside = coco.annToMask(annotation).astype(bool)
            right += (nearest[inside] == annotation["category_id"]).sum()
            total += inside.sum()
    assert right / total > 0.98


def test_holes_are_cut_open(tmp_path: Path) -> None:
    """A small shape in the middle of a big one must not count as part of it."""
    root = make_shapes(tmp_path / "set", num_train=120, num_val=1)
    coco = COCO(str(annotation_file(root, "train")))
    nested = 0
    for image in coco.imgs:
        masks = [coco.annToMask(annotation) for annotation in coco.loadAnns(coco.getAnnIds(image))]
        for mask in masks:
            contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            del contours
            nested += bool((hierarchy[0, :, 3] >= 0).any())
    assert nested > 5


def test_second_set_with_a_star(tmp_path: Path) -> None:
    classes = ("circle", "square", "triangle", "star")
    root = make_shapes(tmp_path / "stars", **SMALL, classes=classes, palette="dusk")
    coco = COCO(str(annotation_file(root, "train")))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(classes)
    assert 4 in {annotation["category_id"] for annotation in coco.anns.values()}


def test_asking_twice_keeps_the_set(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "set", **SMALL)
    before = annotation_file(root, "val").stat().st_mtime_ns
    assert make_shapes(root, **SMALL) == root
    assert annotation_file(root, "val").stat().st_mtime_ns == before


def test_other_settings_are_not_mixed_up(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "set", **SMALL)
    with pytest.raises(DataError, match="seed 0 instead of 1"):
        make_shapes(root, **SMALL, seed=1)


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="holds something else than synthetic shapes"):
        make_shapes(tmp_path / "mine", **SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("No space left on device")])
def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException) -> None:
    def stop_at_val(root: Path, split: str, *args: object, **kwargs: object) -> None:
        if split == "val":
            raise stop
        write(root, split, *args, **kwargs)

    write = synthetic_shapes._write_split
    monkeypatch.setattr(synthetic_shapes, "_write_split", stop_at_val)
    with pytest.raises((KeyboardInterrupt, DataError)):
        make_shapes(tmp_path / "set", **SMALL)
    assert not list(tmp_path.iterdir())


def test_many_at_once_make_one_set(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        roots = list(pool.map(lambda _: make_shapes(tmp_path / "set", **SMALL), range(8)))
    assert set(roots) == {tmp_path / "set"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(contents(tmp_path / "set")) == 10 + 4 + 2


@pytest.mark.parametrize(
    "mistake",
    [
        {"classes": ("circle", "hexagon")},
        {"classes": ("circle", "circle")},
        {"classes": ()},
        {"palette": "neon"},
        {"num_val": 0},
        {"size": 8},
    ],
)
def test_senseless_settings(tmp_path: Path, mistake: dict) -> None:
    with pytest.raises(DataError):
        make_shapes(tmp_path / "set", **{**SMALL, **mistake})


def test_command_line(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "set"), "--num-train", "2", "--num-val", "2", "--size", "64", "--seed"]
    main([*arguments, "5"])
    assert json.loads(annotation_file(tmp_path / "set", "val").read_text())["info"]["settings"]["seed"] == 5
    with pytest.raises(SystemExit, match="seed 5 instead of 6"):
        main([*arguments, "6"])


def test_dataset_in_mmdetection(root: Path) -> None:
    dataset = DATASETS.build(
        {
            "type": "ShapesDataset",
            "data_root": str(root),
            "ann_file": "annotations/instances_train2017.json",
            "data_prefix": {"img": "train2017/"},
            "filter_cfg": {"filter_empty_gt": True},
        }
    )
    assert dataset.metainfo["classes"] == ("circle", "square", "triangle")
    assert 70 <= len(dataset) < 80  # without the empty ones
    infos = [dataset.get_data_info(index) for index in range(20)]
    assert {instance["bbox_label"] for info in infos for instance in info["instances"]} == {0, 1, 2}


def test_prepare_makes_the_set_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = DATASETS.get("ShapesDataset")
    own = make_shapes(tmp_path / "own", **SMALL)
    assert dataset.prepare(own) == own  # any synthetic shapes are good

    monkeypatch.setattr(synthetic_shapes_datasets, "make_shapes", lambda root: make_shapes(root, **SMALL))
    with pytest.raises(DataError, match=r"no synthetic shapes at .*new .* holds .*own/.*--draw"):
        dataset.prepare(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert len(contents(dataset.prepare(str(tmp_path / "new"), consent=True))) == 10 + 4 + 2
    monkeypatch.chdir(tmp_path)
    assert len(contents(dataset.prepare("data/shapes/"))) == 10 + 4 + 2


# ---------------------------------------------------------------------------------------------- label maps


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=12, num_val=9, size=96)


@pytest.fixture(scope="module")
def coco_of_few(few: Path) -> COCO:
    return COCO(str(annotation_file(few, "val")))


def test_semantic_maps(few, coco_of_few):
    folder = make_semantic_maps(few)
    assert len(list((folder / "train2017").iterdir())) == 12
    for image in coco_of_few.loadImgs(coco_of_few.getImgIds()):
        labels = cv2.imread(str(folder / "val2017" / f"{image['id']:012d}.png"), cv2.IMREAD_UNCHANGED)
        assert (labels.dtype, labels.shape) == (np.uint8, (96, 96))
        expected = np.full((96, 96), 3)
        for annotation in coco_of_few.loadAnns(coco_of_few.getAnnIds(image["id"])):  # from back to front
            expected[coco_of_few.annToMask(annotation) == 1] = annotation["category_id"] - 1
        np.testing.assert_array_equal(labels, expected)


def test_panoptic_maps(few, coco_of_few):
    folder = make_panoptic_maps(few)
    table = json.loads((folder / "val2017.json").read_text())
    assert [category["isthing"] for category in table["categories"]] == [1, 1, 1, 0]
    assert {annotation["image_id"] for annotation in table["annotations"]} == set(coco_of_few.imgs)
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
        drawn = coco_of_few.loadAnns(coco_of_few.getAnnIds(annotation["image_id"]))
        assert sorted(things) == sorted(item["category_id"] for item in drawn)
        empty += not things
    assert empty  # an image without objects is all background


def test_the_panoptic_data_set_makes_itself(few):
    cls = DATASETS.get("ShapesPanopticDataset")
    assert cls.prepare(few) == few
    dataset = cls(
        ann_file="panoptic/train2017.json",
        data_root=str(few),
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


def test_a_large_panoptic_map_is_found_before_a_run(few):
    dataset = {"data_root": str(few), "data_prefix": {"seg": "panoptic/val2017/"}}
    make_panoptic_maps(few)
    check_panoptic_maps("val_dataloader.dataset", dataset, 96 * 96)
    with pytest.raises(DataError, match=r"The label map .*png of val_dataloader.dataset has 96 x 96 pixels, over the"):
        check_panoptic_maps("val_dataloader.dataset", dataset, 96 * 96 - 1)
