"""Files with several sets of weights, and names changed by wrappers: what is taken is said, and can be chosen."""

import logging

import numpy as np
import pytest
import torch
from checkpoint_cases import Runs
from mmengine.runner import load_checkpoint
from official_layouts import dwnet
from test_checkpoint_load import backbone, refusal
from torch import nn

from localvit_det.backbones import DWNet
from localvit_det.checkpoint import loading
from localvit_det.checkpoint.layouts import describe_choice, plain_names, weight_sets, weights_in
from localvit_det.checkpoint.loading import load_backbone
from localvit_det.checkpoint.matching import prepare
from localvit_det.checkpoint.publish import convert
from localvit_det.checkpoint.read import load_weights_only
from localvit_det.errors import CheckpointError

RAW, AVERAGE = {"a.weight": torch.zeros(2)}, {"a.weight": torch.ones(2)}
ADAM = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1}]}
# What a file holds, the keys of its weights in the order of preference, what is said.
FILES = {
    "timm": ({"model": RAW, "model_ema": AVERAGE, "optimizer": ADAM}, ["model", "model_ema"], "not model_ema (FILE#"),
    "timm, saved by its training": (
        {"state_dict": RAW, "state_dict_ema": AVERAGE, "arch": "x", "args": {"lr": 0.1}},
        ["state_dict", "state_dict_ema"],
        "state_dict is taken, not state_dict_ema",
    ),
    "averages first in the file": ({"ema": AVERAGE, "net": RAW}, ["net", "ema"], "net is taken, not ema"),
    "averages alone": ({"model_ema": AVERAGE, "optimizer": ADAM}, ["model_ema"], "model_ema is taken, its only"),
    "ema": ({"ema": AVERAGE, "epoch": 3}, ["ema"], "ema is taken"),
    "averages with their counter": ({"ema": {"module": AVERAGE, "updates": 7}}, ["ema.module"], "ema.module is taken"),
    "net": ({"net": RAW}, ["net"], "net is taken"),
    "params": ({"params": RAW, "params_ema": AVERAGE}, ["params", "params_ema"], "params is taken, not params_ema"),
    "two networks": ({"student": RAW, "teacher": AVERAGE}, ["teacher", "student"], "teacher is taken, not student"),
    "a key that is not known": ({"encoder": RAW, "epoch": 1}, ["encoder"], "encoder is taken"),
    "MMEngine's hook": (
        {"state_dict": AVERAGE, "ema_state_dict": RAW, "meta": {}, "message_hub": {}, "optimizer": ADAM},
        ["state_dict", "ema_state_dict"],
        "",
    ),
    "DeepSpeed": ({"module": RAW, "buffer_names": [], "optimizer": None}, ["module"], "module is taken"),
    "Lightning": ({"state_dict": RAW, "optimizer_states": [ADAM], "loops": {"fit": {}}}, ["state_dict"], ""),
    "a state dict": (dict(RAW), [""], ""),
    "a state dict with a number": ({**RAW, "epoch": torch.tensor(3)}, [""], ""),
    "an optimizer": ({"optimizer": ADAM}, [], ""),
    "an optimizer by names": ({"state": {"a.weight": {"exp_avg": torch.ones(2)}}, "param_groups": []}, [], ""),
    "a scaler": ({"model": RAW, "scaler": {"scale": torch.tensor(65536.0)}}, ["model"], ""),
}


@pytest.mark.parametrize(("content", "keys", "said"), FILES.values(), ids=FILES)
def test_what_is_found_taken_and_said(content, keys, said):
    assert list(weight_sets(content)) == keys
    if keys:
        first = content
        for part in filter(None, keys[0].split(".")):
            first = first[part]
        assert weights_in(content) is first
    else:
        assert weights_in(content) is None
    sentence = describe_choice(content)
    assert (said in sentence) if said else sentence == ""


@pytest.fixture
def two(tmp_path):
    """A file of the official code with averages, and both backbones' stems."""
    raw, average = dwnet(), dwnet()
    torch.save({"model": raw, "model_ema": average}, tmp_path / "two.pth")
    return tmp_path / "two.pth", raw["patch_embed.proj.weight"], average["patch_embed.proj.weight"]


def test_either_can_be_chosen(two, tmp_path):
    path, raw, average = two
    for name, expected in ((path, raw), (f"{path}#model", raw), (f"{path}#model_ema", average)):
        nets = [
            backbone("DWNet", init_cfg={"type": "Pretrained", "checkpoint": str(name)}),
            *map(backbone, ["DWNet"] * 2),
        ]
        nets[0].init_weights()
        load_checkpoint(nets[1], str(name))
        report = load_backbone(nets[2], name)
        for net in nets:
            assert torch.equal(net.stem.proj.weight, expected)
        assert ("weights of the file: model is taken, not model_ema" in str(report)) == (name == path)
    sentence = refusal(load_weights_only, f"{path}#ema")
    assert "no weights under ema (it has model, model_ema)" in sentence


def test_a_choice_is_a_warning(two, monkeypatch):
    levels = []
    monkeypatch.setattr(loading, "print_log", lambda text, logger, level: levels.append(level))
    for name in (two[0], f"{two[0]}#model_ema"):
        load_checkpoint(backbone("DWNet"), str(name))
        load_checkpoint(nn.Linear(1, 1), str(name))
    assert levels == [logging.WARNING, logging.WARNING, logging.INFO, logging.WARNING]  # the last one does not fit


def test_conversion_takes_the_chosen_ones(two, tmp_path):
    path, raw, average = two
    size = {"type": "DWNet", "arch": {"embed_dims": 32, "depths": (2, 2, 2, 2), "drop_path_rate": 0.0}}
    for name, expected in ((path, raw), (f"{path}#model_ema", average)):
        convert(name, tmp_path / "clean.pth", size)
        assert torch.equal(load_weights_only(tmp_path / "clean.pth")["state_dict"]["stem.proj.weight"], expected)


def test_a_file_whose_name_has_the_sign(tmp_path):
    torch.save(RAW, tmp_path / "run#3.pth")
    assert load_weights_only(tmp_path / "run#3.pth").keys() == RAW.keys()


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "module.model.backbone.", "backbone."],
)
def test_prefixes_in_any_nesting(prefix):
    net = DWNet(arch={"embed_dims": 32, "depths": (2, 2, 2, 2), "drop_path_rate": 0.0})
    state = {prefix + name: tensor for name, tensor in dwnet(detection=True).items()}
    if "backbone" in prefix:
        state |= {prefix.replace("backbone", "fc") + "weight": torch.ones(1000, 2)}
    taken, report = prepare(net, {"state_dict": state})
    assert len(taken) == report.size


def test_wrapped_parts_of_a_detector_are_read(tmp_path):
    ours = backbone("DWNet").state_dict()
    state = {f"model.backbone._orig_mod.{name}": tensor for name, tensor in ours.items()}
    state |= {"model.neck.weight": torch.ones(1), "model.rpn_head.weight": torch.ones(1)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.4"}, tmp_path / "lightning.ckpt")
    assert len(load_backbone(backbone("DWNet"), tmp_path / "lightning.ckpt").found) == len(ours)
    for prefix in ("backbone.", "model.backbone."):
        init = {"type": "Pretrained", "checkpoint": str(tmp_path / "lightning.ckpt"), "prefix": prefix}
        net = backbone("DWNet", init_cfg=init)
        net.init_weights()
        assert torch.equal(net.stem.proj.weight, ours["stem.proj.weight"])


def test_names_of_the_model_itself_stay():
    state = {"model.a": torch.ones(1), "model.b": torch.ones(1)}
    assert plain_names(state, backbone_alone=False, parts=["model"]).keys() == state.keys()
    assert plain_names(state, backbone_alone=False).keys() == {"a", "b"}
    assert plain_names({"student.a": RAW, "teacher.a": RAW}, False).keys() == {"student.a", "teacher.a"}


def test_several_models_under_one_key(tmp_path):
    """As MMDetection's semi-supervised detectors are saved, and Lightning modules with an average of themselves."""
    teacher, student = dwnet(), dwnet()
    state = {f"teacher.{name}": t for name, t in teacher.items()} | {
        f"student.{name}": t for name, t in student.items()
    }
    for content in ({"state_dict": state, "meta": {}}, state):
        torch.save(content, tmp_path / "pair.pth")
        sentence = refusal(load_backbone, backbone("DWNet"), tmp_path / "pair.pth")
        assert "it holds several models (teacher, student); take one of them with FILE#teacher" in sentence
        net = backbone("DWNet")
        load_backbone(net, f"{tmp_path}/pair.pth#student")
        assert torch.equal(net.stem.proj.weight, student["patch_embed.proj.weight"])


def test_backbone_of_a_detector_by_its_key(tmp_path):
    ours = backbone("DWNet").state_dict()
    state = {f"backbone.{name}": t for name, t in ours.items()} | {"neck.a": torch.ones(1), "rpn_head.a": torch.ones(1)}
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "detector.pth")
    net = backbone("DWNet", init_cfg={"type": "Pretrained", "checkpoint": f"{tmp_path}/detector.pth"})
    assert "only its backbone with --pretrained FILE#backbone" in refusal(net.init_weights)
    net = backbone("DWNet", init_cfg={"type": "Pretrained", "checkpoint": f"{tmp_path}/detector.pth#backbone"})
    net.init_weights()
    assert torch.equal(net.stem.proj.weight, ours["stem.proj.weight"])


def test_averages_of_mmengine_are_read_without_their_counter():
    state = {f"module.{name}": tensor for name, tensor in dwnet(detection=True).items()}
    state["steps"] = torch.tensor(7)
    prepare(backbone("DWNet"), {"ema_state_dict": state})


# ---------------------------------------------------------------------------------------------- what is no weights


def test_half_precision_is_taken(tmp_path):
    torch.save({"model": {name: t.half() for name, t in dwnet().items()}}, tmp_path / "half.pth")
    net = backbone("DWNet")
    load_backbone(net, tmp_path / "half.pth")
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["int8", "qint8", "float8_e4m3fn"])
def test_quantized_weights_are_no_weights(kind):
    state, name = dwnet(), "layers.0.blocks.0.mlp.fc1.weight"
    kind = getattr(torch, kind)
    quantized = kind is torch.qint8
    state[name] = torch.quantize_per_tensor(state[name], 0.1, 0, kind) if quantized else state[name].to(kind)
    sentence = refusal(prepare, backbone("DWNet"), state)
    assert f"fc1.weight is {str(kind)[6:]}" in sentence
    assert "it is quantized" in sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"optimizer_state_dict": {"fp32_flat_groups": []}, "ds_version": "0.1"}, "only the state of an optimiser"),
        ({"model": {"a": np.ones(2)}}, "NumPy's arrays and no tensors"),
        ([RAW], "holds a list"),
    ],
)
def test_files_without_weights_are_named(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pth")
    assert words in refusal(load_backbone, backbone("DWNet"), tmp_path / "x.pth")


def test_shards_are_named(tmp_path):
    for name, words in (("fsdp/__0_0.distcp", "dcp_to_torch"), ("zero/zero_to_fp32.py", "own zero_to_fp32.py")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
        assert words in refusal(load_weights_only, (tmp_path / name).parent)
    torch.save(RAW, tmp_path / "model-00001-of-00003.bin")
    assert "one of 3 parts" in refusal(load_weights_only, tmp_path / "model-00001-of-00003.bin")
    torch.save(RAW, tmp_path / "model-00001-of-00001.bin")
    load_weights_only(tmp_path / "model-00001-of-00001.bin")
    sharded = pytest.importorskip("torch.distributed._shard.sharded_tensor")
    torch.save({"a.weight": Runs(sharded.ShardedTensor)}, tmp_path / "rank_0.pth")
    assert "one process's part of a sharded model" in refusal(load_weights_only, tmp_path / "rank_0.pth")


def test_key_is_no_way_round_the_checks(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_weights_only(tmp_path / "absent.pth#model")


@pytest.mark.parametrize("head", ["head.fc", "head", "fc", "classifier"])
def test_head_of_a_classifier_around_our_backbone_is_not_needed(head):
    net = backbone("DWNet")
    state = {f"backbone.{name}": tensor for name, tensor in net.state_dict().items()}
    _, report = prepare(net, {"state_dict": {**state, f"{head}.weight": torch.ones(10, 3)}})
    assert report.unexpected == report.allowed
    assert len(report.found) == report.size
