"""Kernels for CPUs, and deformable attention where MMCV is not compiled."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

from localvit_det.ops import DepthwiseConv2d, attention
from localvit_det.requirements import has_compiled_operators


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("size", [(4, 5), (40, 13)])
def test_depthwise_convolution_has_the_gradients_of_convolution(kernel, size):
    ours = DepthwiseConv2d(6, kernel).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    out = ours(x)
    expected = F.conv2d(x, ours.weight, ours.bias, padding=kernel // 2, groups=6)
    torch.testing.assert_close(out, expected)
    seed = torch.randn_like(out)
    inputs = (x, ours.weight, ours.bias)
    found, wanted = (torch.autograd.grad(y, inputs, seed, create_graph=True) for y in (out, expected))
    torch.testing.assert_close(found, wanted)
    found, wanted = (torch.autograd.grad(sum(g.square().sum() for g in grads), inputs[:2]) for grads in (found, wanted))
    torch.testing.assert_close(found, wanted)


def test_depthwise_convolution_gradcheck():
    ours = DepthwiseConv2d(2, 5).double()
    x = torch.randn(2, 2, 18, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: ours(x), (x, ours.weight, ours.bias))


@pytest.mark.parametrize("shapes", [(), ((1, 2, 9, 9),), ((4, 1, 1, 9),), ((1, 2, 9, 9), (4, 1, 1, 9))], ids=str)
@pytest.mark.parametrize("recorded", [True, False])
def test_attention_is_scaled_dot_product_attention(shapes, recorded):
    query, key, value = torch.randn(3, 4, 2, 9, 8, dtype=torch.float64, requires_grad=True)
    biases = [torch.randn(shape, dtype=torch.float64, requires_grad=recorded) for shape in shapes]
    with torch.set_grad_enabled(recorded):
        found = attention(query, key, value, biases)
        expected = F.scaled_dot_product_attention(query, key, value, attn_mask=sum(biases) if biases else None)
    torch.testing.assert_close(found, expected)
    if recorded:
        seed = torch.randn_like(found)
        found, expected = (torch.autograd.grad(out, (query, *biases), seed) for out in (found, expected))
        torch.testing.assert_close(found, expected)


SHAPES = torch.tensor([[6, 4], [3, 2], [1, 5]])
STARTS = torch.tensor([0, 24, 30])


def inputs(device: str = "cpu", dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    value = torch.randn(2, 35, 3, 8, dtype=dtype)
    places = torch.rand(2, 7, 3, 3, 4, 2, dtype=dtype) * 1.4 - 0.2  # some outside
    weights = torch.rand(2, 7, 3, 3, 4, dtype=dtype)
    return [tensor.to(device).requires_grad_() for tensor in (value, places, weights)]


def check(device: str, dtype: torch.dtype) -> None:
    value, places, weights = inputs(device, dtype)
    shapes, starts = SHAPES.to(device), STARTS.to(device)
    expected = multi_scale_deformable_attn_pytorch(value, shapes, places, weights)
    found = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, places, weights, 64)
    torch.testing.assert_close(found, expected)
    up = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (value, places, weights), up)
    grads = torch.autograd.grad(found, (value, places, weights), up)
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other)


@pytest.mark.skipif(has_compiled_operators(), reason="a compiled mmcv runs these on GPUs only")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_as_the_form_of_the_cpu(dtype):
    check("cpu", dtype)


@pytest.mark.gpu
def test_same_on_the_gpu():
    check("cuda", torch.float32)
