"""What users add from outside of the package: a family, a head, augmentations, a switch of `localvit train`.

A data format from outside is in datasets/test_converters.py, a layout of checkpoints in
checkpoint/test_known_networks.py; options of other commands are arguments of their own files,
and cannot be added from outside.
"""

from typing import Any, ClassVar

import pytest
import torch
from conftest import REPOSITORY
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.testing import demo_mm_inputs
from mmengine.registry import MODELS as ROOT
from torch import Tensor, nn

from localvit.commands import train
from localvit_det.backbones import LocalViT
from localvit_det.backbones.family import SWIN_SKELETON, Release, WarmStart
from localvit_det.checkpoint.matching import warm_start
from localvit_det.checkpoint.networks import families_from, official_address, official_files
from localvit_det.checkpoint.safe_config import take
from localvit_det.config import load_config
from localvit_det.errors import ConfigError
from localvit_det.switches import SWITCHES, Switch

NANO = "mask_rcnn_shuffle_nano_shapes"
BASE = f"_base_ = {str(REPOSITORY / 'configs' / NANO)!r} + '.py'\n"
ADDRESS = "https://example.com/toy_tiny.pth"


class Pool(nn.Module):
    """A mixer without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) - x


class ToyNet(LocalViT):
    """A family: all that is known of it in one place."""

    title: ClassVar = "Toy"
    short_name: ClassVar = "toy"
    arch_settings: ClassVar = {"tiny": {"embed_dims": 16, "depths": (1, 1, 1, 1), "drop_path_rate": 0.0}}
    releases: ClassVar = {"tiny": Release(ADDRESS, ADDRESS, top1=50.0)}
    warm_starts: ClassVar = {"swin": WarmStart((*SWIN_SKELETON, (r"\.attn\.", None)), surplus=r"\.norm\d?\.")}

    def __init__(self, arch: str | dict = "tiny", **common: Any) -> None:
        super().__init__(arch, **common)
        self.build()

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        return Pool()


class ToyHead(FCNMaskHead):
    """A head that is known by its loss."""

    def loss_and_target(self, *args: Any, **kwargs: Any) -> dict:
        found = super().loss_and_target(*args, **kwargs)
        return found | {"loss_mask": {"loss_toy": found["loss_mask"]["loss_mask"]}}


@pytest.fixture
def toys(monkeypatch) -> None:
    """Registers them for the time of a test."""
    monkeypatch.setitem(ROOT.module_dict, "ToyNet", ToyNet)
    monkeypatch.setitem(MODELS.module_dict, "ToyNet", ToyNet)
    monkeypatch.setitem(MODELS.module_dict, "ToyHead", ToyHead)


def written(folder, text: str):
    file = folder / "own.py"
    file.write_text(BASE + text)
    return file


def test_a_family_and_a_head(toys, tmp_path):
    text = "model = dict(backbone=dict(_delete_=True, type='ToyNet'), roi_head=dict(mask_head=dict(type='ToyHead')))"
    cfg = load_config(written(tmp_path, text), data=False)
    assert cfg.model.neck.in_channels == [16, 32, 64, 128]  # follow
    model = MODELS.build(cfg.model).train()
    data = model.data_preprocessor(demo_mm_inputs(1, [(3, 64, 64)], num_classes=3, with_mask=True), True)
    losses = model(**data, mode="loss")
    model.parse_losses(losses)[0].backward()
    assert "loss_toy" in losses
    assert all(p.grad is not None for p in model.backbone.parameters())
    image = torch.randn(1, 3, 61, 70)
    net = model.backbone.eval()
    with torch.no_grad():
        expected = net(image)
        exported = torch.export.export(net, (image,)).module()(image)
        for one, other, fused in zip(expected, exported, net.fuse()(image), strict=True):
            torch.testing.assert_close(other, one)
            torch.testing.assert_close(fused, one, rtol=1e-4, atol=1e-4)


def test_files_of_weights_of_a_family(toys):
    assert official_address(ToyNet, {"arch": "tiny"}) == ADDRESS
    assert ADDRESS in {one.direct for one in official_files()}
    assert ToyNet in families_from("swin")
    swin = ROOT.build({"type": "mmdet.SwinTransformer", "embed_dims": 16, "depths": (1,) * 4, "num_heads": (1,) * 4})
    state = swin.state_dict()
    net = ToyNet()
    warm_start(net, state, "swin", "swin.pth")
    assert torch.equal(net.stem.proj.weight, state["patch_embed.projection.weight"])


def test_a_file_may_name_no_types_from_outside(toys):
    with pytest.raises(ValueError, match="'ToyNet' is not on the list"):
        take({"model": {"type": "MaskRCNN", "backbone": {"type": "ToyNet"}}})


def test_augmentations(tmp_path, monkeypatch):
    class Toy(TRANSFORMS.get("RandomFlip")):
        pass

    monkeypatch.setitem(TRANSFORMS.module_dict, "Toy", Toy)
    text = (
        "steps = _base_.train_dataloader.dataset.pipeline\n"
        "train_dataloader = dict(dataset=dict(pipeline=[*steps[:2], dict(type='Toy', prob=1.0), "
        "*_base_.augmentation.one_scale, steps[-1]]))\n"
    )
    steps = load_config(written(tmp_path, text), data=False).train_dataloader.dataset.pipeline
    assert [step.type for step in steps[1:-1]] == ["LoadCompactAnnotations", "Toy", "Resize", "RandomFlip"]


def test_a_switch(monkeypatch, tmp_path):
    """It is an argument of the command, and changes the config before that is checked."""
    seen: dict[str, Any] = {}
    argument = {"type": float, "help": "a toy"}
    monkeypatch.setitem(SWITCHES, "toy_rate", Switch(lambda cfg, value: cfg.optim_wrapper.update(toy=value), argument))

    def check(cfg, **_) -> None:
        seen["toy"] = cfg.optim_wrapper.toy
        raise ConfigError("enough")

    monkeypatch.setattr(train, "check_config", check)
    with pytest.raises(SystemExit):
        train.main([NANO, "--toy-rate", "0.5", "--dry-run", "--work-dir", str(tmp_path / "run")])
    assert seen == {"toy": 0.5}


def test_a_switch_that_the_config_imports_is_none_of_its_command(monkeypatch, tmp_path):
    text = f"custom_imports = dict(imports=['{__name__}_late'])\n"
    (tmp_path / f"{__name__}_late.py").write_text(
        "from localvit_det.switches import SWITCHES, Switch\nSWITCHES['late'] = Switch(print, {'help': 'a toy'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(train, "check_config", lambda cfg, **_: (_ for _ in ()).throw(ConfigError("enough")))
    with pytest.raises(SystemExit):
        train.main([str(written(tmp_path, text)), "--dry-run", "--work-dir", str(tmp_path / "run")])
    assert SWITCHES.pop("late")
