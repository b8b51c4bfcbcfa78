"""Attention in windows is its definition, token by token."""

import pytest
import torch
from attention_by_loops import attention_by_loops

from localvit_det.backbones.gg_transformer import GlanceGazeAttention
from localvit_det.layers import WindowAttention, relative_position_index


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
