"""What the page on own data shows is what is reported: first lines of each layout."""

import shutil
from pathlib import Path

import pytest
from coco_folder import write_config
from conftest import REPOSITORY, lines_logged_by
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
    lines: list[str] = []
    monkeypatch.setattr(discovery, "print_log", lambda message, *_: lines.append(message))
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
