"""Where weights stand in files, what they are called, and their shapes."""

import pytest
import torch
import torch.nn.functional as F

import localvit_det  # noqa: F401
from localvit_det.checkpoint.layouts import (
    RESIZERS,
    describe_choice,
    plain_names,
    resize_kernel,
    resize_position_bias,
    weight_sets,
    weights_in,
)
from localvit_det.checkpoint.networks import families

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


def test_names_of_the_model_itself_stay():
    state = {"model.a": torch.ones(1), "model.b": torch.ones(1)}
    assert plain_names(state, backbone_alone=False, parts=["model"]).keys() == state.keys()
    assert plain_names(state, backbone_alone=False).keys() == {"a", "b"}
    assert plain_names({"student.a": RAW, "teacher.a": RAW}, False).keys() == {"student.a", "teacher.a"}


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


def test_families_name_resizers_that_exist():
    for family in families():
        assert {kind for _, kind in family.resizable_weights} <= RESIZERS.keys()
