"""docs/extending.md: its examples run as they stand."""

import importlib
import re
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from coco_folder import gray
from conftest import REPOSITORY
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs

from localvit.commands import train
from localvit_det.checkpoint.loading import load_backbone
from localvit_det.config import load_config
from localvit_det.datasets.converters import CONVERTERS, convert_in_cache
from localvit_det.errors import ConfigError
from localvit_det.switches import SWITCHES

PAGE = (REPOSITORY / "docs/extending.md").read_text(encoding="utf-8")


@pytest.fixture
def parts(tmp_path, monkeypatch) -> Iterator[ModuleType]:
    """The page's files in an empty folder, imported; what they register is taken back afterwards."""
    *code, config, switch = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(code) == 3
    (tmp_path / "my_parts.py").write_text("\n\n".join(code))
    (tmp_path / "my_config.py").write_text(config)
    (tmp_path / "my_train.py").write_text(switch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    converters = list(CONVERTERS)
    yield importlib.import_module("my_parts")
    for name in ("my_parts", "my_train"):
        sys.modules.pop(name, None)
    for name in ("MyNet", "MyMaskHead"):
        MODELS.module_dict.pop(name)
    SWITCHES.pop("rate_factor", None)
    CONVERTERS[:] = converters


def test_family_and_head(parts):
    cfg = load_config("my_config.py", data=False)
    assert cfg.model.neck.in_channels == [32, 64, 128, 256]
    model = MODELS.build(cfg.model).train()
    assert type(model.backbone) is parts.MyNet
    assert type(model.roi_head.mask_head) is parts.MyMaskHead
    data = model.data_preprocessor(demo_mm_inputs(1, [(3, 64, 64)], num_classes=3, with_mask=True), True)
    model.parse_losses(model(**data, mode="loss"))[0].backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_layout_of_files(parts, tmp_path):
    net, other = parts.MyNet(), parts.MyNet()
    official = {
        re.sub(r"^stages\.(\d)\.blocks\.(\d)\.", r"layer\1.\2.", name.replace("stem.", "embed.")): tensor
        for name, tensor in net.state_dict().items()
    }
    assert official.keys() != net.state_dict().keys()
    torch.save(official, tmp_path / "official.pth")
    load_backbone(other, tmp_path / "official.pth")
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name


def test_data_format(parts, tmp_path, cache):
    pytest.importorskip("supervision")
    root = tmp_path / "mine"
    root.mkdir()
    (root / "a.jpg").write_bytes(gray(80, 60))
    (root / "objects.csv").write_text(re.search(r"`(dog,[\d,]+)`", PAGE)[1])
    assert convert_in_cache(root).name == "tables"


def test_switch(parts, tmp_path, monkeypatch):
    rate = load_config("my_config.py", data=False).optim_wrapper.optimizer.lr
    seen = []

    def check(cfg, **_) -> None:
        seen.append(cfg.optim_wrapper.optimizer.lr)
        raise ConfigError("enough")

    monkeypatch.setattr(train, "check_config", check)
    my_train = importlib.import_module("my_train")
    [line] = re.findall(r"python my_train\.py (.+)", PAGE)
    with pytest.raises(SystemExit):
        my_train.train.main([*line.split(), "--dry-run", "--work-dir", str(tmp_path / "run")])
    assert seen == [rate * 0.5]
