"""Every source gets an output of its own, and no run finds objects in what an earlier one wrote."""

import json
import os

import pytest
from predict_cases import files_in, published, run, write_image, write_video

from localvit_det.predict.sources import find_files

NAMES = ("a.jpg", "a.JPG", "a.jp2", "a.ppm", "a.png", "a b/x.jpg", "sub/x.jpg", "sub_x.jpg", "clip_000001.jpg")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return published(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with images in ph/."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "deeper/a.jpg"):
        write_image(tmp_path / "ph" / name)
    return tmp_path


def test_same_stems(file, tmp_path):
    """As many files as sources, as many crops as objects, and the same names in every run."""
    for name in NAMES:
        write_image(tmp_path / "ph" / name)
    for name, codec in (("clip.mp4", "mp4v"), ("clip.avi", "MJPG"), ("clip.mov", "mp4v")):
        write_video(tmp_path / "ph" / name, 2, codec)
    out, crops, objects = tmp_path / "out", tmp_path / "crops", tmp_path / "o.json"
    for _ in range(2):
        assert run(file, tmp_path / "ph", "--out", out, "--crops", crops, "--json", objects) == 0
        content = json.loads(objects.read_text())
        assert len({image["file_name"] for image in content["images"]}) == len(NAMES) + 3
        assert len(content["images"]) == len(NAMES) + 3 * 2
        assert len(files_in(crops)) == len(content["annotations"]) == 5 * len(content["images"])
        assert files_in(out) == {
            *("a.jpg", "a_JPG.jpg", "a_jp2.jpg", "a_ppm.jpg", "a.png", "a b/x.jpg", "sub/x.jpg", "sub_x.jpg"),
            *("clip_000001.jpg", "clip.mp4", "clip_avi.mp4", "clip_mov.mp4"),
        }


@pytest.mark.parametrize("source", ["ph", ".", "**/*.jpg", "*/*.jpg"])
def test_outputs_of_earlier_runs_are_no_sources(file, here, source, capsys):
    said = []
    for out, crops in (("ph/found", "ph/found/crops"), ("other", "crops"), ("third", "ph/more")):
        assert run(file, source, "--out", out, "--crops", crops) == 0
        said.append(capsys.readouterr().out.split(",")[0])
    assert said == ["2 images" if source == "*/*.jpg" else "3 images"] * 3


def test_output_folder_that_holds_the_images(file, here, capsys):
    """Works where outputs have other places than images; else it is refused before any work."""
    assert run(file, "ph", "--out", ".") == 0
    assert {"a.jpg", "b.jpg", "deeper/a.jpg"} <= files_in(here)
    before = {path: path.read_bytes() for path in (here / "ph").rglob("*.jpg")}
    for source, out in (("ph", "ph"), (".", "."), ("ph/a.jpg", "ph"), ("ph/deeper/*.jpg", "ph/deeper")):
        capsys.readouterr()
        assert run(file, source, "--out", out) == 1
        assert "would be written over an image that is read: name another output folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (here / "ph").rglob("*.jpg")} == before
    assert run(file, ".", "--out", "elsewhere") == 0
    assert capsys.readouterr().out.startswith("3 images")
    assert run(file, "elsewhere", "--out", "again") == 1
    assert "All 3 images in elsewhere are outputs" in capsys.readouterr().err


def test_links_and_hidden_files(here):
    (here / "ph/.hidden.jpg").write_bytes(b"")
    for name, target in (("one", "."), ("two", "."), ("deeper/up", ".."), ("alias", "deeper"), ("dead.jpg", "nowhere")):
        os.symlink(target, here / "ph" / name)
    for pattern in ("**/*", "**/*.jpg", "**"):
        found = find_files(here / "ph" / pattern, (".jpg",))
        assert len({os.path.realpath(path) for path in found.files}) == len(found.files) == 3
        assert found.hidden == 1
        assert list(found.unreadable) == [str(here / "ph/dead.jpg")]
