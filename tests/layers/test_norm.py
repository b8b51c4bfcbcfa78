"""Norms and activations by the names of configs."""

from mmcv.cnn.bricks.hsigmoid import HSigmoid
from torch import nn

from localvit_det.layers.norm import build_activation, build_norm


def test_names_of_mmcv_alone_are_built_by_it():
    assert type(build_norm({"type": "LN"}, 4)) is nn.LayerNorm
    assert type(build_activation({"type": "HSigmoid"})) is HSigmoid


def test_settings_reach_the_norm():
    norm = build_norm({"type": "GN", "num_groups": 2, "requires_grad": False}, 6)
    assert (norm.num_groups, norm.num_channels, norm.eps) == (2, 6, 1e-5)
    assert not any(p.requires_grad for p in norm.parameters())
    assert build_norm({"type": "BN", "eps": 1e-3}, 6).eps == 1e-3
    assert build_activation({"type": "LeakyReLU", "negative_slope": 0.2}).negative_slope == 0.2
