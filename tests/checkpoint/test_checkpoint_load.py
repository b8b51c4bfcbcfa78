"""What fits is converted, reported and loaded; what does not is refused with its likely reason."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint
from official_layouts import PAIRS, cascade_v2, dwnet, hugging_face_swin, msg, openmmlab_twins, shuffle, swin, twins
from torch import nn

import localvit_det  # noqa: F401
from localvit_det.backbones.sizes import stage_widths
from localvit_det.checkpoint.identify import families, find_origin
from localvit_det.checkpoint.layouts import RESIZERS, resize_kernel, resize_position_bias
from localvit_det.checkpoint.matching import prepare
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError

NANO = {"embed_dims": 32, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16), "drop_path_rate": 0.0}
OFFICIAL = {
    "ShuffleTransformer": lambda **size: shuffle(window=7, **size),
    "DWNet": lambda **size: dwnet(**size),
    "DynamicDWNet": lambda **size: dwnet(kind="dynamic", **size),
    "IDynamicDWNet": lambda **size: dwnet(kind="inhomogeneous", **size),
    "MSGTransformer": lambda **size: msg(**size),
    "TwinsPCPVT": lambda **size: twins("TwinsPCPVT", **size),
    "TwinsSVT": lambda **size: twins("TwinsSVT", **size),
}
TWINS = ("TwinsPCPVT", "TwinsSVT")


def backbone(family: str, **options) -> nn.Module:
    heads = "num_heads" in MODELS.get(family).accepted_arguments()
    arch = {key: value for key, value in NANO.items() if heads or key != "num_heads"}
    return MODELS.build({"type": family, "arch": arch, **options})


def refusal(load, *arguments, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def cascade():
    """The cascade config's model, with a small backbone."""
    cfg = load_config(REPOSITORY / "configs/cascade_mask_rcnn_dwnet_t_3x_coco.py")
    cfg.model.backbone.arch = {key: value for key, value in NANO.items() if key != "num_heads"}
    cfg.model.neck.in_channels = [32, 64, 128, 256]
    with torch.device("meta"):
        return MODELS.build(cfg.model)


# ---------------------------------------------------------------------------------------------- official layouts


@pytest.mark.parametrize("family", OFFICIAL)
def test_official_classifier_loads_through_init_cfg(family, tmp_path):
    official = OFFICIAL[family]()
    path = tmp_path / "official.pth"
    torch.save({"model": official, "epoch": 299}, path)
    init = {"type": "Pretrained", "checkpoint": str(path)}
    net = backbone(family, init_cfg=init, out_norm_cfg="default")
    before = net.out_norms["0"].weight.clone()
    net.init_weights()
    state = net.state_dict()
    for name, ours in PAIRS[family].items():
        torch.testing.assert_close(state[ours].squeeze(), official[name].squeeze(), rtol=0, atol=0)
    loaded = {tuple(t.flatten().tolist()) for n, t in state.items() if t.ndim and not n.startswith("out_norms")}
    left = {n for n, t in official.items() if t.is_floating_point() and tuple(t.flatten().tolist()) not in loaded}
    assert left == {n for n in official if n.startswith(("head.", "norm."))}
    torch.testing.assert_close(net.out_norms["0"].weight, before)


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


def test_norms_of_svt_are_those_of_its_detection_code():
    official = twins("TwinsSVT", detection=True)
    net = backbone("TwinsSVT")
    state, report = prepare(net, {"state_dict": {f"backbone.{name}": t for name, t in official.items()}})
    assert not report.missing
    assert torch.equal(state["out_norms.2.bias"], official["norm_list.2.bias"])
    assert torch.equal(state["stages.2.blocks.1.mixer.norm.bias"], official["blocks.2.1.attn.norm.bias"])


def test_swin_in_a_backbone_of_ours_is_named():
    for state in (swin(), hugging_face_swin(swin())):
        sentence = refusal(prepare, backbone("DWNet"), state)
        assert "it is a Swin Transformer's and the model's backbone is DWNet" in sentence
        assert "warm_start=swin" in sentence
    sentence = refusal(prepare, backbone("MSGTransformer"), msg(channels=48))  # which has Swin's names, too
    assert "its backbone is MSGTransformer with 48 channels" in sentence


def test_joint_weights_that_cannot_be_split_are_refused():
    state = openmmlab_twins(twins("TwinsPCPVT"), "mmseg")
    name = "layers.0.0.attn.attn.in_proj_bias"
    state[name] = state[name][:-1]
    assert "stages.0.blocks.0.mixer.query.bias is missing" in refusal(prepare, backbone("TwinsPCPVT"), state)


def test_backbones_of_others_are_named():
    cfg = {"type": "mmdet.SwinTransformer", "embed_dims": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    state = MODELS.build(cfg).state_dict()
    assert find_origin(state) is None
    assert "it is a Swin Transformer's" in refusal(prepare, backbone("DWNet"), state)
    state = MODELS.build({"type": "mmdet.ResNet", "depth": 18}).state_dict()
    assert find_origin(state) is None
    assert "none of this package's families" in refusal(prepare, backbone("DWNet"), state)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_v2_cascade_lands_whole(cascade, kind):
    with torch.device("meta"):
        model = copy.deepcopy(cascade)
        if kind == "dynamic":
            model.backbone = backbone("DynamicDWNet")
        official = cascade_v2(dwnet(kind=kind, detection=True), 32)
    state, report = prepare(model, {"state_dict": official, "meta": {}, "optimizer": {}})
    assert not report.missing
    assert not report.unexpected
    assert not report.mismatched
    assert state.keys() == model.state_dict().keys()
    table = str(report)
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[2:]}
    assert list(rows) == ["backbone", "neck", "rpn_head", "roi_head"]
    assert rows["roi_head"] == ["126", "0", "0", "0", "0", "0", "0"]


@pytest.mark.parametrize("family", ["DWNet", "MSGTransformer"])
def test_settings_beside_official_weights_are_no_obstacle(family, tmp_path, monkeypatch):
    """The official training code saves its yacs config in the same file."""
    import sys
    import types

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
        torch.save(record, tmp_path / "ckpt_epoch_299.pth")
    net = backbone(family, init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "ckpt_epoch_299.pth")})
    net.init_weights()


def test_module_prefix_of_parallel_training(tmp_path):
    state = {f"module.{name}": tensor for name, tensor in dwnet().items()}
    torch.save({"model": state}, tmp_path / "ddp.pth")
    net = backbone("DWNet")
    load_checkpoint(net, str(tmp_path / "ddp.pth"))
    torch.testing.assert_close(net.stem.proj.weight.detach().contiguous(), state["module.patch_embed.proj.weight"])


def test_backbone_out_of_a_detector(tmp_path):
    official = dwnet(detection=True)
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in official.items()}}, tmp_path / "detector.pth")
    init = {"type": "Pretrained", "checkpoint": str(tmp_path / "detector.pth"), "prefix": "backbone."}
    net = backbone("DWNet", init_cfg=init)
    net.init_weights()
    torch.testing.assert_close(net.out_norms["2"].running_mean, official["norm2.running_mean"])
    wrong = backbone("DWNet", init_cfg={**init, "prefix": "bakbone."})
    assert "begins with bakbone." in refusal(wrong.init_weights)


# ---------------------------------------------------------------------------------------------- resizing


def test_position_bias_is_bicubic():
    table = torch.randn(13**2, 3)
    image = table.T.reshape(1, 3, 13, 13)
    expected = F.interpolate(image, size=(9, 9), mode="bicubic", align_corners=False).reshape(3, 81).T
    torch.testing.assert_close(resize_position_bias(table, torch.Size((81, 3))), expected)
    assert resize_position_bias(table, torch.Size((81, 4))) is None


def test_wider_kernels_compute_the_same():
    kernel, image = torch.randn(4, 1, 5, 5), torch.randn(1, 4, 12, 12)
    wide = resize_kernel(kernel, torch.Size((4, 1, 9, 9)))
    torch.testing.assert_close(F.conv2d(image, wide, padding=4, groups=4), F.conv2d(image, kernel, padding=2, groups=4))
    torch.testing.assert_close(resize_kernel(wide, kernel.shape), kernel)
    assert resize_kernel(kernel, torch.Size((4, 1, 6, 6))) is None


def test_another_window_size_is_resized_and_told():
    net = backbone("ShuffleTransformer", window_size=5, out_norm_cfg=None)
    official = shuffle(window=7)
    state, report = prepare(net, official)
    assert not report.problems
    assert len(report.resized) == 16  # a table and a kernel in each of 8 blocks
    name = "stages.0.blocks.0.mixer.relative_position_bias_table"
    table = official["stage1.layers.0.0.attn.relative_position_bias_table"]
    torch.testing.assert_close(state[name], resize_position_bias(table, torch.Size((81, 2))))
    # Only weights that a family lists are resized.
    assert "(32, 1, 7, 7) instead of (32, 1, 5, 5)" in refusal(prepare, backbone("DWNet", window_size=5), dwnet())


def test_families_name_resizers_that_exist():
    for family in families():
        assert {kind for _, kind in family.resizable_weights} <= RESIZERS.keys()


# ---------------------------------------------------------------------------------------------- what does not fit


def test_shuffle_into_gg():
    sentence = refusal(prepare, backbone("GGTransformer"), shuffle(), source="shuffle.pth")
    assert "shuffle.pth" in sentence
    assert "its backbone is ShuffleTransformer with 32 channels and 2-2-2-2 blocks" in sentence
    assert "mixer.gaze.bias is missing" in sentence


def test_tiny_into_base():
    with torch.device("meta"):
        tiny, base = dwnet(96, (2, 2, 6, 2)), MODELS.build({"type": "DWNet", "arch": "base"})
    sentence = refusal(prepare, base, tiny)
    assert "its backbone is DWNet tiny and the model's is DWNet base" in sentence


def test_detector_as_backbone_and_the_other_way_round(cascade):
    with torch.device("meta"):
        detector, classifier = cascade_v2(dwnet(detection=True), 32), dwnet()
    assert "whole detector and not a backbone; give it to --load-from" in refusal(prepare, backbone("DWNet"), detector)
    assert "not a detector; give it to --pretrained" in refusal(prepare, cascade, classifier)
    assert "not a detector; give it to --pretrained" in refusal(prepare, cascade, {"fc.weight": torch.ones(1)})
    assert "it is another kind of model, perhaps a classifier and not" in refusal(prepare, cascade, swin())


def test_other_class_count_is_offered_new_heads(cascade):
    with torch.device("meta"):
        official = cascade_v2(dwnet(detection=True), 32, classes=20)
    sentence = refusal(prepare, cascade, official)
    assert "trained for 20 classes and the model has 80" in sentence
    assert "--load-from" in sentence
    state, report = prepare(cascade, official, "finetune")
    heads = [f"bbox_head.{i}.{n}" for i in range(3) for n in ("fc_cls", "fc_reg")]
    heads += [f"mask_head.{i}.conv_logits" for i in range(3)]
    assert report.new == {f"roi_head.{n}.{p}" for n in heads for p in ("weight", "bias")}
    assert not report.new & state.keys()


def test_other_heads_are_no_other_class_count(cascade):
    with torch.device("meta"):
        official = cascade_v2(dwnet(detection=True), 32, classes=20)
        name = "roi_head.bbox_head.0.shared_fcs.0.weight"
        official[name] = torch.empty(512, 256 * 49)
    for policy in ("strict", "finetune"):
        sentence = refusal(prepare, cascade, official, policy)
        assert "made with other settings" in sentence
        assert "load_policy='finetune'" not in sentence


def test_missing_and_left_over_tensors_are_errors(cascade):
    with torch.device("meta"):
        official = cascade_v2(dwnet(detection=True), 32)
    del official["roi_head.mask_head.1.upsample.bias"], official["backbone.norm2.weight"]
    official["roi_head.extra"] = torch.empty(1)
    sentence = refusal(prepare, cascade, official)
    assert "backbone.out_norms.2.weight is missing" in sentence
    assert "roi_head.mask_head.1.upsample.bias is missing" in sentence
    assert "roi_head.extra is unexpected" in sentence
    state, report = prepare(cascade, official, "partial")
    assert len(report.missing) == 2
    assert len(state) == report.size - 2


def test_one_missing_output_norm_is_an_error():
    net, state = backbone("DWNet"), dwnet(detection=True)
    prepare(net, state)
    del state["norm1.bias"]
    assert "out_norms.1.bias is missing" in refusal(prepare, net, state)


def test_partial_by_name_only(tmp_path):
    state = dwnet()
    del state["patch_embed.norm.bias"]
    torch.save({"model": state}, tmp_path / "some.pth")
    init = {"type": "Pretrained", "checkpoint": str(tmp_path / "some.pth")}
    assert "partial=True" in refusal(backbone("DWNet", init_cfg=init).init_weights)
    net = backbone("DWNet", init_cfg={**init, "partial": True})
    net.init_weights()
    torch.testing.assert_close(net.stem.proj.weight.detach().contiguous(), state["patch_embed.proj.weight"])
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "some.pth")
    refusal(backbone("DWNet", init_cfg={**init, "partial": True}).init_weights)


def test_optimiser_only(tmp_path):
    for content in ({"optimizer": {"state": {}, "param_groups": []}, "meta": {}}, {"state": {}, "param_groups": []}):
        torch.save(content, tmp_path / "optimizer.pth")
        assert "only the state of an optimiser" in refusal(
            load_checkpoint, backbone("DWNet"), str(tmp_path / "optimizer.pth")
        )


def test_refused_weights_change_nothing():
    net = backbone("DWNet")
    before = copy.deepcopy(net.state_dict())
    state = dwnet()
    del state["patch_embed.norm.bias"]
    refusal(prepare, net, state)
    torch.testing.assert_close(net.state_dict(), before)


def test_models_of_others_load_as_ever(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    torch.save({"state_dict": {"0.weight": torch.ones(3, 2), "9.weight": torch.ones(1)}}, tmp_path / "a.pth")
    load_checkpoint(net, str(tmp_path / "a.pth"))
    assert net[0].weight.eq(1).all()


def test_a_weight_of_another_shape_counts_as_converted():
    net = backbone("GGTransformer")
    state = net.state_dict()
    name = next(name for name, tensor in state.items() if name.endswith("qkv.weight") and tensor.ndim == 4)
    _, report = prepare(net, {**state, name: state[name][..., 0, 0]}, "strict", "a file")
    assert report.converted == {name}
    assert report.found == set(state)
