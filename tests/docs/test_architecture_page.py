"""docs/architecture.md: its example runs as it stands, and its shapes are those of the code."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from families import FAMILIES
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from localvit_det.config import load_config

PAGE = (REPOSITORY / "docs/architecture.md").read_text()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The example's files in an empty folder next to the repository, as a reader would write them."""
    module, config = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "localvit_det").symlink_to(REPOSITORY)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "pool_net.py").write_text(module)
    (folder / "pool_net_nano.py").write_text(config)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def example(folder, monkeypatch) -> Iterator[Config]:
    """The example's config; the registration is taken back afterwards."""
    monkeypatch.syspath_prepend(folder)
    yield load_config("pool_net_nano.py")
    MODELS.module_dict.pop("PoolNet", None)
    sys.modules.pop("pool_net", None)


@pytest.mark.slow
def test_example_passes_the_contract(folder):
    command = re.search(r"^PYTHONPATH=\. python (-m pytest .*)$", PAGE, flags=re.MULTILINE)[1].split()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", str(REPOSITORY)])}
    run = subprocess.run([sys.executable, *command, "-m", "not slow"], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 20


def test_example_trains_a_step(example):
    model = MODELS.build(example.model).train()
    assert type(model.backbone).__module__ == "pool_net"
    assert example.model.neck.in_channels == [64, 128, 256, 512]
    data = model.data_preprocessor(demo_mm_inputs(2, [(3, 90, 130)] * 2, num_classes=3, with_mask=True), True)
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    build_optim_wrapper(model, example.optim_wrapper).update_params(loss)
    assert torch.isfinite(loss)
    assert before
    for name, parameter in model.backbone.named_parameters():
        assert torch.isfinite(parameter).all()
        assert not torch.equal(parameter, before[name]), f"{name} was not trained"


def test_tables_and_lists_name_every_family():
    families = {one for one in FAMILIES if MODELS.get(one).__module__.startswith("localvit_det.")}
    assert set(re.findall(r"^\| `(\w+)` \|(?: [^|\n]+\|){3}$", PAGE, flags=re.MULTILINE)) == families, (
        "add a row for each new family to the table of docs/architecture.md"
    )
    readme = (REPOSITORY / "README.md").read_text()
    idea = readme[readme.index("## The idea") :].partition("\n## ")[0]
    papers = {MODELS.get(one).paper[1] for one in families}
    assert {paper for paper in papers if paper not in idea} == set(), (
        'add a link to the paper of each new family to "The idea" in README.md'
    )


def test_shapes_of_the_diagram():
    line = r"^ *(\d+) \S (\d+) \S (\d+) ─+► out norm ─► map \d, stride (\d+)$"
    drawn = re.findall(line, PAGE, flags=re.MULTILINE)
    backbone = MODELS.build(dict(type="ShuffleTransformer")).eval().to("meta")
    maps = backbone(torch.empty(1, 3, 800, 1280, device="meta"))
    assert [tuple(map(int, row)) for row in drawn] == [
        (*m.shape[1:], stride) for m, stride in zip(maps, backbone.out_strides, strict=True)
    ]
