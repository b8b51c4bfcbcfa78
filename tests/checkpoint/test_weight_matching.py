"""What fits is converted and reported; what does not is refused with its likely reason."""

import copy

import numpy as np
import pytest
import torch
from checkpoint_cases import NANO, backbone, refusal
from conftest import REPOSITORY
from mmdet.registry import MODELS
from official_layouts import cascade_v2, dwnet, hugging_face_swin, msg, openmmlab_twins, shuffle, swin, twins

from localvit_det.backbones import DWNet
from localvit_det.checkpoint.layouts import resize_position_bias
from localvit_det.checkpoint.matching import LoadReport, prepare
from localvit_det.config import load_config


@pytest.fixture(scope="module")
def cascade():
    """The cascade config's model, with a small backbone."""
    cfg = load_config(REPOSITORY / "configs/cascade_mask_rcnn_dwnet_t_3x_coco.py")
    cfg.model.backbone.arch = {key: value for key, value in NANO.items() if key != "num_heads"}
    cfg.model.neck.in_channels = [32, 64, 128, 256]
    with torch.device("meta"):
        return MODELS.build(cfg.model)


def official_cascade(**options) -> dict:
    with torch.device("meta"):
        return cascade_v2(dwnet(detection=True), 32, **options)


# ---------------------------------------------------------------------------------------------- what fits


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_v2_cascade_lands_whole(cascade, kind):
    with torch.device("meta"):
        model = copy.deepcopy(cascade)
        if kind == "dynamic":
            model.backbone = backbone("DynamicDWNet")
        official = cascade_v2(dwnet(kind=kind, detection=True), 32)
    state, report = prepare(model, {"state_dict": official, "meta": {}, "optimizer": {}})
    assert not report.problems
    assert not report.unexpected
    assert state.keys() == model.state_dict().keys()
    rows = {line.split()[0]: line.split()[1:] for line in str(report).splitlines()[2:]}
    assert list(rows) == ["backbone", "neck", "rpn_head", "roi_head"]
    assert rows["roi_head"] == ["126", "0", "0", "0", "0", "0", "0"]


def test_norms_of_svt_are_those_of_its_detection_code():
    official = twins("TwinsSVT", detection=True)
    state, report = prepare(backbone("TwinsSVT"), {"state_dict": {f"backbone.{n}": t for n, t in official.items()}})
    assert not report.missing
    assert torch.equal(state["out_norms.2.bias"], official["norm_list.2.bias"])
    assert torch.equal(state["stages.2.blocks.1.mixer.norm.bias"], official["blocks.2.1.attn.norm.bias"])


@pytest.mark.parametrize(
    "prefix",
    [
        *("_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "model.", "net."),
        *("module.model.backbone.", "backbone."),
    ],
)
def test_prefixes_in_any_nesting(prefix):
    net = DWNet(arch={"embed_dims": 32, "depths": (2, 2, 2, 2), "drop_path_rate": 0.0})
    state = {prefix + name: tensor for name, tensor in dwnet(detection=True).items()}
    if "backbone" in prefix:
        state |= {prefix.replace("backbone", "fc") + "weight": torch.ones(1000, 2)}
    taken, report = prepare(net, {"state_dict": state})
    assert len(taken) == report.size


@pytest.mark.parametrize("head", ["head.fc", "head", "fc", "classifier"])
def test_head_of_a_classifier_around_our_backbone_is_not_needed(head):
    net = backbone("DWNet")
    state = {f"backbone.{name}": tensor for name, tensor in net.state_dict().items()}
    _, report = prepare(net, {"state_dict": {**state, f"{head}.weight": torch.ones(10, 3)}})
    assert report.unexpected == report.allowed
    assert len(report.found) == report.size


def test_averages_of_mmengine_are_read_without_their_counter():
    state = {f"module.{name}": tensor for name, tensor in dwnet(detection=True).items()}
    state["steps"] = torch.tensor(7)
    prepare(backbone("DWNet"), {"ema_state_dict": state})


def test_a_weight_of_another_shape_counts_as_converted():
    net = backbone("GGTransformer")
    state = net.state_dict()
    name = next(name for name, tensor in state.items() if name.endswith("qkv.weight") and tensor.ndim == 4)
    _, report = prepare(net, {**state, name: state[name][..., 0, 0]})
    assert report.converted == {name}
    assert report.found == set(state)


def test_another_window_size_is_resized_and_reported():
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


def test_size_counts_every_tensor_of_the_model_once():
    shapes = {"g": (torch.Size([3]), torch.Size([4])), "h": (torch.Size([3]), torch.Size([5]))}
    report = LoadReport("file", "net", (), found={"a", "b", "c", "d", "e"}, new={"f"}, zeroed={"i", "j"}, missing={"k"})
    report.mismatched, report.encoded, report.unexpected = shapes, {"l": torch.int8}, {"z"}
    assert report.size == 5 + 1 + 2 + 1 + 2 + 1
    report.allowed = {"k"}
    shapes = ["g is (3,) instead of (4,)", "h is (3,) instead of (5,)"]
    assert report.problems == ["l is int8", *shapes, "z is unexpected"]


# ---------------------------------------------------------------------------------------------- what does not fit


def without(state: dict, *names: str) -> dict:
    return {name: tensor for name, tensor in state.items() if name not in names}


def cut(state: dict, name: str) -> dict:
    return {**state, name: state[name][:-1]}


FOR_BACKBONES = {
    "another family": (
        ("GGTransformer", shuffle),
        ("its backbone is ShuffleTransformer with 32 channels and 2-2-2-2 blocks", "mixer.gaze.bias is missing"),
    ),
    "another size": (
        ("DWNet", lambda: dwnet(48)),
        ("its backbone is DWNet with 48 channels", "the model's is DWNet with 32 channels"),
    ),
    "Swin": (("DWNet", swin), ("it is a Swin Transformer's and the model's backbone is DWNet", "warm_start=swin")),
    "Swin of Hugging Face": (("DWNet", lambda: hugging_face_swin(swin())), ("it is a Swin Transformer's",)),
    "MSG, which has Swin's names": (
        ("MSGTransformer", lambda: msg(channels=48)),
        ("its backbone is MSGTransformer with 48 channels",),
    ),
    "joint weights that cannot be split": (
        ("TwinsPCPVT", lambda: cut(openmmlab_twins(twins("TwinsPCPVT"), "mmseg"), "layers.0.0.attn.attn.in_proj_bias")),
        ("stages.0.blocks.0.mixer.query.bias is missing",),
    ),
    "one output norm less": (
        ("DWNet", lambda: without(dwnet(detection=True), "norm1.bias")),
        ("out_norms.1.bias is missing",),
    ),
    "a whole detector": (
        ("DWNet", lambda: cascade_v2(dwnet(detection=True), 32)),
        ("whole detector and not a backbone; give it to --load-from",),
    ),
    "optimizer of DeepSpeed": (
        ("DWNet", lambda: {"optimizer_state_dict": {"fp32_flat_groups": []}, "ds_version": "0.1"}),
        ("only the state of an optimiser",),
    ),
    "optimizer and notes": (
        ("DWNet", lambda: {"optimizer": {"state": {}, "param_groups": []}, "meta": {}}),
        ("only the state of an optimiser",),
    ),
    "optimizer alone": (
        ("DWNet", lambda: {"state": {}, "param_groups": []}),
        ("only the state of an optimiser", ": give the checkpoint that was saved with the model"),
    ),
    "arrays": (
        ("DWNet", lambda: {"model": {"a": np.ones(2)}}),
        ("NumPy's arrays and no tensors", ": save it again after"),
    ),
}


@pytest.mark.parametrize("case", FOR_BACKBONES)
def test_what_does_not_fit_a_backbone(case):
    (family, content), words = FOR_BACKBONES[case]
    net = backbone(family)
    before = copy.deepcopy(net.state_dict())
    sentence = refusal(prepare, net, content(), source="file.pth")
    assert sentence.startswith("file.pth ")
    for part in words:
        assert part in sentence
    torch.testing.assert_close(net.state_dict(), before)


def test_published_sizes_are_named():
    with torch.device("meta"):
        tiny, base = dwnet(96, (2, 2, 6, 2)), MODELS.build({"type": "DWNet", "arch": "base"})
    assert "its backbone is DWNet tiny and the model's is DWNet base" in refusal(prepare, base, tiny)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (dwnet, "not a detector; give it to --pretrained"),
        (lambda: {"fc.weight": torch.ones(1)}, "not a detector; give it to --pretrained"),
        (swin, "it is another kind of model, perhaps a classifier and not"),
    ],
)
def test_no_detector(cascade, state, words):
    assert words in refusal(prepare, cascade, state())


def test_other_class_count_is_offered_new_heads(cascade):
    official = official_cascade(classes=20)
    sentence = refusal(prepare, cascade, official)
    assert "trained for 20 classes and the model has 80" in sentence
    assert "--load-from" in sentence
    state, report = prepare(cascade, official, "finetune")
    heads = [f"bbox_head.{i}.{n}" for i in range(3) for n in ("fc_cls", "fc_reg")]
    heads += [f"mask_head.{i}.conv_logits" for i in range(3)]
    assert report.new == {f"roi_head.{n}.{p}" for n in heads for p in ("weight", "bias")}
    assert not report.new & state.keys()


@pytest.mark.parametrize("policy", ["strict", "finetune"])
def test_other_heads_are_no_other_class_count(cascade, policy):
    official = official_cascade(classes=20)
    official["roi_head.bbox_head.0.shared_fcs.0.weight"] = torch.empty(512, 256 * 49)
    sentence = refusal(prepare, cascade, official, policy)
    assert "made with other settings" in sentence
    assert "load_policy='finetune'" not in sentence


def test_missing_and_left_over_tensors_are_errors(cascade):
    official = without(official_cascade(), "roi_head.mask_head.1.upsample.bias", "backbone.norm2.weight")
    official["roi_head.extra"] = torch.empty(1)
    sentence = refusal(prepare, cascade, official)
    assert "backbone.out_norms.2.weight is missing" in sentence
    assert "roi_head.mask_head.1.upsample.bias is missing" in sentence
    assert "roi_head.extra is unexpected" in sentence
    state, report = prepare(cascade, official, "partial")
    assert len(report.missing) == 2
    assert len(state) == report.size - 2


@pytest.mark.parametrize("kind", ["int8", "qint8", "float8_e4m3fn"])
def test_quantized_weights_are_no_weights(kind):
    state, name = dwnet(), "layers.0.blocks.0.mlp.fc1.weight"
    kind = getattr(torch, kind)
    quantized = kind is torch.qint8
    state[name] = torch.quantize_per_tensor(state[name], 0.1, 0, kind) if quantized else state[name].to(kind)
    sentence = refusal(prepare, backbone("DWNet"), state)
    assert f"fc1.weight is {str(kind)[6:]}" in sentence
    assert "it is quantized" in sentence
