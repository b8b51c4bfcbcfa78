"""Known networks: the family and size that weights are of, and the table of official files, which is complete.

The table is honest about what can be downloaded, and used by `--pretrained official`.
"""

import json
import re
from typing import ClassVar

import pytest
import torch
from checkpoint_cases import NANO, OFFICIAL, backbone, refusal
from conftest import REPOSITORY, lines_logged_by
from mmdet.registry import MODELS
from mmengine.registry import MODELS as ROOT
from official_layouts import PAIRS, dwnet, openmmlab_twins, twins
from test_read import remote  # noqa: F401 - a fixture

from localvit.commands.listings import weights
from localvit_det.backbones import DWNet
from localvit_det.backbones.family import stage_widths
from localvit_det.checkpoint import networks
from localvit_det.checkpoint.loading import load_backbone
from localvit_det.checkpoint.matching import prepare
from localvit_det.checkpoint.networks import OfficialFile, families, find_origin, official_file, official_files
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError, RequirementError
from localvit_det.preflight import start
from localvit_det.preflight.start import check_start

TWINS = ("TwinsPCPVT", "TwinsSVT")


@pytest.mark.parametrize("family", OFFICIAL)
@pytest.mark.parametrize("arch", ["tiny", "small", "base", "large"])
def test_published_sizes_are_recognised(family, arch):
    cls = MODELS.get(family)
    if arch not in cls.arch_settings:
        pytest.skip("not published")
    size = cls.arch_settings[arch]
    with torch.device("meta"):
        options = {"heads": size["num_heads"][0]} if family in ("ShuffleTransformer", "MSGTransformer") else {}
        channels = size["embed_dims"]
        if family in TWINS:
            channels = stage_widths(channels, 4)
            options = {"ratios": size.get("mlp_ratio", (4, 4, 4, 4))}
        official = OFFICIAL[family](channels=channels, depths=size["depths"], **options)
        net = MODELS.build({"type": family, "arch": arch})
    origin = find_origin(official)
    assert (origin.family, origin.official, origin.arch) == (cls, True, arch)
    own = find_origin(net.state_dict())
    assert (own.family, own.official, own.arch) == (cls, False, arch)
    _, report = prepare(net, official)
    assert not report.problems
    assert len(report.found) == report.size - len(report.missing)
    assert all(name.startswith("out_norms.") for name in report.missing)


@pytest.mark.parametrize("family", TWINS)
@pytest.mark.parametrize("library", ["mmpretrain", "mmseg"])
def test_openmmlab_layouts_of_twins_load_alike(family, library):
    official = twins(family)
    net = backbone(family, out_norm_cfg=None)
    expected, _ = prepare(net, official)
    state, report = prepare(net, {"state_dict": openmmlab_twins(official, library), "meta": {}})
    assert not report.missing
    assert state.keys() == expected.keys() == net.state_dict().keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    inside = {name.removeprefix("backbone."): t for name, t in openmmlab_twins(official, library).items()}
    assert find_origin(inside).family is MODELS.get(family)


def test_backbones_of_others_are_named():
    cfg = {"type": "mmdet.SwinTransformer", "embed_dims": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    state = MODELS.build(cfg).state_dict()
    assert find_origin(state) is None
    assert "it is a Swin Transformer's" in refusal(prepare, backbone("DWNet"), state)
    state = MODELS.build({"type": "mmdet.ResNet", "depth": 18}).state_dict()
    assert find_origin(state) is None
    assert "none of this package's families" in refusal(prepare, backbone("DWNet"), state)


def test_a_layout_from_outside(monkeypatch):
    """A family declares how its official file calls the weights; what identifies, converts and explains follows."""

    class PoolNet(DWNet):
        official_layout: ClassVar = ((r"^entry\.", "stem."), (r"^level(\d)\.unit(\d)\.", r"stages.\1.blocks.\2."))

    monkeypatch.setitem(MODELS.module_dict, "PoolNet", PoolNet)
    net = PoolNet(arch={"embed_dims": 32, "depths": (1, 1, 1, 1), "drop_path_rate": 0.0}, out_norm_cfg=None)
    official = {
        re.sub(r"^stages\.(\d)\.blocks\.(\d)\.", r"level\1.unit\2.", name.replace("stem.", "entry.")): tensor
        for name, tensor in net.state_dict().items()
    }
    origin = find_origin(official)
    assert (origin.family, origin.official, origin.embed_dims, origin.depths) == (PoolNet, True, 32, (1, 1, 1, 1))
    state, report = prepare(net, {"network": official})
    assert state.keys() == net.state_dict().keys()
    assert report.choice == "network is taken, its only weights"
    assert "its backbone is PoolNet" in refusal(prepare, backbone("ShuffleTransformer"), official)


@pytest.mark.parametrize("library", ["mmdet", "mmpretrain", "mmseg"])
def test_no_family_has_the_name_of_a_class_of_a_library(library, monkeypatch):
    """A config of MMPretrain or MMSegmentation that says `type="NAME"` builds the library's own."""
    models = pytest.importorskip(f"{library}.registry").MODELS
    networks.refuse_taken_names(models)
    monkeypatch.setitem(ROOT.module_dict, "ResNet", DWNet)
    with pytest.raises(RequirementError, match=rf"ResNet of localvit_det\S+ has .* class of {library}\..*: rename"):
        networks.refuse_taken_names(models)


@pytest.mark.parametrize("family", families(), ids=lambda family: family.__name__)
def test_layouts_of_official_files_are_written_down(family):
    """Weights under an official name must arrive under ours; only what the authors' code calls them shows that."""
    ours = family.__module__.startswith("localvit_det.")
    if ours and any(release.address for release in vars(family).get("releases", {}).values()):
        assert family.__name__ in OFFICIAL.keys() & PAIRS.keys(), (
            f"{family.__name__} has official files: write their layout down in tests/official_layouts.py, from the "
            "authors' code: a function that makes such a state dict, named in OFFICIAL of tests/checkpoint_cases.py, "
            "and in PAIRS names that are easily mixed up."
        )


# ---- official files

ADDRESS = "https://example.com/weights/dwnet_nano.pth"
ARCH = {key: value for key, value in NANO.items() if key != "num_heads"}


def test_every_published_network_has_a_line():
    lines = {(one.network, one.settings.get("arch")) for one in official_files()}
    assert len(official_files()) == len({(one.network, str(one.settings)) for one in official_files()})
    for family in families():
        if family.__module__.startswith("localvit_det."):
            for arch in family.arch_settings:
                assert (family.__name__, arch) in lines
                assert official_file(family, {"type": family.__name__, "arch": arch}).settings == {"arch": arch}
    for one in official_files():
        for address in filter(None, (one.address, one.direct, one.warm_start)):
            assert address.startswith("https://")
        assert one.direct in ("", one.address) or "_3rdparty_" in one.direct
        assert not (one.direct and "drive.google.com" in one.direct)
        assert bool(one.layout) == bool(one.address)
        assert not (one.warm_start and one.address)


def test_lines_are_found_by_what_a_config_says():
    shuffle, swin, pvt = map(MODELS.get, ("ShuffleTransformer", "SwinTransformer", "PyramidVisionTransformer"))
    assert official_file(shuffle, {}).settings == {"arch": "tiny"}
    assert official_file(swin, {}).top1 == 81.2
    assert official_file(swin, {"embed_dims": 128, "depths": (2, 2, 18, 2)}).top1 == 83.5
    assert official_file(pvt, {}).size == "93M"
    for settings in ({"arch": ARCH}, {"arch": "tiny", "embed_dims": 64}, {"depths": (1, 1, 1, 1)}):
        assert official_file(shuffle, settings) is None
    assert official_file(swin, {"embed_dims": 32}) is None
    assert official_file(None, {}) is None


def test_the_command_lists_them(capsys, refused):
    weights(["dwnet", "TINY"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["DWNet tiny", "DynamicDWNet tiny", "IDynamicDWNet tiny"]
    assert "81.2" in lines[1]
    assert lines[1].endswith("releases/download/prerelease/dwnet_tiny_224.pth")
    assert "--pretrained official" in lines[1]
    assert "none released" in lines[3]
    weights(["--json"])
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == len(official_files())
    assert {one["direct"] for one in listed if one["network"] == "ShuffleTransformer"} == {""}
    assert {one["layout"] for one in listed if one["network"] == "DWNet"} == {"classifier of the authors' code"}
    assert "No network has 'resnet'" in refused(weights, "resnet")


@pytest.fixture
def published(remote, monkeypatch, tmp_path):  # noqa: F811
    """The addresses that are asked for, of a server with a nano DWNet as if its authors had published it."""
    pages, asked = remote
    torch.save({"model": dwnet()}, tmp_path / "x.pth")
    pages[ADDRESS] = (tmp_path / "x.pth").read_bytes()
    line = OfficialFile(network="DWNet", settings={"arch": "nano"}, address=ADDRESS, direct=ADDRESS, top1=1.0)
    monkeypatch.setattr(networks, "official_file", lambda cls, settings: line)
    return pages, asked


def config(**options):
    return load_config(
        REPOSITORY / "configs/mask_rcnn_dwnet_t_coco.py", {"model.backbone.arch": {"_delete_": True, **ARCH}, **options}
    )


def said(cfg, monkeypatch) -> list[str]:
    lines = lines_logged_by(monkeypatch, start)
    check_start(cfg, None)
    return lines


def test_official_is_downloaded_checked_and_loaded(published, monkeypatch):
    cfg = config(pretrained="official")
    assert cfg.model.backbone.init_cfg.checkpoint == ADDRESS
    (line,) = said(cfg, monkeypatch)
    assert f"backbone from {ADDRESS} (classifier of 10 classes, 237 of 253 weights, output norms new)" in line
    net = MODELS.build(cfg.model.backbone)
    net.init_weights()
    other = backbone("DWNet")
    load_backbone(other, "official")
    assert torch.equal(net.stem.proj.weight, other.stem.proj.weight)
    assert len(published[1]) == 1  # request for all of them


def test_what_is_downloaded_must_fit(published, monkeypatch):
    cfg = config(pretrained="official", **{"model.backbone.arch": {"_delete_": True, **ARCH, "embed_dims": 48}})
    with pytest.raises(CheckpointError, match="its backbone is DWNet with 32 channels"):
        said(cfg, monkeypatch)


def test_without_a_network_the_sentence_names_address_and_command(published, monkeypatch):
    published[0].clear()
    with pytest.raises(CheckpointError, match=rf"{ADDRESS} could not be .* by hand and .*\(--pretrained FILE\)\.$"):
        said(config(pretrained="official"), monkeypatch)


def test_what_cannot_be_downloaded_is_refused_with_the_command(remote):  # noqa: F811
    folder = REPOSITORY / "configs"
    for name, words in (
        ("mask_rcnn_shuffle_t_coco", r"by hand from https://drive.google.com/\S+ and add --pretrained FILE"),
        ("mask_rcnn_gg_t_coco", r"add --pretrained official --cfg-options warm_start=swin"),
        ("mask_rcnn_msg_t_coco", r"released no weights, so pretrain it"),
        ("mask_rcnn_dwnet_nano_shapes", r"no official file is known for this DWNet"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load_config(folder / f"{name}.py", {"pretrained": "official"})
    cfg = load_config(folder / "mask_rcnn_gg_t_coco.py", {"pretrained": "official", "warm_start": "swin"})
    assert cfg.model.backbone.init_cfg.checkpoint.endswith("swin_tiny_patch4_window7_224.pth")
    assert remote[1] == []


def test_a_file_of_that_name_is_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": dwnet()}, "official")
    assert config(pretrained="official").model.backbone.init_cfg.checkpoint == "official"
