"""Pages of single subjects: their commands, tables and figures are current, and the site is built."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_folder import write_config
from conftest import REPOSITORY, lines_logged_by
from families import FAMILIES
from matplotlib import image
from mmdet.registry import MODELS
from odd_layouts import LAYOUTS
from other_formats import yolo

from localvit_det.config import discovery, load_config
from localvit_det.datasets.synthetic_shapes import make_shapes

PAGE = " ".join((REPOSITORY / "docs/datasets.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=60, num_val=15, size=64)


@pytest.mark.parametrize("name", ["coco", *LAYOUTS])
def test_first_line(name, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
    lines = lines_logged_by(monkeypatch, discovery)
    options = {"data_root": "mine", "classes": "auto"}
    if name == "coco":
        shutil.copytree(shapes, "mine")
    else:
        make, _, needed = LAYOUTS[name]
        Path("mine").mkdir()
        make(shapes, Path("mine"))
        options |= {"val_split": 0.1} if any("val_split" in option for option in needed) else {}
    load_config(write_config(tmp_path), options)
    [line] = lines
    assert line in PAGE
    settings = [f"{key}={value}" for key, value in options.items()]
    assert " ".join(settings) in PAGE


def test_conversion(shapes, tmp_path, monkeypatch):
    pytest.importorskip("supervision")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
    lines = lines_logged_by(monkeypatch, discovery)
    Path("mine").mkdir()
    yolo(shapes, Path("mine"))
    load_config(write_config(tmp_path), {"data_root": "mine", "classes": "auto", "with_mask": False})
    assert lines[-1] in PAGE


CONFIGS = {path.name: path for path in (REPOSITORY / "configs").glob("mask_rcnn_*_nano_shapes.py")}


def rows() -> dict[str, list[str]]:
    lines = (REPOSITORY / "docs/families.md").read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {name.split(" (")[0]: rest for name, *rest in cells if name != "backbone" and not name.startswith("---")}


def test_every_family_has_a_row():
    assert set(rows()) == {*FAMILIES, "PyramidVisionTransformer", "SwinTransformer"}, (
        "add a row for each new family to docs/families.md: python -m benchmarks.families --names NAME"
    )
    for bbox, bbox_range, segm, segm_range, *_ in rows().values():
        for value, span in ((bbox, bbox_range), (segm, segm_range)):
            low, high = map(float, span.split(" to "))
            assert 0 < low <= float(value) <= high < 1


@pytest.mark.slow
def test_parameters_are_those_of_the_configs():
    found = {}
    for path in CONFIGS.values():
        cfg = load_config(path)
        model = MODELS.build(cfg.model)
        found[cfg.model.backbone.type] = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M"
    assert found == {name: cells[-1] for name, cells in rows().items()}


@pytest.fixture(scope="module")
def tool() -> dict:
    return runpy.run_path(str(REPOSITORY / "docs/draw_windows.py"))


def test_numbers_of_windows_are_those_of_the_papers(tool):
    y, x = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    assert torch.equal(tool["windows_of_tokens"](12, 4, "local"), y // 4 * 3 + x // 4)
    assert torch.equal(tool["windows_of_tokens"](12, 4, "dilated"), y % 3 * 3 + x % 3)


def test_figure_is_current(tool, tmp_path):
    tool["main"](["--out", str(tmp_path / "windows.png")])
    drawn, kept = image.imread(tmp_path / "windows.png"), image.imread(REPOSITORY / "docs/windows.png")
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.01  # other fonts may move a digit


CELLS = [
    "".join(cell["source"])
    for cell in json.loads((REPOSITORY / "docs/quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]
SIZES = "images, epochs = 400, 8"


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_notebook(tmp_path, monkeypatch, capsys):
    assert CELLS[0].count(SIZES) == 1
    code = "\n\n".join(CELLS).replace(SIZES, "images, epochs = 20, 1").replace("score=0.5", "score=0.0")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert sum("box AP" in line for line in lines) == 1
    assert sum(".jpg" in line and "[" in line for line in lines) == 2  # a tenth of the images
    found, before = (int(word) for word in lines[-1].split() if word.isdigit())
    assert found == before > 0


@pytest.mark.slow
def test_site_is_built_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    pages = {path.relative_to(tmp_path / "site").parent.as_posix() for path in tmp_path.rglob("index.html")}
    assert {".", "training", "inference", "analysis", "datasets", "export", "benchmarks"} <= pages
    assert {"changelog", "contributing"} <= pages
    reference = (tmp_path / "site/api/backbones/index.html").read_text(encoding="utf-8")
    assert 'id="localvit_det.backbones.ShuffleTransformer"' in reference
    assert ":class:" not in reference
