"""Published files of Swin and PVT in MMDetection's own backbones."""

import pytest
import torch
import torch.nn.functional as F
from conftest import lines_logged_by
from mmdet.registry import MODELS
from official_layouts import hugging_face_swin, pvt, pvt_v2, swin
from torch import nn

from localvit_det.checkpoint import baselines
from localvit_det.checkpoint.baselines import load_published, published_weights
from localvit_det.engine import ReliableRunner
from localvit_det.errors import CheckpointError

SWIN = {"type": "SwinTransformer", "embed_dims": 24, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)}
PVT = {"type": "PyramidVisionTransformer", "embed_dims": 16, "num_layers": (1, 1, 1, 1)}


def official_step_down(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    """Swin's patch merging as its paper's code writes it: (B, H, W, C) -> (B, H/2·W/2, 2C)."""
    x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1).flatten(1, 2)
    x = F.layer_norm(x, x.shape[-1:], state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
    return F.linear(x, state[f"{name}.reduction.weight"])


@pytest.mark.parametrize("layout", ["official", "timm", "hugging_face"])
def test_swin_of_others_computes_the_same(layout, tmp_path):
    timm = layout == "timm"
    official = swin(timm=timm)
    saved = hugging_face_swin(official) if layout == "hugging_face" else {"model": official}
    torch.save(saved, tmp_path / "swin.pth")
    net = MODELS.build({**SWIN, "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "swin.pth")}})
    with published_weights(net):
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


def test_the_log_says_which_of_several_weights_are_taken(tmp_path, monkeypatch):
    weights = MODELS.build(SWIN).state_dict()
    torch.save({"model": weights, "model_ema": weights}, tmp_path / "swin.pth")
    net = MODELS.build({**SWIN, "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "swin.pth")}})
    lines = lines_logged_by(monkeypatch, baselines)
    with published_weights(net):
        net.init_weights()
    assert "model is taken, not model_ema" in lines[0]


def test_the_runner_loads_published_files(tmp_path):
    official = swin()
    torch.save({"model": official}, tmp_path / "swin.pth")
    runner = ReliableRunner.__new__(ReliableRunner)
    init = {"type": "Pretrained", "checkpoint": str(tmp_path / "swin.pth")}
    runner.model = net = nn.Sequential(MODELS.build({**SWIN, "init_cfg": init}))
    runner.model.init_weights = lambda: net[0].init_weights()
    runner._init_model_weights()
    assert torch.equal(net[0].patch_embed.projection.weight, official["patch_embed.proj.weight"])
    assert "init_weights" not in vars(net[0])  # MMDetection's own again


def test_norms_of_hugging_face_swin_backbones():
    norms = {f"hidden_states_norms.stage{i + 1}.bias": torch.full((24 * 2**i,), i + 1.0) for i in range(4)}
    net = MODELS.build(SWIN)
    report = load_published(net, hugging_face_swin(swin(), prefix="") | norms, "a file")
    assert not report.missing - {f"norm{i}.weight" for i in range(4)}
    assert net.norm3.bias.eq(4).all()


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


PVT_V2 = {"type": "PyramidVisionTransformerV2", "embed_dims": 32, "num_layers": (1, 1, 1, 1)}


def official_pvt_v2_block(state: dict, name: str, x: torch.Tensor, size: tuple[int, int], heads: int) -> torch.Tensor:
    """A block of `pvt_v2.py` in its last stage, where nothing is subsampled: (B, N, C) -> (B, N, C)."""
    get = lambda part: (state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])  # noqa: E731
    batch, tokens, channels = x.shape
    y = F.layer_norm(x, (channels,), *get("norm1"), 1e-6)
    split = (batch, tokens, heads, channels // heads)
    query = F.linear(y, *get("attn.q")).view(split).transpose(1, 2)  # B,N,C -> B,heads,N,C/heads
    key, value = (part.view(split).transpose(1, 2) for part in F.linear(y, *get("attn.kv")).chunk(2, dim=-1))
    weights = (query @ key.transpose(2, 3) * (channels // heads) ** -0.5).softmax(-1)
    x = x + F.linear((weights @ value).transpose(1, 2).flatten(2), *get("attn.proj"))  # B,heads,N,c -> B,N,C
    y = F.linear(F.layer_norm(x, (channels,), *get("norm2"), 1e-6), *get("mlp.fc1"))
    hidden = y.shape[-1]
    y = y.transpose(1, 2).reshape(batch, hidden, *size)  # B,N,C' -> B,C',H,W
    y = F.gelu(F.conv2d(y, *get("mlp.dwconv.dwconv"), padding=1, groups=hidden)).flatten(2).transpose(1, 2)
    return x + F.linear(y, *get("mlp.fc2"))


def test_pvt_v2_computes_the_same(tmp_path):
    official = {name: 0.1 * tensor for name, tensor in pvt_v2().items()}
    torch.save(official, tmp_path / "pvt_v2_b0.pth")
    net = MODELS.build({**PVT_V2, "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "pvt_v2_b0.pth")}})
    with published_weights(net):
        net.init_weights()
    net.eval()
    x = torch.randn(2, 12, 256)
    expected = official_pvt_v2_block(official, "block4.0", x, (3, 4), heads=8)
    torch.testing.assert_close(net.layers[3][1][0](x, (3, 4)), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(net.layers[0][0].projection.weight, official["patch_embed1.proj.weight"])
    assert torch.equal(net.layers[1][1][0].attn.sr.weight, official["block2.0.attn.sr.weight"])
    assert torch.equal(net.layers[2][2].weight, official["norm3.weight"])
    report = load_published(MODELS.build(PVT_V2), official, "a file")
    assert not report.missing
    assert [m.shape[1] for m in net(torch.zeros(1, 3, 64, 64))] == [32, 64, 160, 256]


STRANGERS = {
    "v2 in v1": (PVT, pvt_v2()),
    "v1 in v2": (PVT_V2, pvt()),
    "size": (SWIN, swin(channels=48)),
    "swin": (PVT, swin()),
    "pvt": (SWIN, pvt()),
}


@pytest.mark.parametrize(("cfg", "state"), STRANGERS.values(), ids=STRANGERS)
def test_what_does_not_fit_is_refused(cfg, state):
    with pytest.raises(CheckpointError, match=r"does not fit .* give the backbone the size"):
        load_published(MODELS.build(cfg), state, "a file")
