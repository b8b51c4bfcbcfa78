"""Pretraining through MMPretrain; skipped where the extra `pretrain` is not installed."""

import random
import runpy

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from mmdet.registry import MODELS as DETECTION_MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from small_detectors import step_and_predict

from localvit_det.backbones import LocalViT
from localvit_det.checkpoint.read import load_weights_only
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import DataError
from localvit_det.preflight import check_config

pytest.importorskip("mmpretrain", reason="the extra pretrain is not installed")

from localvit_det.pretraining import ShapesClassDataset

CONFIGS = sorted((REPOSITORY / "configs/pretrain").glob("*.py"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=8, num_val=4, size=96)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_loss_step_and_a_prediction(path):
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    cfg = load_config(path)
    classes = cfg.model.head.num_classes
    if "in1k" in path.stem:
        small = {"embed_dims": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "drop_path_rate": 0.0}
        if "num_heads" not in DETECTION_MODELS.get(cfg.model.backbone.type).accepted_arguments():
            del small["num_heads"]
        cfg.model.backbone.arch, cfg.model.head.in_channels = small, 128
    cfg.model.data_preprocessor = cfg.data_preprocessor  # as the runner does
    model = MODELS.build(cfg.model)
    samples = [DataSample().set_gt_label(i % classes) for i in range(4)]
    data = {"inputs": [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 4, "data_samples": samples}
    found = step_and_predict(model, data)
    build_optim_wrapper(model, cfg.optim_wrapper)
    assert all(sample.pred_score.shape == (classes,) for sample in found)


def test_head_follows_the_backbone():
    cfg = load_config(REPOSITORY / "configs/pretrain/dwnet_t_in1k.py", {"model.backbone.arch": "base"})
    assert cfg.model.head.in_channels == 1024


def test_objects_are_cut_out(root):
    init_default_scope("mmpretrain")
    dataset = ShapesClassDataset(
        ann_file="annotations/instances_train2017.json",
        data_root=str(root),
        data_prefix={"img_path": "train2017"},
        pipeline=[{"type": "LoadImageFromFile"}, {"type": "CropObject"}],
    )
    assert {dataset[i]["gt_label"] for i in range(len(dataset))} == {0, 1, 2}
    for i in range(len(dataset)):
        item = dataset[i]
        left, top, right, bottom = item["box"]
        side = max(right - left, bottom - top)
        assert min(item["img"].shape[:2]) > 0
        assert max(item["img"].shape[:2]) <= round(1.3 * side) + 1


def test_colors_do_not_tell_classes_apart(root):
    from mmpretrain.registry import DATASETS

    cfg = load_config(REPOSITORY / "configs/pretrain/gg_nano_shapes.py", {"data_root": f"{root}/"})
    init_default_scope("mmpretrain")
    seen, validated = (DATASETS.build(getattr(cfg, f"{split}_dataloader").dataset) for split in ("train", "val"))
    np.random.seed(0)  # which the changes draw from
    random.seed(0)
    colors = torch.stack([seen[0]["inputs"].float().mean((1, 2)) for _ in range(20)])
    assert colors.std(0).min() > 5
    for i in range(len(validated)):
        image = validated[i]["inputs"]
        assert image.shape == (3, 64, 64)
        assert torch.equal(image, image[:1].expand_as(image))


def test_data_are_checked(root, tmp_path):
    path = REPOSITORY / "configs/pretrain/gg_nano_shapes.py"
    cfg = load_config(path, {"data_root": str(root)})
    cfg.work_dir = str(tmp_path)
    check_config(cfg)
    cfg = load_config(path, {"data_root": str(tmp_path / "nowhere")})
    cfg.work_dir = str(tmp_path)
    with pytest.raises(DataError, match="no synthetic shapes"):
        check_config(cfg)
    cfg = load_config(REPOSITORY / "configs/pretrain/gg_t_in1k.py", {"data_root": str(tmp_path / "nowhere")})
    cfg.work_dir = str(tmp_path)
    with pytest.raises(DataError, match=r"data folder of train_dataloader.dataset is missing"):
        check_config(cfg)


@pytest.mark.slow
def test_what_is_pretrained_starts_a_detector(root, tmp_path, capsys):
    main = runpy.run_path(str(REPOSITORY / "tools/pretrain.py"))["main"]
    options = [f"data_root={root}", "train_cfg.max_epochs=1", "train_cfg.val_interval=1", "workers=0"]
    options.append("train_dataloader.batch_size=8")
    config = str(REPOSITORY / "configs/pretrain/gg_nano_shapes.py")
    main([config, "--dry-run", "--work-dir", str(tmp_path / "dry"), "--cfg-options", *options])
    assert "Everything works: one step" in capsys.readouterr().out
    main([config, "--work-dir", str(tmp_path / "run"), "--cfg-options", *options])
    file = tmp_path / "run/backbone.pth"
    state = load_weights_only(file)["state_dict"]
    detector = load_config(REPOSITORY / "configs/mask_rcnn_gg_nano_shapes.py", {"pretrained": str(file)})
    backbone = DETECTION_MODELS.build(detector.model.backbone)
    assert isinstance(backbone, LocalViT)
    backbone.init_weights()
    loaded = backbone.state_dict()
    assert set(loaded) - set(state) == {name for name in loaded if name.startswith("out_norms.")}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
