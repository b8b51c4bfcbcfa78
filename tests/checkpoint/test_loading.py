"""Weights by every way into a model: files, addresses, an `init_cfg`; which of several are taken is reported."""

import hashlib
import logging
import os
import re
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoint_cases import OFFICIAL, Runs, backbone, from_file, refusal, saved
from mmengine.fileio import BaseStorageBackend
from mmengine.fileio import io as file_io
from mmengine.fileio.backends import registry_utils
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, load_checkpoint
from official_layouts import PAIRS, dwnet
from test_read import remote, weights  # noqa: F401 - a fixture
from torch import nn

from localvit_det.checkpoint import loading
from localvit_det.checkpoint.loading import load_backbone
from localvit_det.checkpoint.read import load_weights_only


@pytest.mark.parametrize("family", OFFICIAL)
def test_official_classifier_loads_through_init_cfg(family, tmp_path):
    official = OFFICIAL[family]()
    path = saved(tmp_path / "official.pth", {"model": official, "epoch": 299})
    net = backbone(family, init_cfg={"type": "Pretrained", "checkpoint": str(path)}, out_norm_cfg="default")
    before = net.out_norms["0"].weight.clone()
    net.init_weights()
    state = net.state_dict()
    for name, ours in PAIRS[family].items():
        torch.testing.assert_close(state[ours].squeeze(), official[name].squeeze(), rtol=0, atol=0)
    loaded = {tuple(t.flatten().tolist()) for n, t in state.items() if t.ndim and not n.startswith("out_norms")}
    left = {n for n, t in official.items() if t.is_floating_point() and tuple(t.flatten().tolist()) not in loaded}
    assert left == {n for n in official if n.startswith(("head.", "norm."))}
    torch.testing.assert_close(net.out_norms["0"].weight, before)


@pytest.mark.parametrize("family", ["DWNet", "MSGTransformer"])
def test_settings_beside_official_weights_are_no_obstacle(family, tmp_path, monkeypatch):
    """The official training code saves its yacs config in the same file."""

    class CfgNode(dict):
        pass

    module = types.ModuleType("yacs.config")
    module.CfgNode, CfgNode.__module__, CfgNode.__qualname__ = CfgNode, "yacs.config", "CfgNode"
    node = CfgNode(MODEL=CfgNode(NAME="x"))
    node.__dict__["__immutable__"] = True
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        record = {"model": OFFICIAL[family](), "optimizer": {}, "max_accuracy": 82.4, "epoch": 299, "config": node}
        saved(tmp_path / "official.pth", record)
    from_file(family, tmp_path / "official.pth")


def test_backbone_out_of_a_detector(tmp_path):
    official = dwnet(detection=True)
    file = saved(tmp_path / "detector.pth", {"state_dict": {f"backbone.{k}": v for k, v in official.items()}})
    net = from_file("DWNet", file, prefix="backbone.")
    torch.testing.assert_close(net.out_norms["2"].running_mean, official["norm2.running_mean"])
    assert "begins with bakbone." in refusal(from_file, "DWNet", file, prefix="bakbone.")


@pytest.mark.parametrize("official", [False, True])
def test_stages_that_are_not_built_are_reported(official, tmp_path):
    """Of a file with four stages and a network with three; a file that lacks a weight of the three is refused."""
    state = dwnet(detection=True) if official else backbone("DWNet").state_dict()
    net = backbone("DWNet", out_indices=(0, 1, 2))
    report = load_backbone(net, saved(tmp_path / "four.pth", state))
    assert report.found == set(net.state_dict())
    later = sum(name.startswith(("stages.3.", "out_norms.3.")) for name in backbone("DWNet").state_dict())
    assert len(report.unexpected) == later
    assert re.search(rf"\n  backbone( +\d+){{5}} +{later} +0\n", str(report))
    assert "not needed: " in str(report)
    del state[next(name for name in state if ".2.blocks.1." in name)]
    assert "is missing" in refusal(load_backbone, net, saved(tmp_path / "less.pth", state))


def test_backbone_of_a_detector_by_its_key(tmp_path):
    ours = backbone("DWNet").state_dict()
    state = {f"backbone.{name}": t for name, t in ours.items()} | {"neck.a": torch.ones(1), "rpn_head.a": torch.ones(1)}
    file = saved(tmp_path / "detector.pth", {"state_dict": state, "meta": {}})
    assert "only its backbone with --pretrained FILE#backbone" in refusal(from_file, "DWNet", file)
    assert torch.equal(from_file("DWNet", f"{file}#backbone").stem.proj.weight, ours["stem.proj.weight"])


def test_partial_by_name_only(tmp_path):
    state = dwnet()
    del state["patch_embed.norm.bias"]
    file = saved(tmp_path / "some.pth", {"model": state})
    assert "partial=True" in refusal(from_file, "DWNet", file)
    net = from_file("DWNet", file, partial=True)
    torch.testing.assert_close(net.stem.proj.weight.detach().contiguous(), state["patch_embed.proj.weight"])
    saved(file, {"model": {"a": torch.ones(1)}})
    refusal(from_file, "DWNet", file, partial=True)


def test_models_of_others_load_as_ever(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    file = saved(tmp_path / "a.pth", {"state_dict": {"0.weight": torch.ones(3, 2), "9.weight": torch.ones(1)}})
    load_checkpoint(net, str(file))
    assert net[0].weight.eq(1).all()
    part = BaseModule(init_cfg={"type": "Pretrained", "checkpoint": str(file)})
    part.add_module("0", nn.Linear(2, 3))
    part.init_weights()
    assert part.get_submodule("0").weight.eq(1).all()


# ---------------------------------------------------------------------------------------------- several weights


@pytest.fixture
def two(tmp_path):
    """A file of the official code with averages, and both backbones' stems."""
    raw, average = dwnet(), dwnet()
    file = saved(tmp_path / "two.pth", {"model": raw, "model_ema": average})
    return file, raw["patch_embed.proj.weight"], average["patch_embed.proj.weight"]


def test_either_can_be_chosen(two):
    path, raw, average = two
    for name, expected in ((path, raw), (f"{path}#model", raw), (f"{path}#model_ema", average)):
        nets = [from_file("DWNet", name), backbone("DWNet"), backbone("DWNet")]
        load_checkpoint(nets[1], str(name))
        report = load_backbone(nets[2], name)
        for net in nets:
            assert torch.equal(net.stem.proj.weight, expected)
        assert ("weights of the file: model is taken, not model_ema" in str(report)) == (name == path)
    assert "no weights under ema (it has model, model_ema)" in refusal(load_weights_only, f"{path}#ema")


def test_a_choice_is_a_warning(two, monkeypatch):
    levels = []
    monkeypatch.setattr(loading, "print_log", lambda text, logger, level: levels.append(level))
    for name in (two[0], f"{two[0]}#model_ema"):
        load_checkpoint(backbone("DWNet"), str(name))
        load_checkpoint(nn.Linear(1, 1), str(name))
    assert levels == [logging.WARNING, logging.WARNING, logging.INFO, logging.WARNING]  # the last one does not fit


def test_several_models_under_one_key(tmp_path):
    """As MMDetection's semi-supervised detectors are saved, and Lightning modules with an average of themselves."""
    teacher, student = dwnet(), dwnet()
    state = {f"teacher.{name}": t for name, t in teacher.items()} | {f"student.{n}": t for n, t in student.items()}
    for content in ({"state_dict": state, "meta": {}}, state):
        file = saved(tmp_path / "pair.pth", content)
        sentence = refusal(load_backbone, backbone("DWNet"), file)
        assert "it holds several models (teacher, student); take one of them with FILE#teacher" in sentence
        net = backbone("DWNet")
        load_backbone(net, f"{file}#student")
        assert torch.equal(net.stem.proj.weight, student["patch_embed.proj.weight"])


def test_wrapped_parts_of_a_detector_are_read(tmp_path):
    ours = backbone("DWNet").state_dict()
    state = {f"model.backbone._orig_mod.{name}": tensor for name, tensor in ours.items()}
    state |= {"model.neck.weight": torch.ones(1), "model.rpn_head.weight": torch.ones(1)}
    file = saved(tmp_path / "lightning.ckpt", {"state_dict": state, "pytorch-lightning_version": "2.4"})
    assert len(load_backbone(backbone("DWNet"), file).found) == len(ours)
    for prefix in ("backbone.", "model.backbone."):
        net = from_file("DWNet", file, prefix=prefix)
        assert torch.equal(net.stem.proj.weight, ours["stem.proj.weight"])


def test_half_precision_is_taken(tmp_path):
    net = backbone("DWNet")
    load_backbone(net, saved(tmp_path / "half.pth", {"model": {name: t.half() for name, t in dwnet().items()}}))
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


# ---------------------------------------------------------------------------------------------- names of models


def test_open_mmlab_file_of_the_user_is_loaded_safely(tmp_path, monkeypatch):
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (tmp_path / "open_mmlab.json").write_text('{"mine": "mine.pth"}')
    saved(tmp_path / "mine.pth", {"a": Runs(os.system, f"touch {tmp_path / 'touched'}")})
    assert "system" in refusal(CheckpointLoader.load_checkpoint, "open-mmlab://mine")
    assert not (tmp_path / "touched").exists()


def test_aliases(tmp_path, remote, monkeypatch):  # noqa: F811
    pages, _ = remote
    address = f"https://download.pytorch.org/models/alexnet-{hashlib.sha256(weights(tmp_path)).hexdigest()[:8]}.pth"
    pages[address] = weights(tmp_path)
    monkeypatch.setitem(loading._ALIASES, "torchvision", lambda: {"alexnet": address})
    # Its content is not AlexNet: what matters is the address and the one loader behind it.
    assert "weight" in CheckpointLoader.load_checkpoint("torchvision://alexnet")
    assert "did you mean 'torchvision://alexnet'" in refusal(CheckpointLoader.load_checkpoint, "torchvision://alexnett")


@pytest.mark.parametrize("address", ["s3://bucket/net.pth", "mine:petrel://bucket/net.pth"])
def test_storage_of_the_user_is_read_by_its_backend_and_runs_nothing(tmp_path, monkeypatch, address):
    files = {
        "net.pth": saved(tmp_path / "net.pth", {"weight": torch.ones(2)}),
        "bad.pth": saved(tmp_path / "bad.pth", {"a": Runs(os.system, f"touch {tmp_path / 'touched'}")}),
    }
    asked = []

    class Storage(BaseStorageBackend):
        def get(self, filepath: str) -> bytes:
            asked.append(filepath)
            return Path(files[filepath.rpartition("/")[2]]).read_bytes()

        def get_text(self, filepath: str, encoding: str = "utf-8") -> str:
            raise NotImplementedError

    monkeypatch.setitem(registry_utils.backends, "petrel", Storage)
    monkeypatch.setattr(file_io, "backend_instances", {})
    assert CheckpointLoader.load_checkpoint(address)["weight"].tolist() == [1, 1]
    assert asked == [address]
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert "system" in refusal(CheckpointLoader.load_checkpoint, address.replace("net", "bad"))
    assert not (tmp_path / "touched").exists()


def test_where_no_hook_applies_the_policy_the_advice_says_so(tmp_path):
    """As under MMDetection's own scripts, where a line `load_policy='finetune'` alone would change nothing."""
    model = nn.Sequential(OrderedDict(backbone=backbone("DWNet"), head=nn.Linear(4, 3)))
    file = saved(tmp_path / "net.pth", {"state_dict": {**model.state_dict(), "head.weight": torch.zeros(5, 4)}})
    sentence = refusal(load_checkpoint, model, str(file))
    assert "load_policy='partial', and custom_hooks=[dict(type='LoadPolicyHook')], which applies it" in sentence
