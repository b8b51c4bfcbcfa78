"""UPerNet and Semantic FPN through MMSegmentation; skipped where the extra `seg` is not installed."""

import copy

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from families import FAMILIES
from mmdet.registry import MODELS as DETECTION_MODELS
from numbered_gpu import numbered_gpu
from small_detectors import step_and_predict

from localvit.commands import test, train
from localvit_det.checkpoint.read import load_weights_only
from localvit_det.config import load_config
from localvit_det.config.model import match_channels
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import ConfigError, DataError
from localvit_det.preflight import check_config

mmseg = pytest.importorskip("mmseg", reason="the extra seg is not installed")

HEADS = ("upernet", "sem_fpn")


def nano(head: str, net: str = "shuffle", **options):
    return load_config(REPOSITORY / f"configs/{head}_{net}_nano_shapes.py", options)


@pytest.mark.parametrize("net", ["shuffle", "dwnet"])
@pytest.mark.parametrize("head", HEADS)
def test_a_loss_step_and_a_prediction(head, net):
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    cfg = nano(head, net)
    model = MODELS.build(cfg.model)
    labels = torch.randint(0, 4, (1, 96, 128))
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo={"img_shape": (96, 128), "ori_shape": (96, 128)})
        sample.gt_sem_seg = mmengine_pixels(labels)
        samples.append(sample)
    data = {"inputs": [torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)] * 2, "data_samples": samples}
    found = step_and_predict(model, data)
    assert [sample.pred_sem_seg.data.shape for sample in found] == [(1, 96, 128)] * 2


@pytest.mark.parametrize("head", [pytest.param("upernet", marks=pytest.mark.slow), "sem_fpn"])
def test_a_loss_and_a_prediction_on_a_gpu(head):
    """Without one, as tests/heads/test_synchronisations.py; nothing in this package waits."""
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    net = MODELS.build(nano(head).model)
    moved, images = copy.deepcopy(net), torch.rand(2, 3, 64, 64)
    meta = {"img_shape": (64, 64), "ori_shape": (64, 64), "pad_shape": (64, 64), "padding_size": (0, 0, 0, 0)}
    labels = torch.randint(0, 4, (2, 1, 64, 64))
    samples = [SegDataSample(metainfo=meta, gt_sem_seg=mmengine_pixels(label)) for label in labels]
    with torch.no_grad():
        found = net.eval().predict(images, samples)[0].pred_sem_seg.data
    losses = {key: value for key, value in _seeded_loss(net, images, samples).items() if "loss" in key}
    with numbered_gpu(moved) as gpu, torch.no_grad():
        images, samples = images.to("cuda"), [sample.to("cuda") for sample in samples]
        gpu.waits.clear()
        assert (moved.eval().predict(images, samples)[0].pred_sem_seg.data.cpu() == found).float().mean() > 0.99
        there = _seeded_loss(moved, images, samples)
        for key, loss in losses.items():
            torch.testing.assert_close(there[key].cpu(), loss, rtol=1e-4, atol=1e-5)
        assert not [place for place in gpu.waits if place[0] == "localvit_det"]


@torch.no_grad()
def _seeded_loss(model, images, samples):
    torch.manual_seed(0)
    return model.train().loss(images, samples)


def mmengine_pixels(labels):
    from mmengine.structures import PixelData

    return PixelData(data=labels)


@pytest.mark.parametrize("head", HEADS)
def test_the_backbone_is_swapped_by_its_own_entry(head):
    cfg = load_config(REPOSITORY / f"configs/{head}_shuffle_t_ade20k.py")
    for family in FAMILIES:
        cls = DETECTION_MODELS.get(family)
        for arch in cls.arch_settings:
            cfg.model.backbone = {"type": family, "arch": arch}
            match_channels(cfg)
            channels = list(cls.out_channels_of(cfg.model.backbone))
            if head == "upernet":
                assert (cfg.model.decode_head.in_channels, cfg.model.auxiliary_head.in_channels) == (
                    channels,
                    channels[2],
                )
            else:
                assert cfg.model.neck.in_channels == channels


def test_names_need_no_prefix():
    from mmseg.registry import HOOKS, MODELS

    assert MODELS.get("ShuffleTransformer") is DETECTION_MODELS.get("ShuffleTransformer")
    assert HOOKS.get("CurvesHook").__module__.startswith("localvit_det.")


@pytest.fixture
def shapes(tmp_path):
    return make_shapes(tmp_path / "shapes", num_train=4, num_val=2, size=64)


def checked(root, **options):
    cfg = nano("sem_fpn", data_root=str(root), **options)
    cfg.work_dir = str(root / "run")
    check_config(cfg, train=True)
    return cfg


def test_good_data_pass(shapes):
    assert (shapes / "semantic").exists() is False
    checked(shapes)
    assert len(list((shapes / "semantic/val2017").iterdir())) == 2


@pytest.mark.slow
def test_mistakes_in_maps(shapes):
    checked(shapes)
    first = sorted((shapes / "semantic/train2017").iterdir())[0]
    good = first.read_bytes()
    cv2.imwrite(str(first), np.full((64, 64), 7, np.uint8))
    with pytest.raises(DataError, match=r"has the label 7, but .* has labels from 0 to 3"):
        checked(shapes)
    cv2.imwrite(str(first), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match="has 3 channels"):
        checked(shapes)
    with pytest.raises(DataError, match="has 64 x 64 pixels, over the limit of 4,000"):
        checked(shapes, max_pixels=4000)
    first.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be decoded"):
        checked(shapes)
    first.unlink()
    with pytest.raises(DataError, match=r"1 of the 4 images of train_dataloader.dataset have no label map"):
        checked(shapes)
    first.write_bytes(good)
    with pytest.raises(DataError, match=r"no images \*.jpeg"):
        checked(shapes, **{"train_dataloader.dataset.img_suffix": ".jpeg"})


def test_wrong_counts_of_classes(shapes):
    with pytest.raises(ConfigError, match=r"decode_head.num_classes is 5, but .* has 4 classes"):
        checked(shapes, **{"model.decode_head.num_classes": 5})
    cfg = nano("upernet", classes=["circle", "square"])
    assert (cfg.model.decode_head.num_classes, cfg.model.auxiliary_head.num_classes) == (2, 2)


def test_wrong_channels_and_types(shapes):
    with pytest.raises(ConfigError, match=r"neck.in_channels is \[1, 2, 3, 4\]: set it to \[32, 64, 128, 256\]"):
        checked(shapes, **{"model.neck.in_channels": [1, 2, 3, 4]})
    with pytest.raises(ConfigError, match=r"decode_head.type 'FPNHed'"):
        checked(shapes, **{"model.decode_head.type": "FPNHed"})


@pytest.mark.slow
def test_dry_run(shapes, capsys):
    config = str(REPOSITORY / "configs/sem_fpn_shuffle_nano_shapes.py")
    options = [f"data_root={shapes}", "workers=0"]
    train.main([config, "--dry-run", "--work-dir", str(shapes / "dry"), "--cfg-options", *options])
    assert "Everything works: one step" in capsys.readouterr().out


@pytest.mark.slow
def test_commands_train_and_test(shapes):
    config = str(REPOSITORY / "configs/upernet_shuffle_nano_shapes.py")
    options = [f"data_root={shapes}", "train_cfg.max_iters=2", "train_cfg.val_interval=2", "workers=0"]
    options.append("default_hooks.checkpoint.interval=2")
    work_dir = shapes / "run"
    train.main([config, "--work-dir", str(work_dir), "--cfg-options", *options])
    assert (work_dir / "curves.png").is_file()
    file = work_dir / "backbone.pth"
    detector = load_config(REPOSITORY / "configs/mask_rcnn_shuffle_nano_shapes.py", {"pretrained": str(file)})
    backbone = DETECTION_MODELS.build(detector.model.backbone)
    backbone.init_weights()
    trained = load_weights_only(file)["state_dict"]
    assert trained.keys() == backbone.state_dict().keys()
    assert all(torch.equal(trained[name], tensor) for name, tensor in backbone.state_dict().items())
    out = shapes / "out.pkl"
    arguments = ["--work-dir", str(shapes / "test"), "--show-dir", str(shapes / "images"), "--out", str(out)]
    test.main([config, str(work_dir), *arguments, "--cfg-options", *options])
    assert out.is_file()
    drawn = {path.name for path in (shapes / "images").glob("*.jpg")}
    assert drawn == {path.name for path in shapes.rglob("val*/*.jpg")} != set()
