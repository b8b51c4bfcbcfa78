"""The family and size that weights are of."""

import re
from typing import ClassVar

import pytest
import torch
from checkpoint_cases import OFFICIAL, backbone, refusal
from mmdet.registry import MODELS
from official_layouts import openmmlab_twins, twins

import localvit_det  # noqa: F401
from localvit_det.backbones import DWNet
from localvit_det.backbones.family import stage_widths
from localvit_det.checkpoint.identify import find_origin
from localvit_det.checkpoint.matching import prepare

TWINS = ("TwinsPCPVT", "TwinsSVT")


@pytest.mark.parametrize("family", OFFICIAL)
@pytest.mark.parametrize("arch", ["tiny", "small", "base", "large"])
def test_published_sizes_are_recognised(family, arch):
    cls = MODELS.get(family)
    if arch not in cls.arch_settings:
        pytest.skip("not published")
    size = cls.arch_settings[arch]
    with torch.device("meta"):
        options = {"heads": size["num_heads"][0]} if family in ("ShuffleTransformer", "MSGTransformer") else {}
        channels = size["embed_dims"]
        if family in TWINS:
            channels = stage_widths(channels, 4)
            options = {"ratios": size.get("mlp_ratio", (4, 4, 4, 4))}
        official = OFFICIAL[family](channels=channels, depths=size["depths"], **options)
        net = MODELS.build({"type": family, "arch": arch})
    origin = find_origin(official)
    assert (origin.family, origin.official, origin.arch) == (cls, True, arch)
    own = find_origin(net.state_dict())
    assert (own.family, own.official, own.arch) == (cls, False, arch)
    _, report = prepare(net, official)
    assert not report.problems
    assert len(report.found) == report.size - len(report.missing)
    assert all(name.startswith("out_norms.") for name in report.missing)


@pytest.mark.parametrize("family", TWINS)
@pytest.mark.parametrize("library", ["mmpretrain", "mmseg"])
def test_openmmlab_layouts_of_twins_load_alike(family, library):
    official = twins(family)
    net = backbone(family, out_norm_cfg=None)
    expected, _ = prepare(net, official)
    state, report = prepare(net, {"state_dict": openmmlab_twins(official, library), "meta": {}})
    assert not report.missing
    assert state.keys() == expected.keys() == net.state_dict().keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    inside = {name.removeprefix("backbone."): t for name, t in openmmlab_twins(official, library).items()}
    assert find_origin(inside).family is MODELS.get(family)


def test_backbones_of_others_are_named():
    cfg = {"type": "mmdet.SwinTransformer", "embed_dims": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    state = MODELS.build(cfg).state_dict()
    assert find_origin(state) is None
    assert "it is a Swin Transformer's" in refusal(prepare, backbone("DWNet"), state)
    state = MODELS.build({"type": "mmdet.ResNet", "depth": 18}).state_dict()
    assert find_origin(state) is None
    assert "none of this package's families" in refusal(prepare, backbone("DWNet"), state)


def test_a_layout_from_outside(monkeypatch):
    """A family declares how its official file calls the weights; what identifies, converts and explains follows."""

    class PoolNet(DWNet):
        official_layout: ClassVar = ((r"^entry\.", "stem."), (r"^level(\d)\.unit(\d)\.", r"stages.\1.blocks.\2."))

    monkeypatch.setitem(MODELS.module_dict, "PoolNet", PoolNet)
    net = PoolNet(arch={"embed_dims": 32, "depths": (1, 1, 1, 1), "drop_path_rate": 0.0}, out_norm_cfg=None)
    official = {
        re.sub(r"^stages\.(\d)\.blocks\.(\d)\.", r"level\1.unit\2.", name.replace("stem.", "entry.")): tensor
        for name, tensor in net.state_dict().items()
    }
    origin = find_origin(official)
    assert (origin.family, origin.official, origin.embed_dims, origin.depths) == (PoolNet, True, 32, (1, 1, 1, 1))
    state, report = prepare(net, {"network": official})
    assert state.keys() == net.state_dict().keys()
    assert report.choice == "network is taken, its only weights"
    assert "its backbone is PoolNet" in refusal(prepare, backbone("ShuffleTransformer"), official)
