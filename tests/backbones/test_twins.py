"""What is Twins' own: epsilons, where norms stand, padding, maps smaller than the subsampling, initial weights."""

import pytest
import torch
import torch.nn.functional as F
from families import build
from mmdet.registry import MODELS
from torch import nn

from localvit_det.backbones.twins import PositionBlock, SubsampledAttention
from localvit_det.layers import LayerNorm2d, WindowAttention

KINDS = ("TwinsPCPVT", "TwinsSVT")


@pytest.mark.parametrize("kind", KINDS)
def test_epsilons_are_the_official_ones(kind):
    with torch.device("meta"):
        net = MODELS.build({"type": kind, "out_norm_cfg": "default"})
    epsilons = {name: m.eps for name, m in net.named_modules() if isinstance(m, nn.LayerNorm)}
    fine = {name for name in epsilons if name.startswith("out_norms.") or name.endswith((".norm1", ".norm2"))}
    assert {epsilons.pop(name) for name in fine} == {1e-6}
    assert set(epsilons) >= {"stem.norm", "stages.3.downsample.norm", "stages.0.blocks.1.mixer.norm"}
    assert set(epsilons.values()) == {1e-5}


def test_only_svt_has_output_norms_by_default():
    with torch.device("meta"):
        assert not list(MODELS.build({"type": "TwinsPCPVT"}).out_norms.parameters())
        svt = MODELS.build({"type": "TwinsSVT", "out_indices": (1, 2)})
    assert list(svt.out_norms) == ["0", "1", "2"]  # also where the map goes nowhere but on


@pytest.mark.parametrize(("kind", "in_trunk"), zip(KINDS, (False, True), strict=True))
def test_norms_stand_in_the_trunk_of_svt_alone(kind, in_trunk):
    net = build(kind, out_indices=(0, 1)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = net(x)
        net.out_norms["0"].weight[::2] = 2.0
        after = net(x)
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1]) is not in_trunk


def test_kinds_of_blocks():
    svt, pcpvt = build("TwinsSVT"), build("TwinsPCPVT")
    for stage in svt.stages:
        assert [type(block.mixer) for block in stage.blocks] == [WindowAttention, SubsampledAttention]
    for net in (svt, pcpvt):
        for stage in net.stages:
            assert [isinstance(block, PositionBlock) for block in stage.blocks] == [True, False]
    assert [stage.blocks[1].mixer.ratio for stage in pcpvt.stages] == [8, 4, 2, 1]
    assert all(type(block.mixer) is SubsampledAttention for stage in pcpvt.stages for block in stage.blocks)


@pytest.mark.parametrize("size", [(8, 12), (7, 13), (3, 2)], ids=str)
def test_subsampled_attention_is_what_its_formula_says(size):
    mixer = SubsampledAttention(8, 2, 4)
    nn.init.normal_(mixer.reduce.bias)
    x = torch.randn(2, 8, *size)
    height, width = size
    padded = torch.zeros(2, 8, -(-height // 4) * 4, -(-width // 4) * 4)
    padded[..., :height, :width] = x
    reduced = F.conv2d(padded, mixer.reduce.weight, mixer.reduce.bias, stride=4)
    reduced = F.layer_norm(reduced.flatten(2).transpose(1, 2), (8,), mixer.norm.weight, mixer.norm.bias)
    tokens = x.flatten(2).transpose(1, 2)  # B, H·W, C
    query, (key, value) = (
        F.linear(inputs, layer.weight.flatten(1), layer.bias).split(8, dim=2)
        for inputs, layer in ((tokens, mixer.query), (reduced, mixer.key_value))
    )
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        logits = query[0][..., head] @ key[..., head].transpose(1, 2) / 2
        heads.append(logits.softmax(-1) @ value[..., head])
    mixed = F.linear(torch.cat(heads, dim=2), mixer.proj.weight.flatten(1), mixer.proj.bias)
    expected = mixed.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(mixer(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(mixer.eval().fuse()(x), expected)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("fused", [False, True])
def test_windows_look_at_their_padding_only_if_asked_to(masked, fused):
    net = build("TwinsSVT", mask_padding=masked).eval()
    mixer = net.stages[0].blocks[0].mixer
    nn.init.normal_(mixer.qkv.bias)
    x = torch.randn(1, 32, 5, 7)
    padded = F.pad(x, (0, 2, 0, 1))  # windows of 3
    with torch.no_grad():
        shown = mixer(padded)[..., :5, :7]
        result = (mixer.fuse() if fused else mixer)(x)
    inner = (slice(None), slice(None), slice(0, 3), slice(0, 6))  # windows without padding
    torch.testing.assert_close(result[inner], shown[inner])
    assert torch.allclose(result, shown, atol=1e-5) is not masked


def test_initial_weights_follow_the_fan_out():
    net = MODELS.build({"type": "TwinsSVT"})
    expected = {
        net.stem.proj: (2 / (16 * 64)) ** 0.5,
        net.stages[1].downsample.proj: (2 / (4 * 128)) ** 0.5,
        net.stages[0].blocks[1].mixer.reduce: (2 / (64 * 64)) ** 0.5,
        net.stages[3].blocks[0].position: (2 / 9) ** 0.5,
        net.stages[0].blocks[1].mixer.query: 0.02,
        net.stages[1].blocks[0].mlp.fc1: 0.02,
    }
    for conv, std in expected.items():
        assert float(conv.weight.detach().std()) == pytest.approx(std, rel=0.06)
        assert not conv.bias.any()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="sr_ratios"):
        build("TwinsPCPVT", sr_ratios=(4, 2))
    with pytest.raises(ValueError, match="num_heads=3 does not divide"):
        SubsampledAttention(32, 3, 2)
    assert isinstance(build("TwinsPCPVT", sr_ratios=1).stages[0].blocks[0].mixer.norm, nn.Identity)
    assert isinstance(build("TwinsPCPVT").stages[0].blocks[0].mixer.norm, LayerNorm2d)
