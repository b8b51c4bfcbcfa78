"""Convolutions in Winograd's way and packed ones are the ordinary convolutions."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from localvit_det.inference import winograd
from localvit_det.inference.packed_conv import FusedConvModule, PackedConv2d, PackedLinear, fuse_conv_module
from localvit_det.inference.winograd import transform_weight, winograd_conv


@pytest.mark.parametrize("size", [(1, 1), (4, 8), (13, 22), (14, 15)], ids=str)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("tiles", [1, 5, 1000])
def test_exact_in_double_precision(size, images, tiles, monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", tiles)  # how many are worked on at a time
    conv = nn.Conv2d(5, 7, 3, padding=1).double()
    x = torch.randn(images, 5, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = conv(x)
        for relu in (False, True):
            found = winograd_conv(x, transform_weight(conv.weight), conv.bias, relu)
            torch.testing.assert_close(found, expected.relu() if relu else expected, rtol=1e-9, atol=1e-9)
            assert found.is_contiguous(memory_format=torch.channels_last)


def test_rounding_stays_small():
    conv = nn.Conv2d(256, 256, 3, padding=1)
    x = torch.randn(1, 256, 40, 52).relu()
    with torch.no_grad():
        expected = copy.deepcopy(conv).double()(x.double())
        error = (winograd_conv(x, transform_weight(conv.weight), conv.bias) - expected).norm() / expected.norm()
    assert error < 4e-6


CONVS = {
    "winograd": ((128, 128, 3), {"padding": 1}),
    "narrow": ((8, 16, 3), {"padding": 1}),
    "strided": ((128, 128, 3), {"padding": 1, "stride": 2}),
    "dilated": ((128, 128, 3), {"padding": 2, "dilation": 2}),
    "no bias": ((128, 130, 3), {"padding": 1, "bias": False}),
    "large": ((3, 16, 7), {"padding": 3, "stride": 2}),
}


@pytest.mark.parametrize("act", [None, nn.ReLU(), nn.GELU(), nn.Tanh()], ids=str)
@pytest.mark.parametrize("kind", CONVS)
def test_packed_convolutions(kind, act):
    channels, settings = CONVS[kind]
    conv = nn.Conv2d(*channels, **settings)
    packed = PackedConv2d(conv, act)
    x = torch.randn(2, channels[0], 21, 30)
    wanted = (act or nn.Identity())(conv(x))
    with torch.no_grad():
        torch.testing.assert_close(packed(x), wanted, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(packed(x).float(), wanted, rtol=0.05, atol=0.05)
        conv.weight.mul_(2)  # weights that change are packed anew
        conv.weight = nn.Parameter(conv.weight)
        packed.weight = conv.weight
        wanted = (act or nn.Identity())(conv(x))
        torch.testing.assert_close(copy.deepcopy(packed)(x), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(packed(x), wanted, rtol=1e-4, atol=1e-4)
        assert packed(x[:0]).shape == (0, *wanted.shape[1:])
    torch.testing.assert_close(packed(x), wanted, rtol=1e-4, atol=1e-4)  # recorded for backward


def test_packed_linear_reads_maps_by_position():
    linear = nn.Linear(6 * 20, 9)
    maps = torch.randn(7, 6, 4, 5).contiguous(memory_format=torch.channels_last)
    packed = PackedLinear(linear, nn.ReLU(), area=20)
    wanted = linear(maps.flatten(1)).relu()
    with torch.no_grad():
        torch.testing.assert_close(packed(maps), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(packed(maps.flatten(1)), wanted, rtol=1e-4, atol=1e-5)
        assert packed(maps[:0]).shape == (0, 9)
    torch.testing.assert_close(packed(maps), wanted)


@pytest.mark.parametrize("norm", [None, "BN", "GN"])
def test_conv_modules(norm):
    norm_cfg = norm and {"type": norm, **({"num_groups": 4} if norm == "GN" else {})}
    module = ConvModule(16, 32, 3, padding=1, norm_cfg=norm_cfg).eval()
    if norm == "BN":
        nn.init.normal_(module.norm.running_mean)
        nn.init.uniform_(module.norm.running_var, 0.5, 2)
    fused = fuse_conv_module(module)
    x = torch.randn(2, 16, 9, 11)
    assert isinstance(fused, FusedConvModule)
    with torch.no_grad():
        for settings in ({}, {"activate": False}, {"norm": False}):
            torch.testing.assert_close(fused(x, **settings), module(x, **settings), rtol=1e-4, atol=1e-5)


UNUSUAL = [
    {"order": ("act", "conv", "norm")},
    {"padding_mode": "reflect"},
    {"groups": 2},
    {"conv_cfg": {"type": "ConvAWS"}},
]


@pytest.mark.parametrize("settings", UNUSUAL, ids=str)
def test_unusual_conv_modules_stay(settings):
    module = ConvModule(16, 32, 3, padding=1, norm_cfg={"type": "BN"}, **settings).eval()
    assert fuse_conv_module(module) is module
