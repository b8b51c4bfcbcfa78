"""Layers: windows and what is padded, attention as its definition, residual branches, norms by the names of configs."""

import pytest
import torch
from attention_by_loops import attention_by_loops
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.hsigmoid import HSigmoid
from torch import nn

from localvit_det.backbones.gg_transformer import GlanceGazeAttention
from localvit_det.layers import (
    WindowAttention,
    add,
    key_padding_mask,
    pad_to_multiple,
    relative_position_index,
    shared_in_pass,
    split_heads,
    window_partition,
    window_reverse,
)
from localvit_det.layers.norm import build_activation, build_norm


@pytest.mark.parametrize("split", ["local", "dilated"])
@pytest.mark.parametrize("size", [(6, 9), (3, 3), (12, 3)])
def test_merging_undoes_splitting(split, size):
    x = torch.randn(2, 8, *size)
    windows = window_partition(x, 3, split)
    assert windows.shape == (1, 8, 2 * size[0] * size[1] // 9, 9)
    (heads,) = split_heads(windows.squeeze(0).permute(1, 2, 0), num_heads=2)
    assert heads.shape == (2 * size[0] * size[1] // 9, 2, 9, 4)
    assert torch.equal(window_reverse(heads, size, 3, split), x)


def test_which_tokens_share_a_window():
    height, width, ws = 6, 9, 3
    numbers = torch.arange(height * width, dtype=torch.float).view(1, 1, height, width)
    hh, ww = height // ws, width // ws
    for split, window_of in {
        "local": lambda y, x: (y // ws) * ww + x // ws,
        "dilated": lambda y, x: (y % hh) * ww + x % ww,
    }.items():
        windows = window_partition(numbers, ws, split)[0, 0]
        for y in range(height):
            for x in range(width):
                assert y * width + x in windows[window_of(y, x)].tolist(), (split, y, x)


def test_padding_is_only_added_where_needed():
    x = torch.randn(1, 2, 6, 9)
    assert pad_to_multiple(x, 3) is x
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 2, 8, 12)
    assert torch.equal(padded[..., :6, :9], x)
    assert padded.sum() == pytest.approx(x.sum().item(), rel=1e-5)


@pytest.mark.parametrize("split", ["local", "dilated"])
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (7, 3), (8, 20)])
def test_every_window_has_a_real_token(split, size):
    bias = key_padding_mask(torch.zeros(1, 1, *size), 3, split)
    assert (bias == 0).any(-1).all()
    assert (bias == 0).sum() == size[0] * size[1]


@pytest.mark.parametrize("split", ["local", "dilated"])
def test_each_image_of_a_batch_has_its_mask(split):
    one, two = (key_padding_mask(torch.zeros(batch, 1, 7, 5), 3, split) for batch in (1, 2))
    assert one.shape == (6, 1, 1, 9)
    assert torch.equal(two, one.repeat(2, 1, 1, 1))
    assert key_padding_mask(torch.zeros(2, 1, 6, 9), 3, split) is None


def test_blocks_of_a_pass_share_masks():
    x = torch.zeros(2, 1, 7, 5)
    with shared_in_pass():
        one = key_padding_mask(x, 3, "local")
        assert key_padding_mask(torch.ones(2, 8, 7, 5), 3, "local") is one
        others = [key_padding_mask(x, 3, "dilated"), key_padding_mask(x.double(), 3, "local")]
        others += [key_padding_mask(x[:1], 3, "local"), key_padding_mask(x, 3, "local", leaders=1)]
        assert not any(other is one for other in others)
        with shared_in_pass():  # of another network inside
            assert key_padding_mask(x, 3, "local") is not one
    fresh = key_padding_mask(x, 3, "local")
    assert fresh is not one
    assert torch.equal(fresh, one)
    assert torch.equal(others[-1], torch.nn.functional.pad(one, (1, 0)))


def test_relative_position_index_counts_offsets():
    ws = 3
    index = relative_position_index(ws)
    for q in range(ws * ws):
        for k in range(ws * ws):
            dy, dx = q // ws - k // ws, q % ws - k % ws
            assert index[q, k] == (dy + ws - 1) * (2 * ws - 1) + dx + ws - 1


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (2, 4)])
@pytest.mark.parametrize("split", ["local", "dilated"])
def test_window_attention_is_its_definition(split, size):
    mixer = WindowAttention(8, 2, window_size=3, split=split, qkv_bias=True).double().eval()
    torch.nn.init.normal_(mixer.relative_position_bias_table)
    torch.nn.init.normal_(mixer.qkv.bias)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), attention_by_loops(mixer, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
@pytest.mark.parametrize("position_bias", [False, True])
def test_glance_and_gaze_is_its_definition(kernel, size, position_bias):
    mixer = GlanceGazeAttention(8, 2, 3, gaze_kernel=kernel, position_bias=position_bias, qkv_bias=True).double().eval()
    if position_bias:
        torch.nn.init.normal_(mixer.relative_position_bias_table)
    torch.nn.init.normal_(mixer.qkv.bias)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), attention_by_loops(mixer, x), rtol=1e-6, atol=1e-6)


def test_residual_branch_is_dropped_for_some_images_and_scaled_for_the_rest():
    drop_path = DropPath(0.25).train()
    x, branch = torch.randn(4000, 1, 1, 1), torch.ones(4000, 1, 1, 1)
    added = add(x, branch, drop_path) - x
    assert set(added.flatten().mul(3).round().tolist()) == {0.0, 4.0}  # nothing, or 1 / (1 - 0.25)
    assert abs(added.mean() - 1) < 0.05
    torch.testing.assert_close(add(x, branch, drop_path.eval()), x + branch)


def test_names_of_mmcv_alone_are_built_by_it():
    assert type(build_norm({"type": "LN"}, 4)) is nn.LayerNorm
    assert type(build_activation({"type": "HSigmoid"})) is HSigmoid


def test_settings_reach_the_norm():
    norm = build_norm({"type": "GN", "num_groups": 2, "requires_grad": False}, 6)
    assert (norm.num_groups, norm.num_channels, norm.eps) == (2, 6, 1e-5)
    assert not any(p.requires_grad for p in norm.parameters())
    assert build_norm({"type": "BN", "eps": 1e-3}, 6).eps == 1e-3
    assert build_activation({"type": "LeakyReLU", "negative_slope": 0.2}).negative_slope == 0.2
