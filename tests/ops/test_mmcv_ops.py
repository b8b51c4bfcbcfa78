"""The operators that stand in for a compiled mmcv give what a compiled mmcv 2.1.0 gave."""

import importlib.util
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv import ops
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

from localvit_det.errors import RequirementError
from localvit_det.requirements import has_compiled_operators

DATA = Path(__file__).parents[1] / "data"
GOLDEN = np.load(DATA / "mmcv_ops_golden.npz")
MAKER = runpy.run_path(str(DATA / "make_mmcv_golden.py"))
INPUTS = {name.removeprefix("input_"): GOLDEN[name] for name in GOLDEN.files if name.startswith("input_")}
CASES = [name.removeprefix("result_") for name in GOLDEN.files if name.startswith("result_")]

stand_in_only = pytest.mark.skipif(has_compiled_operators(), reason="mmcv has compiled operators")


@pytest.fixture(scope="module")
def results():
    return MAKER["results"](INPUTS)


@pytest.fixture
def features():
    return torch.from_numpy(INPUTS["features"])


@pytest.fixture
def rois():
    return torch.from_numpy(INPUTS["rois"])


@pytest.mark.parametrize("case", CASES)
def test_same_as_compiled_mmcv(results, case):
    expected = GOLDEN[f"result_{case}"]
    if expected.dtype == np.int64:  # which boxes are kept, in which order
        np.testing.assert_array_equal(results[case], expected)
    else:
        np.testing.assert_allclose(results[case], expected, rtol=1e-5, atol=1e-5)


def test_golden_data_holds_every_case(results):
    assert sorted(CASES) == sorted(results)


def test_golden_inputs_are_the_seeded_ones():
    for name, array in MAKER["inputs"]().items():
        np.testing.assert_array_equal(array, INPUTS[name])


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("offset", [0, 1])
def test_iou_equal_to_the_threshold_keeps_the_box(threshold, offset):
    """30/100 in float32 is above 0.3 in float64, and 0.7 in float64 above 0.7 in float32."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10 * threshold]])
    boxes[:, 2:] -= offset
    for shift in (0, 4096):  # batched_nms moves the classes apart
        kept = ops.nms(boxes + shift, torch.tensor([0.9, 0.8]), threshold, offset)[1]
        assert kept.tolist() == [0, 1]


@stand_in_only
def test_equal_scores_keep_their_order():
    boxes = torch.arange(100.0)[:, None] * 10 + torch.tensor([0.0, 0, 5, 5])
    assert ops.nms(boxes, torch.full((100,), 0.5), 0.5)[1].tolist() == list(range(100))


def test_nothing_in_nothing_out():
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    assert ops.nms(boxes, scores, 0.5)[0].shape == (0, 5)
    assert ops.soft_nms(boxes, scores)[0].shape == (0, 5)


def test_roi_align_without_rois(features):
    output, gradient = MAKER["roi_align_with_gradient"](features, torch.zeros(0, 5), 0, True)
    assert output.shape == (0, 3, 5, 3)
    assert not gradient.any()


def test_roi_align_of_channels_last_features(features, rois):
    """A compiled mmcv reads them as if they were contiguous, unless `patches` has been applied."""
    expected = ops.roi_align(features, rois, (5, 3), 0.25, 2, "avg", True)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ops.roi_align(channels_last, rois, (5, 3), 0.25, 2, "avg", True), expected)


@stand_in_only
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(features, rois, dtype):
    expected, gradient = MAKER["roi_align_with_gradient"](features, rois.to(dtype).float(), 2, True)
    output, found = MAKER["roi_align_with_gradient"](features.to(dtype), rois.to(dtype), 2, True)
    assert output.dtype == found.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(found.float(), gradient, rtol=0.02, atol=0.02)
    boxes, scores = torch.from_numpy(INPUTS["boxes"]).to(dtype), torch.linspace(0, 1, 150).to(dtype)
    assert ops.nms(boxes, scores, 0.5)[0].dtype == dtype
    assert ops.soft_nms(boxes, scores)[0].dtype == dtype


def test_under_autocast(features, rois):
    expected = ops.roi_align(features, rois, (5, 3), 0.25, 2, "avg", True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ops.roi_align(features, rois, (5, 3), 0.25, 2, "avg", True), expected)


def focal_case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.linspace(-9, 9, 24, dtype=dtype).view(6, 4).requires_grad_()
    return logits, torch.tensor([0, 3, 1, 4, 2, -1])  # 4 and -1 are background


@stand_in_only
def test_focal_loss_and_its_exact_gradient():
    logits, target = focal_case(torch.float64)
    loss = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    (grad,) = torch.autograd.grad(loss.square().sum(), logits)

    one_hot = (target[:, None] == torch.arange(4)).double()
    expected = py_sigmoid_focal_loss(logits, one_hot, gamma=2.0, alpha=0.25, reduction="none")
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)


@stand_in_only
def test_focal_loss_with_class_weights_and_saturated_logits():
    logits = torch.tensor([[80.0, -200.0], [-200.0, 80.0]], requires_grad=True)
    target, weight = torch.tensor([1, 1]), torch.tensor([3.0, 2.0])
    loss = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, "none")
    plain = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    torch.testing.assert_close(loss, plain * 2)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert grad.isfinite().all()


@stand_in_only
@pytest.mark.parametrize("name", ["deform_conv_forward", "nms_rotated", "carafe_forward"])
def test_other_operators_say_what_to_install_when_called(monkeypatch, name):
    monkeypatch.setattr("localvit_det.ops.mmcv_ops.is_onedl", lambda: False)
    operator = getattr(sys.modules["mmcv._ext"], name)  # looking is allowed
    with pytest.raises(RequirementError, match=rf"'{name}'.*pip install.* mmcv==2.1.0`"):
        operator(torch.zeros(1))
    monkeypatch.setattr("localvit_det.ops.mmcv_ops.is_onedl", lambda: True)
    with pytest.raises(RequirementError, match=rf"'{name}'.*pip install.* onedl-mmcv==2.3.6`"):
        operator(torch.zeros(1))


@stand_in_only
def test_max_pooling_says_what_to_install(features, rois):
    with pytest.raises(RequirementError, match=r"pool_mode='max'.*pip install"):
        ops.roi_align(features, rois, (5, 3), 0.25, 2, "max", True)


@stand_in_only
def test_environment_report_and_unknown_attributes():
    assert "torchvision" in ops.get_compiler_version()
    module = sys.modules["mmcv._ext"]
    assert not hasattr(module, "__path__")
    assert importlib.util.find_spec("mmcv._ext").loader is None


@pytest.mark.gpu
def test_same_on_the_gpu(features, rois):
    boxes, scores = torch.from_numpy(INPUTS["boxes"]), torch.from_numpy(INPUTS["scores"])
    kept = ops.nms(boxes.cuda(), scores.cuda(), 0.5)[1].cpu()
    assert kept.tolist() == GOLDEN["result_nms_0.5_0"].tolist()
    output, gradient = MAKER["roi_align_with_gradient"](features.cuda(), rois.cuda(), 2, True)
    expected, expected_gradient = MAKER["roi_align_with_gradient"](features, rois, 2, True)
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.cpu(), expected_gradient, rtol=1e-5, atol=1e-5)
    logits, target = focal_case(torch.float32)
    loss = ops.sigmoid_focal_loss(logits.cuda(), target.cuda(), 2.0, 0.25, None, "none")
    expected = py_sigmoid_focal_loss(logits, (target[:, None] == torch.arange(4)).float(), reduction="none")
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=1e-5)
