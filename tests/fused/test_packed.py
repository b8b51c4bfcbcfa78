"""Packed products."""

import copy

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, build
from torch import nn

from localvit_det.fused import PackedConv1x1, blocks, packed

MANY = (15, 14)  # positions


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
    layer = PackedConv1x1(conv, act)
    x = torch.randn(2, channels, 9, 11).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), act(conv(x)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer(x[:1, :, 2:5]), act(conv(x[:1, :, 2:5])), rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(x)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), act(conv(x)), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("size", [(5, 5), MANY])
def test_packed_convolution_follows_its_weights(size):
    layer = PackedConv1x1(nn.Conv2d(4, 6, 1))
    x = torch.randn(1, 4, *size)
    with torch.no_grad():
        layer(x)
        assert bool(vars(layer).get("_packed")) is (size == MANY and packed._available())
        layer.load_state_dict(nn.Conv2d(4, 6, 1).state_dict())
        expected = F.conv2d(x, layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(copy.deepcopy(layer)(x), expected)  # packed weights themselves cannot be copied
        torch.testing.assert_close(layer.double()(x.double()).float(), expected)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_compared_once_a_pass(family, monkeypatch):
    """Not for each band of rows, nor for each use in a block."""
    monkeypatch.setattr(blocks, "_BAND_BYTES", 1)
    monkeypatch.setattr(packed, "_FEW_POSITIONS", 0)
    net = build(family, depths=(1, 1, 1, 1)).eval().fuse()
    image, read = torch.randn(1, 3, 96, 96), []
    with torch.inference_mode():
        expected = net(image)
        products = packed._random_products
        monkeypatch.setattr(packed, "_random_products", lambda weight: read.append(weight) or products(weight))
        for found, one in zip(net(image), expected, strict=True):
            torch.testing.assert_close(found, one)
    cached = [module for module in net.modules() if vars(module).get("_packed")]
    assert len(read) == len(cached) >= packed._available()
