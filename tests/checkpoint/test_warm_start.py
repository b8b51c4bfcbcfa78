"""Warm starts from Swin: what means the same is taken, and every tensor is accounted for."""

import pytest
import torch
from families import build
from mmdet.registry import MODELS
from official_layouts import hugging_face_swin

from localvit_det.checkpoint.matching import NAMES, warm_start
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError, ConfigError

SIZES = {"embed_dims": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


def swin() -> torch.nn.Module:
    net = MODELS.build({"type": "SwinTransformer", **SIZES, "window_size": 3, "mlp_ratio": 2, "drop_path_rate": 0.0})
    net.init_weights()
    for parameter in net.parameters():  # none is constant
        torch.nn.init.normal_(parameter, std=0.1)
    net.eval()
    return net


def official(state: dict) -> dict:
    """MMDetection's Swin in the layout of the official code."""
    result = {}
    for key, tensor in state.items():
        for ours, theirs in (
            ("patch_embed.projection.", "patch_embed.proj."),
            ("stages.", "layers."),
            (".attn.w_msa.", ".attn."),
            (".ffn.layers.0.0.", ".mlp.fc1."),
            (".ffn.layers.1.", ".mlp.fc2."),
        ):
            key = key.replace(ours, theirs)
        if ".downsample." in key:  # (channel, place) to (place, channel), places in the order 0, 2, 1, 3
            parts = tensor.reshape(*tensor.shape[:-1], -1, 4)[..., [0, 2, 1, 3]]
            tensor = parts.transpose(-1, -2).reshape(tensor.shape)
        result[key] = tensor
    return result


def timm(state: dict) -> dict:
    steps = {f"layers.{i}.downsample.": f"layers.{i + 1}.downsample." for i in range(3)}
    moved = {}
    for key, tensor in official(state).items():
        old = next((step for step in steps if key.startswith(step)), None)
        moved[key.replace(old, steps[old]) if old else key] = tensor
    return moved


def hugging_face(state: dict) -> dict:
    return hugging_face_swin(official(state))


LAYOUTS = {"mmdet": dict, "official": official, "timm": timm, "Hugging Face": hugging_face}


def accounted(report, module) -> None:
    """Each tensor of the model in one column, none for nothing."""
    columns = [report.found, report.missing, report.zeroed, report.new]
    names = {n for n in module.state_dict() if not n.endswith("num_batches_tracked")}
    assert set().union(*columns) == names
    assert sum(map(len, columns)) == len(names)
    assert not report.problems
    assert report.unexpected == report.unexpected & report.allowed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gg_without_dilation_and_position_is_swin(layout):
    """On a map of one window both split alike: with a table of zeros and the Gaze at zero they compute the same."""
    net = swin()
    for name, parameter in net.named_parameters():
        if "relative_position" in name:
            parameter.data.zero_()
    gg = build("GGTransformer", window_size=7).eval()
    report = warm_start(gg, LAYOUTS[layout](net.state_dict()), "swin", "swin.pth")
    accounted(report, gg)
    assert report.zeroed == {n for n in gg.state_dict() if ".gaze." in n}
    assert not report.missing
    image = torch.randn(2, 3, 28, 28)
    # windows of 7 in both; the later stages are smaller, where Swin pads without a mask
    net = swin_like(net)
    with torch.no_grad():
        torch.testing.assert_close(gg(image)[0], net(image)[0], rtol=1e-4, atol=1e-5)
        merged = gg.stages[1].downsample(gg.stages[0](gg.stem(image)))
    assert merged.shape[-2:] == (4, 4)
    text = str(report)
    assert "set to zero" in text
    assert "relative_position_bias_table" in text


def swin_like(net: torch.nn.Module) -> torch.nn.Module:
    """The same Swin with windows of 7, whose blocks do not shift: the map is one window."""
    other = MODELS.build({"type": "SwinTransformer", **SIZES, "window_size": 7, "mlp_ratio": 2, "drop_path_rate": 0.0})
    state = {key: value for key, value in net.state_dict().items() if "relative_position" not in key}
    other.load_state_dict(state, strict=False)
    for name, parameter in other.named_parameters():
        if "relative_position" in name:
            parameter.data.zero_()
    for stage in other.stages:
        for block in stage.blocks:
            block.attn.shift_size = 0
    other.eval()
    return other


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merging_is_the_same_in_every_layout(layout):
    net = swin()
    gg = build("GGTransformer").eval()
    warm_start(gg, LAYOUTS[layout](net.state_dict()), "swin", "swin.pth")
    x = torch.randn(1, 32, 6, 8)
    with torch.no_grad():
        expected, size = net.stages[0].downsample(x.flatten(2).transpose(1, 2), (6, 8))
        found = gg.stages[1].downsample(x)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)
    assert tuple(size) == found.shape[-2:]


@pytest.mark.parametrize("family", ["DWNet", "DynamicDWNet", "IDynamicDWNet"])
def test_dwnet_takes_stem_merging_mlps_and_projections(family):
    net = swin()
    state = official(net.state_dict())
    dw = build(family)
    before = {name: tensor.clone() for name, tensor in dw.state_dict().items()}
    report = warm_start(dw, state, "swin", "swin.pth")
    accounted(report, dw)
    after = dw.state_dict()
    assert torch.equal(after["stem.proj.weight"], state["patch_embed.proj.weight"])
    assert torch.equal(after["stages.1.blocks.0.mlp.fc1.weight"][..., 0, 0], state["layers.1.blocks.0.mlp.fc1.weight"])
    values = state["layers.2.blocks.1.attn.qkv.weight"][2 * 128 :]
    assert torch.equal(after["stages.2.blocks.1.mixer.expand.weight"][..., 0, 0], values)
    assert torch.equal(
        after["stages.2.blocks.1.mixer.project.weight"][..., 0, 0], state["layers.2.blocks.1.attn.proj.weight"]
    )
    for name in report.missing:
        assert torch.equal(before[name], after[name])
    assert any(".mixer.conv." in name for name in report.missing)


def deeper_msg(**options) -> torch.nn.Module:
    arch = {**SIZES, "depths": (2, 3, 1, 2), "drop_path_rate": 0.0}
    return MODELS.build({"type": "MSGTransformer", "arch": arch, "window_size": 3, "mlp_ratio": 2.0, **options}).eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_window_of_msg_whose_messenger_is_not_heard_is_swin_s(layout):
    net, msg = swin(), deeper_msg()
    warm_start(msg, LAYOUTS[layout](net.state_dict()), "swin", "swin.pth")
    block = msg.stages[0].blocks[0]
    block.mixer.rel_pos_msg.data[:, 0] = -1e9  # as a key
    tokens = torch.randn(2, 32, 6, 9)
    with torch.no_grad():
        found = block((tokens, torch.randn(2, 32, 2, 3)))[0]
        expected = net.stages[0].blocks[0](tokens.flatten(2).transpose(1, 2), (6, 9))
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


def test_msg_takes_the_blocks_that_both_have():
    state = official(swin().state_dict())
    msg = deeper_msg()
    before = {name: tensor.clone() for name, tensor in msg.state_dict().items()}
    report = warm_start(msg, state, "swin", "swin.pth")
    accounted(report, msg)
    after = msg.state_dict()
    for name in ("mixer.qkv.weight", "mixer.qkv.bias", "mlp.fc2.weight", "norm2.bias"):
        key = name.replace("mixer", "attn")
        for ours in ("stages.0.blocks.1", "stages.1.blocks.1", "stages.2.blocks.0", "stages.3.blocks.0"):
            wanted = state[f"{ours.replace('stages', 'layers')}.{key}"]
            assert torch.equal(after[f"{ours}.{name}"].reshape(wanted.shape), wanted)
    assert torch.equal(after["out_norms.2.weight"], state["norm2.weight"])
    # Its stem, messengers and downsampling are its own, and Swin has no third block here.
    own = {n for n in after if n.startswith("stem.") or ".downsample." in n or "rel_pos_msg" in n or "1.blocks.2." in n}
    assert report.missing == own
    assert all(torch.equal(before[name], after[name]) for name in own)
    surplus = {key for key in state if key.startswith("layers.2.blocks.1.")}
    assert surplus < report.unexpected
    own = {key for key in state if ".downsample." in key or "patch_embed" in key or "position_index" in key}
    assert report.unexpected == own | surplus


def test_msg_resizes_the_position_table():
    report = warm_start(deeper_msg(window_size=5), official(swin().state_dict()), "swin", "swin.pth")
    assert len(report.resized) == 7
    assert all("relative_position_bias_table" in name for name in report.resized)


@pytest.mark.parametrize(
    ("family", "name", "change", "words"),
    [
        ("GGTransformer", "swine", None, r"no warm start 'swine' \(did you mean 'swin'\?\)"),
        ("ShuffleTransformer", "swin", None, "A ShuffleTransformer has no .*, only DWNet, GGTransformer"),
        ("GGTransformer", "swin", "nothing", "holds no weights of a Swin"),
        ("GGTransformer", "swin", "larger", "does not fit a warm start of GGTransformer .* same size"),
        (
            "MSGTransformer",
            "swin",
            "larger",
            "does not fit .* MSGTransformer .* which MSG-S and MSG-B share",
        ),
    ],
)
def test_refusals(family, name, change, words):
    state = {"conv.weight": torch.zeros(1)} if change == "nothing" else official(swin().state_dict())
    options = {"embed_dims": 64} if change == "larger" else {}
    with pytest.raises(CheckpointError, match=words):
        warm_start(build(family, **options), state, name, "swin.pth")
    assert NAMES == ("swin",)


def test_asked_for_in_a_config(tmp_path):
    file = tmp_path / "swin.pth"
    torch.save({"model": official(swin().state_dict())}, file)
    path = tmp_path / "config.py"
    path.write_text(
        "model = dict(backbone=dict(type='GGTransformer', window_size=3, mlp_ratio=2.0, "
        f"arch=dict(drop_path_rate=0.0, **{SIZES})))\n"
    )
    cfg = load_config(path, {"pretrained": str(file), "warm_start": "swin"})
    gg = MODELS.build(cfg.model.backbone)
    gg.init_weights()
    assert not gg.stages[0].blocks[0].mixer.gaze.weight.any()
    with pytest.raises(ConfigError, match="warm_start=swin needs pretrained"):
        load_config(path, {"warm_start": "swin"})
