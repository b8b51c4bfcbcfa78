"""Our operators of deformable attention give what mmcv's own PyTorch form gives, gradients included."""

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

from localvit_det.requirements import has_compiled_operators

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
