"""Our networks as models of timm: what timm's own tests ask of each of its networks."""

import pytest
import torch
from families import FAMILIES
from mmdet.registry import MODELS
from torch import nn

timm = pytest.importorskip("timm", reason="the extra timm is not installed")

from timm.data import resolve_data_config  # noqa: E402
from timm.models import group_parameters  # noqa: E402

import localvit_det.timm  # noqa: E402, F401 - registers
from localvit_det.errors import CheckpointError  # noqa: E402

NAMES = timm.list_models("localvit*")
SIZE = {"embed_dims": 32, "depths": (1, 1, 1, 1)}


def options(name: str, **more) -> dict:
    """Arguments that make a small network."""
    family = next(cls for cls in map(MODELS.get, FAMILIES) if cls.short_name == name.split("_")[1])
    heads = {"num_heads": (1, 2, 4, 8)} if "num_heads" in family.accepted_arguments() else {}
    return {**SIZE, **heads, **more}


def small(name: str, **more) -> nn.Module:
    return timm.create_model(name, **options(name, **more))


# One size of each family: they differ in numbers only, which the table has from `arch_settings`.
ONES = [
    pytest.param(
        next(name for name in NAMES if name.split("_")[1] == family),
        marks=() if family in ("msg", "shuffle") else pytest.mark.slow,
    )
    for family in dict.fromkeys(name.split("_")[1] for name in NAMES)
]


def test_every_size_of_every_family_is_listed():
    classes = map(MODELS.get, FAMILIES)
    assert sorted(NAMES) == sorted(f"localvit_{c.short_name}_{arch}" for c in classes for arch in c.arch_settings)
    assert len(ONES) == len(FAMILIES)
    assert not timm.list_models("localvit*", pretrained=True)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("localvit_shuffle_tiny", 28_532_482),
        ("localvit_dwnet_tiny", 24_172_744),
        ("localvit_iddwnet_tiny", 26_244_280),
        ("localvit_msg_tiny", 25_086_116),
        ("localvit_pcpvt_small", 23_592_192 + 513 * 1000 + 1024),
    ],
)
def test_is_the_published_classifier(name, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in timm.create_model(name).parameters()) == parameters


@pytest.mark.parametrize("name", ONES)
def test_classifier(name):
    net = small(name, num_classes=5, in_chans=4, img_size=(64, 96)).eval()
    cfg, x = net.pretrained_cfg, torch.rand(2, 4, 64, 96)
    state = net.state_dict()
    assert {f"{cfg['first_conv']}.weight", f"{cfg['classifier']}.weight"} <= state.keys()
    assert state[f"{cfg['first_conv']}.weight"].shape[1] == 4
    assert net.get_classifier() is net.get_submodule(cfg["classifier"])
    data = resolve_data_config({}, model=net)
    assert data["input_size"] == (4, 64, 96)
    assert (data["mean"], data["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (data["interpolation"], data["crop_pct"]) == ("bicubic", 0.9)
    with torch.no_grad():
        features = net.forward_features(x)
        assert features.shape == (2, net.num_features, 2, 3)
        pooled = net.forward_head(features, pre_logits=True)
        torch.testing.assert_close(net(x), net.get_classifier()(features.mean((2, 3))))
        last, maps = net.forward_intermediates(x)
        torch.testing.assert_close(last, features)
        assert [m.shape[2:] for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
        net.reset_classifier(0)
        torch.testing.assert_close(net(x), pooled)
        net.reset_classifier(0, "")
        torch.testing.assert_close(net(x), features)
        net.reset_classifier(7, "avg")
        assert net(x).shape == (2, 7)


@pytest.mark.parametrize("name", ONES)
def test_features_only(name):
    x = torch.rand(2, 3, 64, 96)
    net = small(name, features_only=True, out_indices=(0, 2)).eval()
    assert len(net.model.backbone.stages) == 3  # the last one is not even there
    assert not hasattr(net.model.get_classifier(), "weight")
    maps = net(x)
    assert [m.shape[1] for m in maps] == net.feature_info.channels()
    assert [64 // m.shape[2] for m in maps] == net.feature_info.reduction() == [4, 16]
    sum(m.sum() for m in net.train()(x)).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ONES)
def test_training(name):
    net = small(name, num_classes=3, drop_path_rate=0.0)
    x = torch.rand(2, 3, 64, 64)
    grads = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        assert all(stage.with_cp is enable for stage in net.backbone.stages)
        net.zero_grad()
        net(x).square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-3, atol=1e-4)
    for coarse in (False, True):
        groups = group_parameters(net, net.group_matcher(coarse), reverse=True)
        assert groups.keys() == dict(net.named_parameters()).keys()
        assert groups["backbone.stages.0.blocks.0.mlp.fc1.weight"] == 1
    assert net.no_weight_decay() <= groups.keys()


def test_arguments_are_not_swallowed():
    with pytest.raises(TypeError, match="head_size"):
        small("localvit_gg_tiny", head_size=3)
    with pytest.raises(ValueError, match="'NCHW' only"):
        small("localvit_gg_tiny").forward_intermediates(torch.rand(1, 3, 32, 32), output_fmt="NLC")


def test_is_built_on_a_device():
    net = small("localvit_gg_tiny", device="meta")
    assert {t.device.type for t in (*net.parameters(), *net.buffers())} == {"meta"}


@pytest.mark.parametrize(
    ("name", "words"), [("localvit_svt_small", "twins-svt-small"), ("localvit_gg_tiny", "released no")]
)
def test_pretrained_is_refused_in_a_sentence(name, words):
    with pytest.raises(CheckpointError, match=f"timm has no weights of {name}: .*{words}.*load_backbone"):
        timm.create_model(name, pretrained=True)
