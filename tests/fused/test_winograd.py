"""Convolutions in Winograd's way and packed ones are the ordinary convolutions."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from localvit_det.fused import packed, winograd
from localvit_det.fused.dense import FusedConvModule, fuse_conv_module
from localvit_det.fused.packed import PackedConv2d, PackedLinear
from localvit_det.fused.winograd import transform_weight, uneven_tiles, winograd_conv


def convolve(conv: nn.Conv2d, x: torch.Tensor, relu: bool = False) -> torch.Tensor:
    return winograd_conv(x, conv.weight, transform_weight(conv.weight), conv.bias, uneven_tiles(x), relu)


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
            found = convolve(conv, x, relu)
            torch.testing.assert_close(found, expected.relu() if relu else expected, rtol=1e-9, atol=1e-9)
            assert found.is_contiguous(memory_format=torch.channels_last)


def test_rounding_stays_small():
    conv = nn.Conv2d(256, 256, 3, padding=1)
    x = torch.randn(1, 256, 40, 52).relu()
    with torch.no_grad():
        expected = copy.deepcopy(conv).double()(x.double())
        error = (convolve(conv, x) - expected).norm() / expected.norm()
    assert error < 4e-6


@pytest.mark.parametrize("large", [20.0, 1e3, 1e6, 1e30])
@pytest.mark.parametrize("tiles", [7, 1000])
def test_error_next_to_large_values(large, tiles, monkeypatch):
    """The bound that winograd.py states holds for every output, wherever a value far above the others lies."""
    monkeypatch.setattr(winograd, "_TILES", tiles)
    conv = nn.Conv2d(128, 128, 3, padding=1)
    x = torch.randn(3, 128, 21, 30)
    for image in (0, 2):  # every place in a tile, corners, borders, two in one tile, a whole column
        for y, column in ((0, 0), (20, 29), (5, 6), (6, 9), (8, 13), (11, 20), (11, 22), (17, 0), (10, 27)):
            x[image, y % 7, y, column] = large
    x[1, 3, :, 17] = -large
    ones = torch.ones(1, 128, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        expected = copy.deepcopy(conv).double()(x.double())
        seen = nn.functional.conv2d(x.double().square(), ones, padding=1).sqrt()  # B, 1, H, W
        error = (convolve(conv, x) - expected).abs() / (
            seen * conv.weight.double().flatten(1).norm(dim=1)[:, None, None]
        )
    assert error.max() < 2e-5
    alone = convolve(conv, x[1:2])
    torch.testing.assert_close(convolve(conv, x)[1:2], alone, rtol=1e-6, atol=1e-6 * large)  # images stay apart


def test_values_that_are_not_finite_reach_what_sees_them():
    conv = nn.Conv2d(128, 128, 3, padding=1)
    x = torch.randn(1, 128, 20, 24)
    x[0, 0, 9, 9], x[0, 1, 14, 3] = torch.inf, torch.nan
    with torch.no_grad():
        found, expected = PackedConv2d(conv)(x), conv(x)
    assert torch.equal(found.isfinite(), expected.isfinite())


def test_which_tiles_are_uneven():
    x = torch.ones(2, 4, 14, 15)
    assert not uneven_tiles(x).any()  # nor those that the border cuts
    x[0, 0, 5, 6] = 1000.0  # the middle of tile (1, 1), whose corners do not see it
    x[1, 0, 12, 14] = 1000.0  # in the last tile, and read by the one above
    assert uneven_tiles(x).nonzero().tolist() == [[0, 1, 1], [1, 2, 3], [1, 3, 3]]
    x[:, :, 4:] = 0
    assert uneven_tiles(x).any()


def test_maps_with_many_uneven_tiles_are_computed_directly(monkeypatch):
    layer, calls = PackedConv2d(nn.Conv2d(128, 128, 3, padding=1)), []
    original = packed.winograd_conv
    monkeypatch.setattr(packed, "winograd_conv", lambda *args: calls.append(1) or original(*args))
    x = torch.randn(1, 128, 40, 40)
    with torch.no_grad():
        for column, count in ((0, 1), (20, 0)):
            x[:, 0, ::4, :column:4] = 1e6
            calls.clear()
            torch.testing.assert_close(layer(x), nn.Conv2d.forward(layer, x), rtol=1e-4, atol=1e-4)
            assert len(calls) == count


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
