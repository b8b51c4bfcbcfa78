"""Checkpoints that are written: published with their metrics, or converted; what is published is enough to use."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_cases import CONFIGS, detector, run, saved
from conftest import REPOSITORY
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from official_layouts import dwnet

from localvit.commands import files, test, train
from localvit_det import Detector
from localvit_det.checkpoint.publish import convert, measured_metrics, publish
from localvit_det.checkpoint.read import load_weights_only
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import CLASSES, make_shapes
from localvit_det.errors import CheckpointError
from localvit_det.files import sha256

LINES = [
    {"lr": 0.1, "loss": 2.0, "epoch": 3, "step": 3},
    {"coco/bbox_mAP": 0.2, "data_time": 0.1, "time": 0.5, "step": 2},
    {"coco/bbox_mAP": 0.3, "coco/segm_mAP": 0.25, "data_time": 0.1, "time": 0.5, "step": 3},
    {"coco/bbox_mAP": 0.4, "step": 300},
]


@pytest.fixture
def work_dir(tmp_path) -> Path:
    for stamp, factor in (("20260101_000000", 1), ("20260102_000000", 10)):
        file = tmp_path / stamp / "vis_data/scalars.json"
        file.parent.mkdir(parents=True)
        lines = [{**line, **{k: v * factor for k, v in line.items() if "/" in k}} for line in LINES]
        file.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"coco/bbox')
    return tmp_path


@pytest.mark.parametrize(
    ("meta", "metrics"),
    [
        ({"epoch": 3, "experiment_name": "net_20260101_000000"}, {"coco/bbox_mAP": 0.3, "coco/segm_mAP": 0.25}),
        ({"epoch": 3, "experiment_name": "net_20260102_000000"}, {"coco/bbox_mAP": 3, "coco/segm_mAP": 2.5}),
        ({"iter": 300, "experiment_name": "net_20260101_000000"}, {"coco/bbox_mAP": 0.4}),
        ({"epoch": 4, "experiment_name": "net_20260101_000000"}, {}),
        ({"epoch": 3}, {}),
    ],
)
def test_metrics_of_the_validation_after_a_checkpoint(work_dir, meta, metrics):
    assert measured_metrics(work_dir, meta) == pytest.approx(metrics)


# ---------------------------------------------------------------------------------------------- converted


def test_convert_takes_the_chosen_ones(tmp_path):
    raw, average = dwnet(), dwnet()
    source = saved(tmp_path / "two.pth", {"model": raw, "model_ema": average})
    size = {"type": "DWNet", "arch": {"embed_dims": 32, "depths": (2, 2, 2, 2), "drop_path_rate": 0.0}}
    for name, expected in ((source, raw), (f"{source}#model_ema", average)):
        convert(name, tmp_path / "clean.pth", size)
        weight = load_weights_only(tmp_path / "clean.pth")["state_dict"]["stem.proj.weight"]
        assert torch.equal(weight, expected["patch_embed.proj.weight"])


def test_convert(tmp_path, capsys):
    official = dwnet(96, (2, 2, 6, 2))
    source = saved(tmp_path / "dwnet_tiny_224.pth", {"model": official})
    run("convert_checkpoint", source, tmp_path / "clean.pth")
    assert "not needed: head.bias" in capsys.readouterr().out
    clean = load_weights_only(tmp_path / "clean.pth")
    assert clean["meta"]["source_sha256"] == sha256(source)
    assert all(isinstance(value, torch.Tensor) for value in clean["state_dict"].values())
    net = MODELS.build({"type": "DWNet", "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "clean.pth")}})
    net.init_weights()
    torch.testing.assert_close(net.stem.norm.bias.detach(), official["patch_embed.norm.bias"])

    safetensors = pytest.importorskip("safetensors")
    run("convert_checkpoint", source, tmp_path / "clean.safetensors")
    with safetensors.safe_open(tmp_path / "clean.safetensors", "pt") as file:
        assert file.metadata()["source_sha256"] == sha256(source)
    torch.testing.assert_close(load_weights_only(tmp_path / "clean.safetensors"), clean["state_dict"])


def test_convert_the_backbone_of_a_classifier(tmp_path):
    state = {f"module.backbone.{name}": tensor for name, tensor in dwnet(96, (2, 2, 6, 2)).items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("module.backbone.head.")}
    content = {"state_dict": state | {"module.head.fc.weight": torch.zeros(3, 768)}}
    convert(saved(tmp_path / "classifier.pth", content), tmp_path / "clean.pth")
    clean = load_weights_only(tmp_path / "clean.pth")["state_dict"]
    torch.testing.assert_close(clean["stem.norm.bias"], state["module.backbone.patch_embed.norm.bias"])


def test_convert_detector(tmp_path):
    content = detector()
    content["meta"]["CLASSES"] = ["cat", "dog", "fox"]
    source = saved(tmp_path / "v2.pth", content)
    run("convert_checkpoint", source, tmp_path / "v3.pth", "--config", CONFIGS["dwnet"])
    clean = load_weights_only(tmp_path / "v3.pth")
    assert clean["meta"]["dataset_meta"] == {"classes": ("cat", "dog", "fox")}
    assert clean["state_dict"].keys() == MODELS.build(load_config(CONFIGS["dwnet"]).model).state_dict().keys()
    with pytest.raises(SystemExit):
        run("convert_checkpoint", source, tmp_path / "v3.pth")


# ---------------------------------------------------------------------------------------------- published


def test_published_config_is_data_and_stays_in_its_folder(tmp_path):
    text = "model = dict(type='RetinaNet', backbone=dict(type='DWNet', arch='tiny'))\n"
    meta = {"cfg": text, "dataset_meta": {"classes": ("a",)}, "experiment_name": "../../outside_20200101_000000"}
    file = saved(tmp_path / "file.pth", {"state_dict": {"w": torch.zeros(1)}, "meta": meta})
    published = publish(file, tmp_path / "out")
    assert json.loads(load_weights_only(published)["meta"]["cfg"]).keys() == {"model", "metainfo"}
    assert published.parent == tmp_path / "out"
    assert published.name.startswith("outside-")
    assert load_config(published).model.backbone.arch == "tiny"


def test_publishing_a_view_without_end(tmp_path):
    view = torch.zeros(1).as_strided((100_000, 1_000_000), (0, 0))
    content = {"state_dict": {"w": view}, "meta": {"dataset_meta": {"classes": ["a"]}}}
    with pytest.raises(CheckpointError, match="holds tensors of 400,000,000,000 bytes"):
        publish(saved(tmp_path / "file.pth", content), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.pth"))


# Each backbone in one head, and each head with one backbone.
NANO = sorted(
    {path.stem for net in ("mask_rcnn_*", "*_dwnet") for path in (REPOSITORY / "configs").glob(f"{net}_nano_shapes.py")}
)


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
    """A Mask R-CNN finds objects with the published file alone, as well."""
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
    if name.startswith("mask_rcnn"):
        detector = Detector(file, device="cpu")
        result = detector(np.full((64, 96, 3), 120, np.uint8), score=0.01)
        assert detector.classes == CLASSES
        assert result.boxes.shape == (len(result.scores), 4)


@pytest.mark.slow
def test_tests_exports_and_trains(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_shapes(tmp_path / "shapes", num_train=4, num_val=2, size=64)
    file = published("mask_rcnn_dwnet_nano_shapes", tmp_path)
    options = ["--cfg-options", f"data_root={root}", "workers=0"]
    test.main([str(file), *options, "visualizer.name=own"])
    assert "\nsegm  " in capsys.readouterr().out
    train.main(
        [str(file), "--dry-run", "--load-from", str(file), *options, "image_size=96", "train_dataloader.batch_size=2"]
    )
    assert "loss" in capsys.readouterr().out
    pytest.importorskip("onnxruntime")
    files.export([str(file), "--out", "found.onnx", "--cfg-options", "model.test_cfg.rcnn.max_per_img=5"])
    assert Detector("found.onnx").classes == CLASSES
