"""Sets of other layouts train, evaluate and predict with their root and `classes=auto` alone."""

import argparse
import json
from pathlib import Path

import pytest
from conftest import lines_logged_by
from odd_layouts import CLASSES, LAYOUTS

from localvit.commands import predict, test, train
from localvit_det.cli import config_from, make_parser
from localvit_det.config import discovery, model, pipelines
from localvit_det.config.utils import dataset_paths, find_datasets
from localvit_det.config_names import find_config
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import CheckpointError

NAME = "mask_rcnn_shuffle_nano_shapes"
QUICK = [
    *(
        "workers=0",
        "train_cfg.max_epochs=1",
        "train_cfg.val_interval=1",
        "train_dataloader.batch_size=3",
        "image_size=96",
    ),
    "omit_hooks=CurvesHook",
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=8, num_val=3, size=96)


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# With a test set, with a split made by itself, and without masks; test_discovery.py reads all layouts.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["roboflow", "label_studio", "boxes"])
def test_trains_evaluates_and_predicts(name, shapes, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
    reported = lines_logged_by(monkeypatch, discovery, model, pipelines)
    make, layout, needed = LAYOUTS[name]
    root, run = tmp_path / "my data", tmp_path / "run"
    root.mkdir()
    make(shapes, root)
    before = files(root)
    options = ["--cfg-options", f"data_root={root}", "classes=auto"]

    train.main([NAME, "--work-dir", str(run), *options, *needed, *QUICK])
    said = "".join(capfd.readouterr())
    *of_masks, line, size = reported
    assert len(of_masks) == (name == "boxes")
    for word in (f"data_root {root}: {layout}; ", "train:", "val:", "images", "annotations", "3 classes"):
        assert word in line
    assert size.startswith("Images are scaled to fit into 96x96")
    assert "\nbbox  " in said
    assert ("\nsegm  " in said) is (name != "boxes")

    # The work dir alone measures on images that it was not trained on.
    test.main([str(run), "--work-dir", str(tmp_path / "test")])
    assert "\nbbox  " in "".join(capfd.readouterr())

    images = sorted(path for path in root.rglob("*.jpg"))[:2]
    found = tmp_path / "found.json"
    predict.main([str(run), *map(str, images), "--no-images", "--json", str(found), "--score", "0", "--quiet"])
    content = json.loads(found.read_text())
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    assert len(content["images"]) == 2
    assert content["annotations"]
    assert files(root) == before


class TestClassesOfCheckpoint:
    @pytest.fixture
    def arguments(self, shapes, tmp_path, monkeypatch) -> argparse.Namespace:
        monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
        root = tmp_path / "mine"
        root.mkdir()
        LAYOUTS["named_files"][0](shapes, root)
        return make_parser("").parse_args([NAME, "--cfg-options", f"data_root={root}", "classes=auto"])

    def test_order(self, arguments, monkeypatch):
        cfg = config_from(arguments)
        cfg.load_from = "x.pth"
        trained = (CLASSES[1], CLASSES[2], CLASSES[0])
        monkeypatch.setattr(test, "saved_classes", lambda _: trained)
        followed = test.with_classes_of_checkpoint(arguments, cfg)
        assert (followed.classes, followed.load_from) == (trained, "x.pth")
        [(_, dataset)] = find_datasets(followed, "test")
        content = json.loads(Path(dataset_paths(dataset)[0]).read_text())
        assert tuple(category["name"] for category in content["categories"]) == trained
        monkeypatch.setattr(test, "saved_classes", lambda _: CLASSES)
        assert test.with_classes_of_checkpoint(arguments, cfg) is cfg

    def test_order_of_files_under_cocos_names(self, shapes, tmp_path, monkeypatch):
        monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
        arguments = make_parser("").parse_args([NAME, "--cfg-options", f"data_root={shapes}", "classes=auto"])
        cfg = config_from(arguments)
        cfg.load_from = "x.pth"
        trained = cfg.classes[::-1]
        monkeypatch.setattr(test, "saved_classes", lambda _: trained)
        followed = test.with_classes_of_checkpoint(arguments, cfg)
        [(_, dataset)] = find_datasets(followed, "test")
        content = json.loads(Path(dataset_paths(dataset)[0]).read_text())
        assert tuple(category["name"] for category in content["categories"]) == trained
        assert followed.test_evaluator.ann_file == dataset_paths(dataset)[0]

    def test_order_of_classes_that_a_dataset_names(self, shapes, tmp_path, monkeypatch):
        """In MMDetection's way, without the option `classes`."""
        monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
        names = ("circle", "square", "triangle")
        body = f"metainfo = dict(classes={names})\n" + "".join(
            f"{split}_dataloader = dict(dataset=dict(metainfo=metainfo))\n" for split in ("train", "val", "test")
        )
        (tmp_path / "own.py").write_text(f"_base_ = {str(find_config(Path(NAME)))!r}\n{body}")
        arguments = make_parser("").parse_args([str(tmp_path / "own.py"), "--cfg-options", f"data_root={shapes}"])
        cfg = config_from(arguments)
        cfg.load_from = "x.pth"
        monkeypatch.setattr(test, "saved_classes", lambda _: names[::-1])
        followed = test.with_classes_of_checkpoint(arguments, cfg)
        [(_, dataset)] = find_datasets(followed, "test")
        assert tuple(dataset["metainfo"]["classes"]) == names[::-1]
        content = json.loads(Path(dataset_paths(dataset)[0]).read_text())
        assert tuple(category["name"] for category in content["categories"]) == names[::-1]

    def test_names(self, arguments, monkeypatch):
        monkeypatch.setattr(test, "saved_classes", lambda _: ("a", "b", "c"))
        cfg = config_from(arguments)
        cfg.load_from = "x.pth"
        with pytest.raises(CheckpointError, match=r"was trained on the classes a, b, c, and the data have red circle"):
            test.with_classes_of_checkpoint(arguments, cfg)
