"""Learning rates by layer in every family."""

import pytest
from families import FAMILIES, Detector, build
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from torch import nn

from localvit_det.errors import ConfigError

DECAY = 0.5
BASE = 1.0


def rates(model: nn.Module, **paramwise) -> dict[int, float]:
    wrapper = build_optim_wrapper(
        model,
        {
            "type": "OptimWrapper",
            "constructor": "LayerDecayConstructor",
            "optimizer": {"type": "AdamW", "lr": BASE, "weight_decay": 0.05},
            "paramwise_cfg": {"layer_decay": DECAY, **paramwise},
        },
    )
    groups = wrapper.optimizer.param_groups
    assert all(len(group["params"]) == 1 for group in groups)
    return {id(group["params"][0]): group["lr"] for group in groups}


def rate_of(module: nn.Module, found: dict[int, float]) -> float:
    values = {found[id(parameter)] for parameter in module.parameters()}
    assert len(values) == 1
    return values.pop()


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_rise_with_the_depth(family):
    model = Detector(build(family))
    found = rates(model)
    assert set(found) == {id(parameter) for parameter in model.parameters()}
    depth = sum(model.backbone.depths)
    layers = [model.backbone.stem, *(block for stage in model.backbone.stages for block in stage.blocks)]
    expected = [BASE * DECAY ** (depth + 1 - layer) for layer in range(depth + 1)]
    for layer, rate in zip(layers, expected, strict=True):
        if list(layer.parameters()):  # a family may begin with a downsampling instead of a stem
            assert rate_of(layer, found) == pytest.approx(rate)
    last = 0  # the layer before a stage
    for stage in model.backbone.stages:
        if list(stage.downsample.parameters()):
            assert rate_of(stage.downsample, found) == pytest.approx(expected[last])
        last += len(stage.blocks)
    assert rate_of(model.head, found) == BASE
    if list(model.backbone.out_norms.parameters()):
        assert rate_of(model.backbone.out_norms, found) == BASE


def test_rates_of_swin():
    settings = {"embed_dims": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 3}
    model = Detector(MODELS.build({"type": "SwinTransformer", **settings}))
    found = rates(model)
    stages = model.backbone.stages
    assert rate_of(model.backbone.patch_embed, found) == DECAY**6
    assert [rate_of(block, found) for stage in stages for block in stage.blocks] == [DECAY**n for n in (5, 4, 3, 2, 1)]
    assert [rate_of(stage.downsample, found) for stage in stages[:3]] == [DECAY**n for n in (5, 3, 2)]
    assert rate_of(model.backbone.norm3, found) == BASE


def test_other_rules_hold_as_well():
    model = Detector(build(FAMILIES[0]))
    found = rates(model, custom_keys={"stem": {"lr_mult": 0.1}}, norm_decay_mult=0.0)
    assert rate_of(model.backbone.stem, found) == pytest.approx(0.1 * DECAY ** (sum(model.backbone.depths) + 1))


def test_the_rate_of_a_whole_backbone():
    model = Detector(build(FAMILIES[0]))
    found = rates(model, layer_decay=None, backbone_rate=0.1)
    assert rate_of(model.backbone, found) == pytest.approx(0.1)
    assert rate_of(model.head, found) == BASE


@pytest.mark.parametrize("wrong", [None, 0, 1.5, True, "0.9"])
def test_a_decay_that_is_none(wrong):
    with pytest.raises(ConfigError, match="layer_decay is"):
        rates(Detector(build(FAMILIES[0])), layer_decay=wrong)


def test_a_backbone_without_blocks():
    with pytest.raises(ConfigError, match="ResNet has none"):
        rates(Detector(MODELS.build({"type": "ResNet", "depth": 18})))
