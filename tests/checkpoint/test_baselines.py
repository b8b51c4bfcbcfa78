"""Published files of Swin and PVT in MMDetection's own backbones."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from official_layouts import pvt, swin
from torch import nn

from localvit_det.checkpoint.baselines import load_published
from localvit_det.errors import CheckpointError

SWIN = {"type": "SwinTransformer", "embed_dims": 24, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)}
PVT = {"type": "PyramidVisionTransformer", "embed_dims": 16, "num_layers": (1, 1, 1, 1)}


def official_step_down(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    """Swin's patch merging as its paper's code writes it: (B, H, W, C) -> (B, H/2·W/2, 2C)."""
    x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1).flatten(1, 2)
    x = F.layer_norm(x, x.shape[-1:], state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
    return F.linear(x, state[f"{name}.reduction.weight"])


@pytest.mark.parametrize("timm", [False, True])
def test_swin_of_others_computes_the_same(timm, tmp_path):
    official = swin(timm=timm)
    torch.save({"model": official}, tmp_path / "swin.pth")
    net = MODELS.build({**SWIN, "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "swin.pth")}})
    net.init_weights()
    for stage, channels in ((0, 24), (1, 48)):
        x = torch.randn(2, 6, 8, channels)
        merged, _ = net.stages[stage].downsample(x.flatten(1, 2), (6, 8))
        expected = official_step_down(official, f"layers.{stage + timm}.downsample", x)
        torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    block = net.stages[2].blocks[1]
    assert block.attn.w_msa.relative_position_index.any()  # not the file's
    assert torch.equal(block.attn.w_msa.qkv.weight, official["layers.2.blocks.1.attn.qkv.weight"])
    assert torch.equal(block.ffn.layers[1].bias, official["layers.2.blocks.1.mlp.fc2.bias"])
    assert torch.equal(net.patch_embed.projection.weight, official["patch_embed.proj.weight"])


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_swin_in_the_layout_of_mmdetection(prefix):
    source, net = MODELS.build(SWIN), MODELS.build(SWIN)
    nn.init.normal_(source.norm3.weight)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    if prefix:
        state["neck.fpn_convs.0.conv.weight"] = torch.zeros(1)
    report = load_published(net, {"state_dict": state}, "a file")
    assert not report.missing
    assert not report.converted
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in net.state_dict().items())


def test_swin_of_another_window():
    report = load_published(MODELS.build(SWIN), swin(window=5), "a file")
    assert len(report.resized) == 8
    assert "not in the file, left as initialised: norm0.bias" in str(report)
    assert "not needed: head.bias" not in str(report)  # left out when it was converted


def test_pvt():
    official = pvt()
    net = MODELS.build(PVT)
    report = load_published(net, {"model": official}, "a file")
    assert not report.missing
    attention = net.layers[1][1][1].attn.attn
    expected = torch.cat([official["block2.0.attn.q.weight"], official["block2.0.attn.kv.weight"]])
    assert torch.equal(attention.in_proj_weight, expected)
    assert torch.equal(net.layers[3][1][0].pos_embed, official["pos_embed4"][:, 1:])
    again = MODELS.build(PVT)
    assert not load_published(again, net.state_dict(), "a file").missing
    assert torch.equal(again.layers[0][0].projection.weight, official["patch_embed1.proj.weight"])


STRANGERS = {"size": (SWIN, swin(channels=48)), "swin": (PVT, swin()), "pvt": (SWIN, pvt())}


@pytest.mark.parametrize(("cfg", "state"), STRANGERS.values(), ids=STRANGERS)
def test_what_does_not_fit_is_refused(cfg, state):
    with pytest.raises(CheckpointError, match=r"does not fit .* give the backbone the size"):
        load_published(MODELS.build(cfg), state, "a file")
