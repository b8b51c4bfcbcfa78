"""A published file of every family is enough to predict, test, export and train: model, test pipeline, classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from localvit.commands import export, test, train
from localvit_det import Detector
from localvit_det.checkpoint.publish import publish
from localvit_det.checkpoint.read import load_weights_only
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import CLASSES, make_shapes

NANO = sorted(path.stem for path in (REPOSITORY / "configs").glob("*_nano_shapes.py"))
DETECTORS = [name for name in NANO if name.startswith("mask_rcnn")]
NO_WORKERS = [
    f"{split}_dataloader.{key}"
    for split in ("train", "val", "test")
    for key in ("num_workers=0", "persistent_workers=False")
]


def published(name: str, folder: Path) -> Path:
    cfg = Config.fromfile(REPOSITORY / f"configs/{name}.py")
    init_default_scope(cfg.get("default_scope", "mmdet"))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    classes = CLASSES if "shapes" in name else ("a",)
    meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": classes}, "experiment_name": name}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "epoch_1.pth")
    return publish(folder / "epoch_1.pth")


@pytest.mark.slow
@pytest.mark.parametrize("name", NANO)
def test_model_and_pipeline_are_those_of_the_training(name, tmp_path):
    if name.startswith(("sem_fpn", "upernet")):
        pytest.importorskip("mmseg")
    file = published(name, tmp_path)
    cfg, own = load_config(file), Config.fromfile(REPOSITORY / f"configs/{name}.py")
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = MODELS.build(cfg.model)
    model.load_state_dict(load_weights_only(file)["state_dict"])
    for split in ("val", "test"):
        steps = cfg[f"{split}_dataloader"].dataset.pipeline
        assert [step["type"] for step in steps] == [step["type"] for step in own.test_dataloader.dataset.pipeline]
    assert json.loads(load_weights_only(file)["meta"]["cfg"]).keys() <= {
        "default_scope", "model", "test_pipeline", "metainfo",
    }  # fmt: skip
    assert cfg.test_dataloader.dataset.type.partition("Dataset")[0] in ("Coco", "CocoPanoptic", "ADE20K")


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_predicts(name, tmp_path):
    detector = Detector(published(name, tmp_path), device="cpu")
    result = detector(np.full((64, 96, 3), 120, np.uint8), score=0.01)
    assert detector.classes == CLASSES
    assert result.boxes.shape == (len(result.scores), 4)


@pytest.mark.slow
def test_tests_exports_and_trains(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_shapes(tmp_path / "shapes", num_train=4, num_val=2, size=64)
    file = published("mask_rcnn_dwnet_nano_shapes", tmp_path)
    options = ["--cfg-options", f"data_root={root}", *NO_WORKERS]
    test.main([str(file), *options, "visualizer.name=own"])
    assert "coco/segm_mAP" in capsys.readouterr().out
    train.main(
        [str(file), "--dry-run", "--load-from", str(file), *options, "image_size=96", "train_dataloader.batch_size=2"]
    )
    assert "loss" in capsys.readouterr().out
    pytest.importorskip("onnxruntime")
    export.main([str(file), "--out", "found.onnx", "--cfg-options", "model.test_cfg.rcnn.max_per_img=5"])
    assert Detector("found.onnx").classes == CLASSES
