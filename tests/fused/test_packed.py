"""Packed products."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from localvit_det.fused import PackedConv1x1, packed


@pytest.mark.parametrize(
    "act",
    [
        nn.Identity(),
        nn.ReLU(),
        nn.ReLU6(),
        nn.SiLU(),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.LeakyReLU(),
        nn.Tanh(),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels", [12, 96])
@pytest.mark.parametrize("vector", ["AVX2", "AVX512"])
def test_packed_convolution_is_convolution_and_activation(act, bias, channels, vector, monkeypatch):
    # Both ways on any machine that has packed products at all: GELU of wide inputs follows the product on AVX2.
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512", "AMX"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vector)
    conv = nn.Conv2d(channels, 20, 1, bias=bias)
    packed = PackedConv1x1(conv, act)
    x = torch.randn(2, channels, 9, 11).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), act(conv(x)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed(x[:1, :, 2:5]), act(conv(x[:1, :, 2:5])), rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = packed(x)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), act(conv(x)), rtol=2e-2, atol=2e-2)


def test_packed_convolution_follows_its_weights():
    packed = PackedConv1x1(nn.Conv2d(4, 6, 1))
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        packed(x)
        packed.load_state_dict(nn.Conv2d(4, 6, 1).state_dict())
        expected = F.conv2d(x, packed.weight, packed.bias)
        torch.testing.assert_close(packed(x), expected)
        torch.testing.assert_close(copy.deepcopy(packed)(x), expected)  # packed weights themselves cannot be copied
        torch.testing.assert_close(packed.double()(x.double()).float(), expected)


def test_small_changes_of_weights_are_noticed():
    """One of them by 1e-4 of their deviation, wherever it stands; or the same ones in another order."""
    generator = torch.Generator().manual_seed(1)
    weight = 0.02 * torch.randn(96, 384, 1, 1, generator=generator)
    before = packed._random_products(weight)
    for place in torch.randint(weight.numel(), (200,), generator=generator):
        changed = weight.clone()
        changed.view(-1)[place] += 2e-6
        assert not torch.equal(packed._random_products(changed), before)
    for axis in (0, 1):
        assert not torch.equal(packed._random_products(weight.flip(axis)), before)
