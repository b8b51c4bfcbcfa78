"""Files that a config names itself get what found ones get: right names, missing keys, the order of the classes."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_folder import NAMES, annotations, write_config
from conftest import few, lines_logged_by
from file_counts import parsed_files
from mmdet.registry import DATASETS
from pycocotools import mask as coco_masks

from localvit_det.config import discovery, load_config
from localvit_det.config.utils import dataset_paths, find_datasets
from localvit_det.datasets import splits, summary
from localvit_det.datasets.normalize import is_copy
from localvit_det.errors import ConfigError, DataError
from localvit_det.preflight import check_config, data

pytestmark = pytest.mark.usefixtures("cache")
PLACES = {"coco": ("annotations/instances_{}2017.json", "{}2017"), "plain": ("{}.json", "images/{}")}


@pytest.fixture
def reported(monkeypatch) -> list[str]:
    return lines_logged_by(monkeypatch, discovery, splits, data)


def names(change):
    """A fault of the file names: `change(name, folder)`."""

    def edit(content: dict, folder: str) -> None:
        for image in content["images"]:
            image["file_name"] = change(image["file_name"], folder)

    return edit


def without(key: str):
    def edit(content: dict, folder: str) -> None:
        for annotation in content["annotations"]:
            del annotation[key]

    return edit


def twice(content: dict, folder: str) -> None:
    """As two files that were put together."""
    for annotation in content["annotations"][4:]:
        annotation["id"] -= 4


def reverse(content: dict, folder: str) -> None:
    if folder.startswith("val") or "/val" in folder:
        content["categories"].reverse()


FAULTS = {
    "backslashes": (names(lambda name, folder: f"{folder.split('/')[-1]}\\{name}"), "4 file names corrected"),
    "absolute": (names(lambda name, folder: f"/home/anna/pictures/{name}"), "4 file names corrected"),
    "addresses": (names(lambda name, folder: f"https://host/b/{name}?x=1"), "4 file names corrected"),
    "percent": (names(lambda name, folder: name.replace("0", "%30")), "4 file names corrected"),
    "prefix": (names(lambda name, folder: f"{folder.split('/')[-1]}/{name}"), "images in "),
    "case": (names(lambda name, folder: name.replace("jpg", "JPG")), "4 file names corrected, 4 of them in case"),
    "area": (without("area"), "area of the box added to 8 annotations"),
    "iscrowd": (without("iscrowd"), "iscrowd of 0 added to 8 annotations"),
    "ids": (twice, "annotations numbered anew, since 4 had the id of another one"),
    "order": (reverse, "categories in the order of the classes"),
}


def write(root: Path, layout: str, edit=lambda content, folder: None) -> Path:
    for split in ("train", "val"):
        file, folder = (place.format(split) for place in PLACES[layout])
        content = copy.deepcopy(annotations())
        (root / folder).mkdir(parents=True)
        for index, image in enumerate(content["images"]):
            image["file_name"] = f"{split}{image['file_name']}"
            pixels = np.full((80, 100, 3), 40 * index, np.uint8)
            (root / folder / image["file_name"]).write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
        edit(content, folder)
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text(json.dumps(content))
    return root


def loaded(cfg, split: str = "val") -> list[dict]:
    """What MMDetection reads: the base name of each image that is there, with its labels."""
    [(_, dataset)] = find_datasets(cfg, split)
    built = DATASETS.build({**dataset, "pipeline": []})
    infos = [built.get_data_info(index) for index in range(len(built))]
    assert all(Path(info["img_path"]).is_file() for info in infos)
    return [
        {
            "name": Path(info["img_path"]).name,
            "labels": [(one["bbox"], one["bbox_label"], one["ignore_flag"]) for one in info["instances"]],
        }
        for info in infos
    ]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, list[dict]]:
    """What is read of each split where nothing is wrong."""
    folder = tmp_path_factory.mktemp("good")
    cfg = load_config(write_config(folder), {"data_root": str(write(folder / "mine", "coco")), "classes": "auto"})
    return {split: loaded(cfg, split) for split in ("train", "val", "test")}


@pytest.mark.parametrize("layout", few(PLACES, "plain"))
@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_fault_is_repaired_in_all_layouts(tmp_path, good, reported, layout, fault):
    edit, words = FAULTS[fault]
    root = write(tmp_path / "mine", layout, edit)
    before = {file: file.read_bytes() for file in root.rglob("*.json")}
    cfg = load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"})
    check_config(cfg)
    assert cfg.classes == NAMES
    assert {split: loaded(cfg, split) for split in good} == good
    for split in ("val", "test"):
        assert cfg[f"{split}_evaluator"].ann_file.endswith(cfg[f"{split}_dataloader"].dataset.ann_file)
    assert {file: file.read_bytes() for file in before} == before  # the user's files stay
    assert not any("is scored" in line for line in reported)  # the copy is no other file
    if not (layout == "plain" and fault == "prefix"):
        assert words in reported[-1]


def test_a_file_that_is_named_by_hand(tmp_path, reported):
    root = write(tmp_path / "mine", "plain", FAULTS["backslashes"][0])
    options = {"data_root": str(root), "classes": "auto"}
    for split in ("train", "val", "test"):
        options[f"{split}_dataloader.dataset.ann_file"] = "train.json" if split == "train" else "val.json"
        options[f"{split}_dataloader.dataset.data_prefix.img"] = f"images/{'train' if split == 'train' else 'val'}/"
    cfg = load_config(write_config(tmp_path), options)
    check_config(cfg)
    assert "train: train.json, 4 images, 8 annotations, 3 classes (4 file names corrected)" in reported[0]
    assert [one["name"] for one in loaded(cfg)] == ["val001.jpg", "val002.jpg", "val003.jpg", "val004.jpg"]


def test_what_a_checkpoint_keeps_is_made_again(tmp_path, cache):
    root = write(tmp_path / "mine", "coco", FAULTS["absolute"][0])
    cfg = load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"})
    (tmp_path / "kept.py").write_text(cfg.pretty_text)
    for file in cache.rglob("*.json"):
        file.unlink()
    again = load_config(tmp_path / "kept.py")
    assert loaded(again) == loaded(cfg)
    check_config(again, train=False)
    write(tmp_path / "other", "coco")
    other = load_config(tmp_path / "kept.py", {"data_root": str(tmp_path / "other")})
    assert other.val_dataloader.dataset.ann_file == "annotations/instances_val2017.json"
    assert other.val_dataloader.dataset.data_prefix.img == "val2017/"
    assert other.val_evaluator.ann_file == str(tmp_path / "other/annotations/instances_val2017.json")


def test_a_second_start_parses_nothing(tmp_path, cache, monkeypatch):
    root = write(tmp_path / "mine", "coco", FAULTS["absolute"][0])
    monkeypatch.setattr(summary, "_SMALL", 0)
    config = write_config(tmp_path)
    starts = []
    for _ in range(2):
        reads = parsed_files(monkeypatch)
        cfg = load_config(config, {"data_root": str(root), "classes": "auto"})
        check_config(cfg)
        starts.append((loaded(cfg), len(reads)))
    (first, many), (second, none) = starts
    assert first == second
    assert (many, none) == (4, 0)  # each file to check it, and to change it


def test_good_files_are_not_copied_and_read_once(tmp_path, cache, monkeypatch):
    root = write(tmp_path / "mine", "coco")
    reads = parsed_files(monkeypatch)
    cfg = load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"})
    check_config(cfg)
    assert not cache.exists()
    assert sorted(reads) == ["instances_train2017.json", "instances_val2017.json"]
    assert "recognized" not in cfg


def test_two_cameras_of_which_one_is_there(tmp_path):
    """MMDetection's labels of 40 names on 20 files gave AP 0.222 instead of 0.683."""
    content = annotations(4)
    for index, image in enumerate(content["images"]):
        image["file_name"] = f"cam{1 + index // 2}/{index % 2:03d}.jpg"
    for layout, (file, _) in PLACES.items():
        root = tmp_path / layout
        for split in ("train", "val"):
            (root / file.format(split)).parent.mkdir(parents=True, exist_ok=True)
            (root / file.format(split)).write_text(json.dumps(content))
        (root / "cam2").mkdir()
        for index in range(2):
            (root / f"cam2/{index:03d}.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((80, 100, 3)))[1].tobytes())
        with pytest.raises(DataError, match=r"lacks 2 of the 4 images.*cam1/000.jpg: cam2/000.jpg is not taken"):
            load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"})


class TestCrowds:
    """Brush tools write an object as a crowd, with run lengths for its mask."""

    @pytest.fixture
    def root(self, tmp_path) -> Path:
        def brush(content: dict, folder: str) -> None:
            for annotation in content["annotations"][:6]:
                x, y, w, h = annotation["bbox"]
                mask = np.zeros((80, 100), np.uint8, order="F")
                mask[y : y + h, x : x + w] = 1
                counts = coco_masks.encode(mask)["counts"].decode()
                annotation.update(iscrowd=1, segmentation={"size": [80, 100], "counts": counts})

        return write(tmp_path / "mine", "coco", brush)

    def test_are_reported_with_their_split(self, tmp_path, root, reported):
        cfg = load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"})
        check_config(cfg)
        lines = [line for line in reported if "crowds_as_objects=True" in line]
        assert ["6 of 8 objects" in line and "(75%)" in line for line in lines] == [True, True]
        assert [line.partition(":")[0] for line in lines] == ["train", "val"]
        assert "nothing is learnt" in lines[0]
        assert "nothing is scored" in lines[1]

    @pytest.mark.parametrize("polygons", [False, True])
    def test_are_taken_as_objects(self, tmp_path, root, reported, polygons):
        body = "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict("
        body += (
            "type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False), dict(type='PackDetInputs')]))"
        )
        options = {"data_root": str(root), "classes": "auto", "crowds_as_objects": True}
        cfg = load_config(write_config(tmp_path, body if polygons else ""), options)
        check_config(cfg)
        assert "6 crowds taken as objects" in reported[0]
        assert not any(flag for one in loaded(cfg, "train") for _, _, flag in one["labels"])
        dataset = DATASETS.build({**cfg.train_dataloader.dataset})
        image = dataset[0]["data_samples"]
        masks = image.gt_instances.masks.to_ndarray()
        assert len(masks) == 2
        # The box of each mask is that of the annotations, at the scale of the image.
        for mask, box in zip(masks, image.gt_instances.bboxes.tensor.numpy(), strict=True):
            rows, columns = np.nonzero(mask)
            np.testing.assert_allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], box, atol=2)
        assert is_copy(cfg.val_evaluator.ann_file)
        assert all(
            one["iscrowd"] == 0 for one in json.loads(Path(cfg.val_evaluator.ann_file).read_text())["annotations"]
        )

    def test_without_effect_is_refused(self, tmp_path, root):
        body = f"data_root = {str(root)!r}\ntrain_dataloader = dict(dataset=dict(type='LVISDataset'))"
        with pytest.raises(ConfigError, match=r"no effect on train_dataloader.dataset"):
            load_config(write_config(tmp_path, body), {"crowds_as_objects": True})
        with pytest.raises(ConfigError, match="neither True nor False"):
            load_config(write_config(tmp_path), {"crowds_as_objects": "yes"})

    def test_run_lengths_that_a_pipeline_of_polygons_leaves_out(self, tmp_path, root):
        content = json.loads((root / "annotations/instances_train2017.json").read_text())
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 0
        (root / "annotations/instances_train2017.json").write_text(json.dumps(content))
        body = "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict("
        body += (
            "type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False), dict(type='PackDetInputs')]))"
        )
        cfg = load_config(write_config(tmp_path, body), {"data_root": str(root), "classes": "auto"})
        with pytest.raises(DataError, match=r"6 of the 8 annotations .* RLE .*pipeline.1.poly2mask=True"):
            check_config(cfg)


def test_paths_are_those_of_the_dataset(tmp_path):
    """A folder that a config names is searched alone."""
    root = write(tmp_path / "mine", "coco", FAULTS["case"][0])
    options = {"data_root": str(root), "val_dataloader.dataset.data_prefix.img": "val2017/"}
    cfg = load_config(write_config(tmp_path), options)
    [(_, dataset)] = find_datasets(cfg, "val")
    assert Path(dataset_paths(dataset)[1]) == root / "val2017"
