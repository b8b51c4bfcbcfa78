"""Datasets of a config follow what lies below `data_root`."""

import json
import shutil
from pathlib import Path

import pytest
from coco_folder import NAMES, annotations, edited, gray, write_coco, write_config
from conftest import lines_logged_by
from mmengine.config import Config
from odd_layouts import CLASSES, LAYOUTS

from localvit_det.config import discovery, load_config
from localvit_det.config.utils import dataset_paths, find_datasets
from localvit_det.datasets import splits
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import ConfigError, DataError
from localvit_det.preflight import check_config

NANO = "mask_rcnn_shuffle_nano_shapes"
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def reported(monkeypatch) -> list[str]:
    return lines_logged_by(monkeypatch, discovery, splits)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=8, num_val=3, size=64)


@pytest.fixture
def mine(tmp_path) -> Path:
    """An empty folder for a set."""
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def one_file(root: Path, name: str = "labels.json", content: dict | None = None, images: str = "") -> Path:
    """A set with a single annotation file."""
    content = content or annotations(10)
    (root / images).mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        (root / images / image["file_name"]).write_bytes(gray(100, 80))
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(content))
    return root


def parts(cfg: Config) -> dict[str, tuple[dict, str]]:
    """Content of the annotation file and image folder of each split."""
    result = {}
    for split in ("train", "val", "test"):
        [(_, dataset)] = find_datasets(cfg, split)
        file, folder = dataset_paths(dataset)
        result[split] = json.loads(Path(file).read_text()), folder
    return result


def check_whole(cfg: Config) -> None:
    """All images are there, evaluators read what their datasets do, classes are the same and in the same order."""
    for split, (content, folder) in parts(cfg).items():
        assert content["images"]
        assert all((Path(folder) / image["file_name"]).is_file() for image in content["images"])
        assert [category["name"] for category in content["categories"]] == list(cfg.classes)
        if split != "train":
            [(_, dataset)] = find_datasets(cfg, split)
            assert Path(cfg[f"{split}_evaluator"].ann_file) == Path(dataset_paths(dataset)[0])
    train, val = ({image["file_name"] for image in parts(cfg)[split][0]["images"]} for split in ("train", "val"))
    assert parts(cfg)["train"][1] != parts(cfg)["val"][1] or not train & val


@pytest.mark.parametrize(
    ("name", "config"),
    [*((name, NANO) for name in LAYOUTS), *((name, "cascade_mask_rcnn_dwnet_t_3x_coco") for name in ("cvat", "boxes"))],
)
def test_layouts(shapes, mine, reported, name, config):
    make, layout, needed = LAYOUTS[name]
    make(shapes, mine)
    options = {"data_root": str(mine), "classes": "auto"}
    for option in needed:
        key, _, value = option.partition("=")
        options[key] = float(value) if key == "val_split" else False
    cfg = load_config(config, options)
    assert cfg.classes == CLASSES
    check_whole(cfg)
    check_config(cfg)
    check_config(cfg, train=False)
    [line] = reported
    assert line.startswith(f"data_root {mine}: {layout}; train: ")
    counts = {split: len(content["images"]) for split, (content, _) in parts(cfg).items()}
    assert counts == ({"train": 6, "val": 2, "test": 2} if needed else {"train": 8, "val": 3, "test": 3})
    assert f"{counts['train']} images" in line
    if name == "roboflow":
        assert "without the empty first category 'red circle'" in line
        assert cfg.test_dataloader.dataset.ann_file != cfg.val_dataloader.dataset.ann_file

    # What a checkpoint keeps finds everything again: as it is, and with the copies gone.
    kept = mine.parent / "kept.py"
    kept.write_text(cfg.pretty_text)
    again = load_config(kept)
    expected = parts(cfg)
    assert parts(again) == expected
    shutil.rmtree(mine.parent / "cache", ignore_errors=True)
    again = load_config(kept)
    assert again.classes == cfg.classes
    check_whole(again)
    assert parts(again) == expected


def test_a_checkpoint_on_other_data(shapes, tmp_path):
    """Nothing of the data that it was trained on is left; its classes stay, in their order."""
    for name in ("roboflow", "named_files"):
        (tmp_path / name).mkdir()
        LAYOUTS[name][0](shapes, tmp_path / name)
    cfg = load_config(NANO, {"data_root": str(tmp_path / "roboflow"), "classes": "auto"})
    (tmp_path / "kept.py").write_text(cfg.pretty_text)
    again = load_config(tmp_path / "kept.py", {"data_root": str(tmp_path / "named_files")})
    assert again.classes == CLASSES
    check_whole(again)
    assert "roboflow" not in again.pretty_text.lower().replace("roboflow's layout", "")
    assert again.recognized.layout == "files in COCO's format"

    one_file(tmp_path / "others", "train.json")
    one_file(tmp_path / "others", "val.json")
    others = load_config(tmp_path / "kept.py", {"data_root": str(tmp_path / "others")})
    with pytest.raises(DataError, match="3 of the 3 classes"):
        check_config(others, train=False)


def test_a_class_that_validation_lacks(tmp_path, mine):
    def without_zebra(content: dict) -> None:
        content["categories"] = [one for one in content["categories"] if one["name"] != "zebra"]
        content["annotations"] = [one for one in content["annotations"] if one["category_id"] != 30]

    one_file(mine, "train/a.json", images="train")
    one_file(mine, "val/a.json", edited(without_zebra), images="val")
    cfg = load_config(write_config(tmp_path), {"data_root": str(mine), "classes": "auto"})
    assert cfg.classes == NAMES
    check_whole(cfg)
    check_config(cfg)


def test_images_of_both_are_told(tmp_path, mine, reported):
    one_file(one_file(mine, "train.json"), "val.json")
    load_config(write_config(tmp_path), {"data_root": str(mine)})
    assert "10 images are in train and in val, which makes the results too good" in reported[0]


class TestSplit:
    def test_is_offered_and_never_made_in_silence(self, tmp_path, mine):
        root = one_file(mine, images="images")
        with pytest.raises(DataError, match=r"single annotation file, labels.json with 10 images.*set val_split=0.1,"):
            load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"})
        path = write_config(tmp_path, f"data_root = {str(root)!r}")
        with pytest.raises(DataError, match=r"val_split=0.1"):
            check_config(load_config(path))

    def test_is_the_same_for_the_same_images(self, tmp_path, mine):
        root = one_file(mine)
        options = {"data_root": str(root), "classes": "auto", "val_split": 0.3}

        def held() -> set[str]:
            cfg = load_config(write_config(tmp_path), options)
            check_whole(cfg)
            content = parts(cfg)
            ids = {image["id"] for image in content["val"][0]["images"]}
            assert {one["image_id"] for one in content["val"][0]["annotations"]} == ids
            return {image["file_name"] for image in content["val"][0]["images"]}

        first = held()
        assert len(first) == 3
        content = annotations(10)
        content["images"].reverse()
        one_file(mine, content=content)
        assert held() == first
        one_file(mine, content=annotations(12))
        assert len(held() & first) >= 2

    def test_of_a_set_with_validation_is_not_used(self, tmp_path, reported):
        root = write_coco(tmp_path / "mine")
        load_config(write_config(tmp_path), {"data_root": str(root), "val_split": 0.5})
        assert "val_split=0.5 is not used" in reported[0]

    @pytest.mark.parametrize("share", [0, 1.5, "tenth", True])
    def test_that_is_no_share(self, tmp_path, share):
        with pytest.raises(ConfigError, match="val_split"):
            load_config(write_config(tmp_path), {"val_split": share})

    def test_all_images_can_be_tested_on(self, tmp_path, mine):
        cfg = load_config(write_config(tmp_path), {"data_root": str(one_file(mine)), "classes": "auto", "val_split": 1})
        check_config(cfg, train=False)
        assert len(parts(cfg)["test"][0]["images"]) == 10


class TestByHand:
    def test_what_is_set_stays(self, tmp_path, mine):
        root = one_file(one_file(mine, "a/train.json", images="a"), "b/val.json", images="b")
        one_file(root, "own.json", annotations(2), images="c")
        options = {
            "data_root": str(root),
            "classes": "auto",
            "val_dataloader.dataset.ann_file": "own.json",
            "val_dataloader.dataset.data_prefix.img": "c/",
        }
        cfg = load_config(write_config(tmp_path), options)
        assert cfg.train_dataloader.dataset.ann_file == "a/train.json"
        assert cfg.val_dataloader.dataset.ann_file == "own.json"
        assert cfg.val_evaluator.ann_file == str(root / "own.json")  # follows
        assert cfg.test_dataloader.dataset.ann_file == "own.json"
        assert cfg.test_evaluator.ann_file == str(root / "own.json")
        check_config(cfg)
        check_config(cfg, train=False)
        cfg = load_config(write_config(tmp_path), {**options, "val_evaluator.ann_file": str(root / "b/val.json")})
        assert cfg.val_evaluator.ann_file == str(root / "b/val.json")

    def test_validation_alone(self, tmp_path, mine):
        """A single other file is that of training then, and nothing is split."""
        root = one_file(one_file(mine, "a/all.json", images="a"), "b/mine.json", images="b")
        body = "val_dataloader = dict(dataset=dict(ann_file='b/mine.json', data_prefix=dict(img='b/')))"
        cfg = load_config(write_config(tmp_path, body), {"data_root": str(root)})
        files = [cfg[f"{split}_dataloader"].dataset.ann_file for split in ("train", "val", "test")]
        assert files == ["a/all.json", "b/mine.json", "b/mine.json"]
        assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == str(root / "b/mine.json")

    def test_a_file_that_a_config_names_is_not_replaced(self, tmp_path, mine):
        root = one_file(one_file(mine, "train.json"), "val.json")
        path = write_config(tmp_path, "train_dataloader = dict(dataset=dict(ann_file='trian.json'))")
        cfg = load_config(path, {"data_root": str(root), "classes": list(NAMES)})
        assert cfg.train_dataloader.dataset.ann_file == "trian.json"
        with pytest.raises(DataError, match=r"train_dataloader.dataset.ann_file=train.json"):
            check_config(cfg)

    def test_root_and_classes_in_a_config_file(self, tmp_path, mine):
        root = one_file(one_file(mine, "train/my.json", images="train"), "valid/my.json", images="valid")
        body = f"data_root = {str(root)!r}\nclasses = 'auto'\nimage_size = 128"
        cfg = load_config(write_config(tmp_path, body))
        assert cfg.classes == NAMES
        assert cfg.val_evaluator.ann_file == str(root / "valid/my.json")
        assert cfg.test_dataloader.dataset.pipeline[1].scale == (128, 128)
        check_config(cfg)


class TestUnusedFiles:
    @pytest.fixture
    def root(self, mine) -> Path:
        content = annotations(3)
        for image in content["images"]:
            image["file_name"] = f"b{image['file_name']}"
        return one_file(one_file(mine, "train.json", images="photos"), "labels_b.json", content, images="more")

    def test_are_named_where_nothing_is_to_validate_on(self, tmp_path, root):
        sentence = (
            r"an annotation file to train on, train.json with 10 images, and nothing to validate on \(not used: "
            r"labels_b.json\): set val_split=0.1,.*val_dataloader.dataset.ann_file=labels_b.json"
        )
        with pytest.raises(DataError, match=sentence):
            load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"})
        path = write_config(tmp_path, f"data_root = {str(root)!r}")
        with pytest.raises(DataError, match=sentence):
            check_config(load_config(path))

    def test_are_named_beside_what_is_used(self, tmp_path, root, reported):
        options = {"data_root": str(root), "classes": "auto"}
        load_config(write_config(tmp_path), {**options, "val_split": 0.1})
        one_file(root, "val.json", images="v")
        load_config(write_config(tmp_path), options)
        words = "; not used: labels_b.json (to validate on it: val_dataloader.dataset.ann_file=labels_b.json)"
        assert "val_split leaves 1 of 3 classes without an object to validate on: dog;" in reported.pop(0)
        assert [words in line for line in reported] == [True, True]

    def test_serve_as_the_sentence_says(self, tmp_path, root, reported):
        options = {"data_root": str(root), "classes": "auto", "val_dataloader.dataset.ann_file": "labels_b.json"}
        cfg = load_config(write_config(tmp_path), options)
        assert {split: len(content["images"]) for split, (content, _) in parts(cfg).items()} == {
            "train": 10, "val": 3, "test": 3,
        }  # fmt: skip
        check_whole(cfg)
        check_config(cfg)
        check_config(cfg, train=False)
        assert "not used" not in reported[0]
        cfg = load_config(write_config(tmp_path), {**options, "val_dataloader.dataset.data_prefix.img": "val2017/"})
        assert cfg.val_dataloader.dataset.data_prefix.img == "val2017/"  # typed, and wrong


class TestNothingFits:
    def fails(self, tmp_path: Path, root: Path, *words: str, config: str | None = None) -> None:
        with pytest.raises(DataError) as caught:
            load_config(config or write_config(tmp_path), {"data_root": str(root), "classes": "auto"})
        for word in words:
            assert word in str(caught.value)
        assert "remove" not in str(caught.value)

    @pytest.mark.parametrize("config", [None, NANO])
    def test_no_annotations(self, tmp_path, mine, config):
        (mine / "photos").mkdir()
        (mine / "photos/a.jpg").write_bytes(gray(10, 10))
        (mine / "package.json").write_text("{}")
        self.fails(
            tmp_path, mine, str(mine), "images in photos/ (1)", "train_dataloader.dataset.ann_file=FILE.json",
            "train_dataloader.dataset.data_prefix.img=photos/", "val_dataloader.dataset.ann_file=", config=config,
        )  # fmt: skip

    def test_several_files(self, tmp_path, mine):
        one_file(one_file(mine, "first_train.json"), "second_train.json")
        self.fails(tmp_path, mine, "several annotation files for train (first_train.json, second_train.json)",
                   "train_dataloader.dataset.ann_file=first_train.json")  # fmt: skip

    def test_images_elsewhere(self, tmp_path, mine):
        one_file(mine, "train.json")
        for image in mine.glob("*.jpg"):
            image.unlink()
        self.fails(tmp_path, mine, "none of the 10 images that train.json lists, such as 001.jpg")

    def test_file_that_is_not_quite_coco(self, tmp_path, mine):
        (mine / "train.json").write_text('{"images": [{"id": 1}], "annotations": [], "categories": []}')
        self.fails(tmp_path, mine, "train.json is not in COCO format (no 'file_name'")

    @pytest.mark.parametrize("config", [None, NANO])
    def test_broken_data_of_other_formats(self, tmp_path, mine, config):
        (mine / "data.yaml").write_text("names: [cat]\ntrain: train/images\n")
        self.fails(tmp_path, mine, "data.yaml of", "names train/images, which is not there: correct it", config=config)
        (mine / "data.yaml").unlink()
        (mine / "a.xml").write_text("<annotation></annotation>")
        self.fails(tmp_path, mine, "Pascal VOC's format, but no images are found", config=config)

    def test_who_only_finds_objects_needs_no_data(self, tmp_path, mine):
        (mine / "other.txt").touch()
        load_config(write_config(tmp_path, f"data_root = {str(mine)!r}"))


class TestShapes:
    def test_other_images_make_plain_sets(self, tmp_path, reported):
        root = write_coco(tmp_path / "mine")
        cfg = load_config(NANO, {"data_root": str(root), "classes": "auto"})
        assert {dataset.type for split in ("train", "val", "test") for _, dataset in find_datasets(cfg, split)} == {
            "CocoDataset"
        }
        assert cfg.train_dataloader.dataset.pipeline[2] == dict(type="Resize", scale=(160, 160), keep_ratio=True)
        check_config(cfg)
        assert reported == [
            f"data_root {root}: COCO's layout; train: annotations/instances_train2017.json, 4 images, "
            "8 annotations, 3 classes; val: annotations/instances_val2017.json, 4 images, 8 annotations, 3 classes."
        ]

    def test_drawn_ones_stay(self, shapes):
        cfg = load_config(NANO, {"data_root": str(shapes)})
        assert cfg.train_dataloader.dataset.type == "ShapesDataset"
        assert [step.type for step in cfg.train_dataloader.dataset.pipeline].count("Resize") == 0

    def test_data_of_others_stay(self, mine):
        (mine / "photos").mkdir()
        with pytest.raises(DataError, match="nothing is drawn over it") as caught:
            make_shapes(mine)
        assert "remove" not in str(caught.value)
        with pytest.raises(DataError, match="nothing is drawn over it"):
            check_config(load_config(NANO, {"data_root": str(mine), "draw": True}))


def test_masks_that_are_missing_name_the_switch(shapes, mine):
    LAYOUTS["boxes"][0](shapes, mine)
    cfg = load_config(NANO, {"data_root": str(mine), "classes": "auto", "val_split": 0.25})
    with pytest.raises(DataError, match=r"have no segmentation.*with_mask=False") as caught:
        check_config(cfg)
    assert str(mine / "train.json") in str(caught.value)  # and not the copy
    cfg = load_config("mask2former_shuffle_t_coco", {"data_root": str(mine), "classes": "auto", "val_split": 0.25})
    with pytest.raises(DataError, match="take a config without masks"):
        check_config(cfg)
