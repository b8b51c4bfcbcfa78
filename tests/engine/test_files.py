"""Files and folders that are there whole or not at all."""

import os

import pytest
from mmengine.config import Config

from localvit_det.files import atomic_folder, move_with_parts, write_text


def test_folder_gets_its_name_in_one_step(tmp_path):
    with atomic_folder(tmp_path / "new/set") as draft:
        (draft / "a").write_text("a")
        assert not (tmp_path / "new/set").exists()
    assert (tmp_path / "new/set/a").read_text() == "a"
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "new/set") as draft:
        (draft / "b").write_text("b")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "set", "a"]


def test_names_that_are_not_in_utf_8(tmp_path):
    """Of files and classes, in pages and tables."""
    write_text(tmp_path / "page.html", "caf\udce9 é")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "caf\\udce9 é"


def test_file_never_stands_next_to_parts_of_another(tmp_path, monkeypatch):
    """An exported model of two files that takes the place of an older one, killed before each step."""
    place, steps = tmp_path / "net.xml", []
    replace = os.replace

    def step(source, target) -> None:
        steps.append({path.name: path.read_text() for path in tmp_path.glob("net.*")})
        replace(source, target)

    monkeypatch.setattr(os, "replace", step)
    for version in ("old", "new"):
        draft = tmp_path / "draft"
        draft.mkdir(exist_ok=True)
        for name in ("net.xml", "net.bin"):
            (draft / name).write_text(version)
        move_with_parts(draft / "net.xml", place)
    assert steps[2:] == [{"net.bin": "old"}, {"net.bin": "new"}]
    assert {path.read_text() for path in tmp_path.glob("net.*")} == {"new"}


def test_file_without_parts_is_never_missing(tmp_path, monkeypatch):
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft/net.onnx").write_text("new")
    (tmp_path / "net.onnx").write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: None)
    move_with_parts(tmp_path / "draft/net.onnx", tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_text() == "old"


@pytest.mark.parametrize("name", ["config.py", "config.yaml", "config.json"])
def test_dumped_config_is_whole_or_the_old_one(name, tmp_path, monkeypatch):
    """MMEngine writes .py files by itself."""
    file = tmp_path / name
    Config({"a": 1}).dump(file)
    before = file.read_text()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        Config({"a": 2}).dump(file)
    assert file.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert Config.fromfile(file).a == 1
