"""RoIAlign as weighted sums of rows gives what torchvision's operator gives, and its gradient."""

import pytest
import torch
import torchvision

from localvit_det.ops import roi_align as module
from localvit_det.ops.roi_align import roi_align, roi_align_backward

SIZE = (23, 31)
SCALE = 0.25


def make_rois(count: int = 60) -> torch.Tensor:
    """Of all sizes and shapes, over the borders, on two images."""
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(count, 2, generator=generator) * torch.tensor([31.0, 23.0]) / SCALE
    half = torch.exp(torch.rand(count, 2, generator=generator) * 5)
    boxes = torch.cat((center - half, center + half), dim=1)
    special = [[-90, -90, -60, -60], [10, 10, 10, 30], [40, 40, 20, 20], [0, 0, 124, 92], [124, 92, 140, 100]]
    boxes = torch.cat((boxes, torch.tensor(special, dtype=torch.float32)))
    images = torch.randint(0, 2, (len(boxes), 1), generator=generator).float()
    return torch.cat((images, boxes), dim=1)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 3])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("output_size", [(7, 7), (5, 2)])
def test_same_values_and_gradients_as_torchvision(sampling_ratio, aligned, output_size):
    features = torch.randn(2, 6, *SIZE, dtype=torch.float64, requires_grad=True)
    rois = make_rois().double()
    expected = torchvision.ops.roi_align(features, rois, output_size, SCALE, sampling_ratio, aligned)
    grad = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, features, grad)

    found = roi_align(features, rois, output_size, SCALE, sampling_ratio, aligned)
    found_grad = roi_align_backward(grad, rois, features.shape, SCALE, sampling_ratio, aligned)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found_grad, expected_grad, rtol=1e-9, atol=1e-9)
    for result in (found, found_grad):
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_float32_to_rounding():
    features, rois = torch.randn(2, 256, *SIZE), make_rois()
    expected = torchvision.ops.roi_align(features, rois, (7, 7), SCALE, 0, True)
    torch.testing.assert_close(roi_align(features, rois, (7, 7), SCALE), expected, rtol=1e-4, atol=1e-5)


def test_result_does_not_depend_on_how_rois_are_cut_into_calls(monkeypatch):
    features, rois = torch.randn(2, 4, *SIZE, dtype=torch.float64), make_rois().double()
    whole = roi_align(features, rois, (7, 7), SCALE)
    whole_grad = roi_align_backward(whole, rois, features.shape, SCALE)
    calls = []
    original = torch.embedding_bag
    monkeypatch.setattr(module, "_CHUNK_ENTRIES", 5000)
    monkeypatch.setattr(torch, "embedding_bag", lambda *a, **k: calls.append(len(a[1])) or original(*a, **k))
    cut = roi_align(features, rois, (7, 7), SCALE)
    assert len(calls) > 3
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)
    torch.testing.assert_close(roi_align_backward(whole, rois, features.shape, SCALE), whole_grad)


@pytest.mark.parametrize("coordinate", [float("nan"), float("inf")])
def test_boxes_that_are_no_boxes_give_zeros(coordinate):
    rois = make_rois(3)[:3]
    expected = roi_align(torch.ones(2, 4, *SIZE), rois, (7, 7), SCALE)
    broken = rois.clone()
    broken[1, 3] = coordinate
    found = roi_align(torch.ones(2, 4, *SIZE), broken, (7, 7), SCALE)
    assert not found[1].any()
    torch.testing.assert_close(found[::2], expected[::2])
    assert roi_align_backward(torch.ones(3, 4, 7, 7), broken, (2, 4, *SIZE), SCALE).isfinite().all()


def test_without_rois():
    assert roi_align(torch.ones(2, 4, *SIZE), torch.zeros(0, 5), (7, 5), SCALE).shape == (0, 4, 7, 5)
    grad = roi_align_backward(torch.zeros(0, 4, 7, 5), torch.zeros(0, 5), (2, 4, *SIZE), SCALE)
    assert grad.shape == (2, 4, *SIZE)
    assert not grad.any()


def test_half_precision_features_keep_exact_boxes():
    """bfloat16 counts pixels in steps of eight at 1000: boxes stay as they were given."""
    features, rois = torch.randn(2, 64, *SIZE), make_rois()
    expected = roi_align(features, rois, (7, 7), SCALE)
    found = roi_align(features.bfloat16(), rois, (7, 7), SCALE)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.03)
