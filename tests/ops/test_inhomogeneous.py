"""The convolution with a kernel at each position."""

import pytest
import torch
import torch.nn.functional as F

from localvit_det.ops import inhomogeneous_conv


def unfolded(x: torch.Tensor, kernels: torch.Tensor, k: int) -> torch.Tensor:
    """The convolution with a kernel at each position, by unfolding."""
    batch, channels, height, width = x.shape
    groups = kernels.shape[1] // k**2
    patches = F.unfold(x, k, padding=k // 2).view(batch, groups, channels // groups, k**2, height, width)
    return (patches * kernels.view(batch, groups, 1, k**2, height, width)).sum(3).view_as(x)


@pytest.mark.parametrize(("channels", "groups", "k", "size"), [(6, 2, 3, (5, 4)), (4, 4, 7, (3, 9)), (6, 1, 5, (1, 1))])
def test_inhomogeneous_convolution_is_the_unfolded_sum(channels, groups, k, size):
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, groups * k * k, *size, dtype=torch.float64, requires_grad=True)
    ours, reference = inhomogeneous_conv(x, kernels, k), unfolded(x, kernels, k)
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)
    weights = torch.randn_like(reference)
    for a, b in zip(
        torch.autograd.grad(ours, (x, kernels), weights),
        torch.autograd.grad(reference, (x, kernels), weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_inhomogeneous_convolution_gradcheck():
    x = torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(1, 2 * 9, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: inhomogeneous_conv(a, b, 3), (x, kernels))


def test_inhomogeneous_convolution_keeps_half_precision():
    x, kernels = torch.randn(1, 4, 6, 6), torch.randn(1, 2 * 49, 6, 6)
    half = inhomogeneous_conv(x.bfloat16(), kernels.bfloat16(), 7)
    assert half.dtype == torch.bfloat16
    error = (half.float() - inhomogeneous_conv(x, kernels, 7)).norm() / half.float().norm()
    assert error < 0.01
