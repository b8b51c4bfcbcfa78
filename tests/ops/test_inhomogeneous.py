"""The convolution with a kernel at each position."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jacrev, vmap

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
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(1, 2 * 9, 2, 3, dtype=torch.float64, requires_grad=True)
    conv, inputs = partial(inhomogeneous_conv, kernel_size=3), (x, kernels)
    assert torch.autograd.gradcheck(conv, inputs)
    assert torch.autograd.gradgradcheck(conv, inputs)
    # Along random directions only, in which forward mode is exact as well.
    assert torch.autograd.gradcheck(conv, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(conv, inputs, check_fwd_over_rev=True, fast_mode=True)


def test_functional_transforms_of_the_inhomogeneous_convolution():
    x, kernels = torch.randn(2, 4, 3, 4, dtype=torch.float64), torch.randn(2, 18, 3, 4, dtype=torch.float64)

    def transformed(conv):
        def energy(x, kernels):
            return conv(x, kernels, 3).square().sum()

        def one(x, kernels):
            return energy(x[None], kernels[None])

        return [
            *grad(energy, argnums=(0, 1))(x, kernels),
            *vmap(grad(one, argnums=(0, 1)))(x, kernels),  # a gradient for each image
            vmap(lambda x: conv(x[None], kernels[:1], 3))(x),
            jacrev(lambda kernels: conv(x, kernels, 3).sum((2, 3)))(kernels),
        ]

    for ours, reference in zip(transformed(inhomogeneous_conv), transformed(unfolded), strict=True):
        torch.testing.assert_close(ours, reference)


def test_operators_of_the_inhomogeneous_convolution_keep_their_declarations():
    x, kernels = torch.randn(2, 4, 3, 4), torch.randn(2, 18, 3, 4)
    checks = ("test_schema", "test_faketensor")
    for x_ in (x, x.bfloat16(), x.contiguous(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.localvit_det.inhomogeneous_conv, (x_, kernels, 3), test_utils=checks)
        arguments = (x_, x_, kernels, 3)
        torch.library.opcheck(torch.ops.localvit_det.inhomogeneous_conv_backward, arguments, test_utils=checks)


def test_inhomogeneous_convolution_of_no_images():
    x, kernels = torch.randn(0, 4, 3, 4, requires_grad=True), torch.randn(0, 18, 3, 4, requires_grad=True)
    out = inhomogeneous_conv(x, kernels, 3)
    out.sum().backward()
    assert out.shape == x.grad.shape == x.shape
    assert kernels.grad.shape == kernels.shape


def test_inhomogeneous_convolution_keeps_half_precision():
    x, kernels = torch.randn(1, 4, 6, 6), torch.randn(1, 2 * 49, 6, 6)
    half = inhomogeneous_conv(x.bfloat16(), kernels.bfloat16(), 7)
    assert half.dtype == torch.bfloat16
    error = (half.float() - inhomogeneous_conv(x, kernels, 7)).norm() / half.float().norm()
    assert error < 0.01
