"""Switches of `localvit train` and `test`: what they change, what they refuse, and one training with all of them."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from families import FAMILIES, build
from mmdet.registry import MODELS
from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm

from localvit.commands import files, test, train
from localvit_det import switches
from localvit_det.checkpoint.read import load_weights_only
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import ConfigError, RequirementError
from localvit_det.evaluation.tta import augmented, use_tta

NAME = "mask_rcnn_shuffle_nano_shapes"


@pytest.fixture(scope="module")
def nano() -> Config:
    return load_config(NAME)


@pytest.fixture
def cfg(nano) -> Config:
    cfg = copy.deepcopy(nano)
    cfg.work_dir = "work_dirs/mine"
    return cfg


def kinds(cfg: Config) -> list[str]:
    return [hook["type"] for hook in cfg.custom_hooks]


class TestEma:
    def test_is_added_to_what_is_there(self, cfg):
        before = kinds(cfg)
        switches.average_weights(cfg, 0.001)
        assert kinds(cfg) == [*before, "EMAHook"]
        assert cfg.custom_hooks[-1]["momentum"] == 0.001
        switches.average_weights(cfg, switches.EMA_MOMENTUM)  # the config's own stays
        with pytest.raises(ConfigError, match=rf"set custom_hooks.{len(before)}.momentum=0.5"):
            switches.average_weights(cfg, 0.5)
        assert kinds(cfg).count("EMAHook") == 1
        assert cfg.custom_hooks[-1]["momentum"] == 0.001

    @pytest.mark.parametrize("momentum", [0, 1, -0.1])
    def test_no_share(self, cfg, momentum):
        with pytest.raises(ConfigError, match="give a number between 0 and 1"):
            switches.average_weights(cfg, momentum)


def test_early_stop_needs_validations(cfg):
    switches.stop_early(cfg, 3)
    switches.stop_early(cfg, 4)
    assert [hook["patience"] for hook in cfg.custom_hooks if hook["type"] == "EarlyStopHook"] == [4]
    with pytest.raises(ConfigError, match="give 1 or more"):
        switches.stop_early(cfg, 0)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    with pytest.raises(ConfigError, match="looks at validations, and the config has none"):
        switches.stop_early(cfg, 3)


SWIN = dict(type="SwinTransformer", embed_dims=8, depths=(2, 2, 2), num_heads=(2, 2, 2), out_indices=(0, 1, 2))
OTHERS = (SWIN, dict(type="ResNet", depth=18), dict(type="PyramidVisionTransformer"))


class TestFreeze:
    def config(self, backbone: dict, **options) -> Config:
        return Config({"model": {"backbone": {"init_cfg": {"type": "Pretrained"}, **backbone}}, **options})

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("stages", [0, 2, 4])
    def test_parts_of_every_family(self, family, stages):
        cfg = self.config({"type": family})
        switches.freeze(cfg, stages)
        net = build(family, frozen_stages=cfg.model.backbone.frozen_stages).train()
        frozen = [net.stem, *net.stages[:stages], *(net.out_norms[str(i)] for i in range(stages))]
        still = {id(p) for part in frozen for p in part.parameters()}
        assert all(p.requires_grad != (id(p) in still) for p in net.parameters())
        norms = [m for part in frozen for m in part.modules() if isinstance(m, _BatchNorm)]
        assert not any(m.training for m in norms)
        others = [m for m in net.modules() if isinstance(m, _BatchNorm) and m not in norms]
        assert all(m.training for m in others)
        with pytest.raises(ConfigError, match="has 4 stages: give 0 to 4"):
            switches.freeze(cfg, 5)

    def test_backbones_of_mmdetection(self):
        swin, resnet, pvt = map(self.config, OTHERS)
        for cfg, count in ((swin, 3), (resnet, 4)):
            switches.freeze(cfg, 1)
            net = MODELS.build({key: value for key, value in cfg.model.backbone.items() if key != "init_cfg"})
            net.train()  # returns nothing in MMDetection's Swin
            assert {p.requires_grad for p in net.parameters()} == {True, False}
            with pytest.raises(ConfigError, match=f"has {count} stages"):
                switches.freeze(cfg, count + 1)
        with pytest.raises(ConfigError, match="PyramidVisionTransformer cannot freeze stages"):
            switches.freeze(pvt, 1)

    def test_random_weights_are_not_kept(self, cfg):
        with pytest.raises(ConfigError, match="would keep random weights: give --pretrained"):
            switches.freeze(cfg, 1)
        cfg.load_from = "detector.pth"
        switches.freeze(cfg, 1)
        with pytest.raises(ConfigError, match="no backbone"):
            switches.freeze(Config({"model": {"type": "X"}}), 1)


def test_layer_decay(cfg):
    switches.decay_layers(cfg, 0.9)
    assert cfg.optim_wrapper.constructor == "LayerDecayConstructor"
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay == 0.9
    assert "exempt" not in cfg.optim_wrapper.paramwise_cfg  # norms and positions stay without decay
    with pytest.raises(ConfigError, match="up to 1"):
        switches.decay_layers(cfg, 1.5)
    cfg.optim_wrapper.constructor = "TheirConstructor"
    with pytest.raises(ConfigError, match=r"would replace .* TheirConstructor: leave one"):
        switches.decay_layers(cfg, 0.9)


class TestLog:
    def test_backends_are_added(self, cfg):
        switches.log_to(cfg, ["tensorboard", "wandb", "wandb"])
        switches.log_to(cfg, ["tensorboard"])
        assert [backend["type"] for backend in cfg.visualizer.vis_backends] == [
            "LocalVisBackend", "TensorboardVisBackend", "WandbBackend",
        ]  # fmt: skip
        assert cfg.visualizer.vis_backends[2]["run_name"] == "mine"

    @pytest.mark.parametrize("name", switches.LOGGERS)
    def test_missing_package_is_named_first(self, cfg, name, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == name else find(module))
        switches.check_loggers(cfg)
        switches.log_to(cfg, [name])
        with pytest.raises(RequirementError, match=f"needs {name}, which is not installed: run `pip install {name}`"):
            switches.check_loggers(cfg)


class TestTta:
    def test_pipeline(self, cfg):
        path, dataset = "test_dataloader.dataset", cfg.test_dataloader.dataset
        steps = augmented(dataset.pipeline, path)
        assert [step["type"] for step in steps] == ["LoadImageFromFile", "TestTimeAug"]
        sizes, flips, *rest = steps[1]["transforms"]
        assert [size["scale"] for size in sizes] == [(120, 120), (160, 160), (200, 200)]
        assert [flip["prob"] for flip in flips] == [0.0, 1.0]
        assert [step[0]["type"] for step in rest] == ["LoadAnnotations", "PackDetInputs"]
        assert {"flip", "flip_direction", "img_id"} <= set(rest[1][0]["meta_keys"])
        padded = augmented([dict(type="Resize", scale=(64, 64)), dict(type="Pad", size=(64, 64))], path)
        assert padded[0]["transforms"][2][0]["size"] == (80, 80)
        with pytest.raises(ConfigError, match="finds no Resize"):
            augmented([dict(type="LoadImageFromFile")], path)

    def test_boxes_and_masks(self, cfg):
        use_tta(cfg)
        assert cfg.test_evaluator.metric == ["bbox", "segm"]
        assert cfg.model.type == "MaskTTAModel"
        assert cfg.model.tta_cfg.max_per_img == 30

    @pytest.mark.parametrize(("own", "taken"), [("DetTTAModel", "MaskTTAModel"), ("OwnTTAModel", "OwnTTAModel")])
    def test_own_model(self, cfg, own, taken):
        cfg.tta_model = dict(type=own, tta_cfg=dict(max_per_img=7))
        use_tta(cfg)
        assert cfg.model.type == taken
        assert cfg.model.tta_cfg.max_per_img == 7
        assert cfg.model.module.type == "MaskRCNN"

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"test_evaluator": {"type": "CocoPanopticMetric"}}, "evaluates with .'CocoPanopticMetric'."),
            ({"test_evaluator.metric": ["bbox", "proposal"]}, "evaluates .'proposal'.: leave that metric"),
            ({"default_scope": "mmseg"}, "is one of mmseg"),
        ],
    )
    def test_refused(self, cfg, change, reason):
        cfg.merge_from_dict(change)
        with pytest.raises(ConfigError, match=reason):
            use_tta(cfg)


@pytest.mark.slow
def test_all_switches_at_once(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    shapes = make_shapes(tmp_path / "shapes", num_train=4, num_val=2, size=64)
    options = ["workers=0", f"data_root={shapes}", "train_dataloader.batch_size=2", "train_cfg.val_interval=1"]
    torch.save(MODELS.build(load_config(NAME).model.backbone).state_dict(), tmp_path / "backbone.pth")
    arguments = ["--ema", "--early-stop", "1", "--freeze", "2", "--layer-decay", "0.9", "--log", "tensorboard"]
    train.main(
        [NAME, *arguments, "--pretrained", "backbone.pth", "--seed", "1", "--cfg-options", *options,
         "optim_wrapper.optimizer.lr=0.0", "model.backbone.norm_eval=True", "visualizer.name=all switches"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "parameters trained (the backbone's stem and first 2 stages frozen)" in out
    assert "backbone: the stem learns at" in out
    # Nothing is learnt, so the second validation brings nothing better.
    assert "Stopping early after iteration 4:" in out
    work_dir = tmp_path / "work_dirs" / NAME
    content = load_weights_only(work_dir / "epoch_2.pth")
    assert {"ema_state_dict", "optimizer"} <= content.keys()
    scalars = read_events(work_dir)
    assert {"loss", "lr"} <= scalars
    assert "paramwise_options" not in out

    files.publish([str(work_dir / "epoch_2.pth"), "--out-dir", "published"])
    out = capsys.readouterr().out
    assert "epoch_2.pth is of a training with averaged weights (EMA): these are published." in out
    test.main([out.strip().splitlines()[-1], "--tta", "--cfg-options", "visualizer.name=tta", *options])
    out = capsys.readouterr().out
    assert "\nsegm  " in out


@pytest.mark.parametrize("given", [NAME, f"{NAME}.py"])
def test_a_test_needs_a_checkpoint(given, refused):
    sentence = f"error: The checkpoint is missing: give it after the config, `localvit test {given} CHECKPOINT`"
    assert sentence in refused(test.main, given)


def test_a_work_dir_is_enough(tmp_path):
    torch.save({"state_dict": {}, "meta": {"iter": 3, "epoch": 1}}, tmp_path / "epoch_1.pth")
    assert test.checkpoint_with_config(str(tmp_path)) == str(tmp_path / "epoch_1.pth")
    assert test.checkpoint_with_config("epoch_1.pth") == "epoch_1.pth"


def read_events(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [file] = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    return set(events.Tags()["scalars"])
