"""Write what was found: one output a source, never over an image, and whole or not at all."""

import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import few
from predict_cases import files_in, images_of, run, write_image, write_video
from pycocotools.coco import COCO

from localvit_det import Detector
from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.errors import OutputError
from localvit_det.predict.output import Output

NAMES = ("a.jpg", "a.JPG", "a.jp2", "a.ppm", "a.png", "a b/x.jpg", "sub/x.jpg", "sub_x.jpg", "clip_000001.jpg")
PLAIN = ("--quiet", "--device", "cpu")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with images in ph/."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "deeper/a.jpg"):
        write_image(tmp_path / "ph" / name)
    return tmp_path


def frames_of(path: Path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (answer := capture.read())[0]:
        found.append(answer[1])
    return found


def test_drawn_images_crops_and_json(published_file, images, tmp_path, capsys):
    out, crops, objects = tmp_path / "out", tmp_path / "crops", tmp_path / "objects.json"
    run(published_file, images, "--score", 0, "--out", out, "--json", objects, "--crops", crops, options=PLAIN)
    said = capsys.readouterr().out
    assert said.startswith("4 images, ")
    written = sorted(map(Path, files_in(out)))
    assert written == sorted(path.relative_to(images) for path in images.rglob("*") if path.is_file())
    assert cv2.imread(str(out / "deeper/small.png")).shape == (6 * 64, 6 * 80, 3)  # legible

    content = json.loads(objects.read_text())
    coco = COCO(str(objects))
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    assert {image["file_name"] for image in content["images"]} == {path.as_posix() for path in written}
    first = content["annotations"][0]
    assert coco.annToMask(first).sum() == first["area"]
    assert len(coco.loadRes(content["annotations"]).anns) == len(content["annotations"])
    assert f"{len(content['annotations'])} objects" in said
    assert len(list(crops.rglob("*.jpg"))) == len(content["annotations"])
    assert {path.parent.name for path in crops.rglob("*.jpg")} <= set(CLASSES)


def test_drawn_video(published_file, video, tmp_path):
    run(
        published_file,
        video,
        "--score",
        0,
        "--out",
        tmp_path / "out",
        "--json",
        tmp_path / "objects.json",
        "--batch",
        2,
        options=PLAIN,
    )
    drawn = frames_of(tmp_path / "out/clip.mp4")
    assert len(drawn) == 5
    assert all(frame.shape == (5 * 96, 5 * 96, 3) for frame in drawn)
    assert [image["frame"] for image in json.loads((tmp_path / "objects.json").read_text())["images"]] == [*range(5)]
    assert cv2.VideoCapture(str(tmp_path / "out/clip.mp4")).get(cv2.CAP_PROP_FPS) == 10


def test_nothing_is_found(published_file, images, tmp_path, capsys):
    run(published_file, images, "--score", 1, "--no-images", "--json", tmp_path / "objects.json", options=PLAIN)
    assert "nothing scores 1.0 or more" in capsys.readouterr().out
    assert json.loads((tmp_path / "objects.json").read_text())["annotations"] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.jpg"], "none.jpg does not exist"),
        (["--score", "3", "x"], "--score 3"),
        (["--every", "0", "x"], "--every 0"),
    ],
)
def test_mistakes(arguments, sentence, published_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(published_file, *arguments, options=PLAIN) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "predictions").exists()


def test_images_are_not_written_over(published_file, images):
    with Output(images, classes=CLASSES) as output, pytest.raises(OutputError, match="written over"):
        output.add(Detector(published_file, device="cpu")(next(images.glob("*.jpg"))))


def test_same_stems(published_file, tmp_path):
    """As many files as sources, as many crops as objects, and the same names in every run."""
    for name in NAMES:
        write_image(tmp_path / "ph" / name)
    for name, codec in (("clip.mp4", "mp4v"), ("clip.avi", "MJPG"), ("clip.mov", "mp4v")):
        write_video(tmp_path / "ph" / name, 2, codec)
    out, crops, objects = tmp_path / "out", tmp_path / "crops", tmp_path / "o.json"
    for _ in range(2):
        assert run(published_file, tmp_path / "ph", "--out", out, "--crops", crops, "--json", objects) == 0
        content = json.loads(objects.read_text())
        assert len({image["file_name"] for image in content["images"]}) == len(NAMES) + 3
        assert len(content["images"]) == len(NAMES) + 3 * 2
        assert len(files_in(crops)) == len(content["annotations"]) == 5 * len(content["images"])
        assert files_in(out) == {
            *("a.jpg", "a_JPG.jpg", "a_jp2.jpg", "a_ppm.jpg", "a.png", "a b/x.jpg", "sub/x.jpg", "sub_x.jpg"),
            *("clip_000001.jpg", "clip.mp4", "clip_avi.mp4", "clip_mov.mp4"),
        }


@pytest.mark.parametrize("source", few(["ph", ".", "**/*.jpg", "*/*.jpg"], "ph"))
def test_outputs_of_earlier_runs_are_no_sources(published_file, here, source, capsys):
    said = []
    for out, crops in (("ph/found", "ph/found/crops"), ("other", "crops"), ("third", "ph/more")):
        assert run(published_file, source, "--out", out, "--crops", crops) == 0
        said.append(capsys.readouterr().out.split(",")[0])
    assert said == ["2 images" if source == "*/*.jpg" else "3 images"] * 3


@pytest.mark.slow
def test_output_folder_that_holds_the_images(published_file, here, capsys):
    """Works where outputs have other places than images; else it is refused before any work."""
    assert run(published_file, "ph", "--out", ".") == 0
    assert {"a.jpg", "b.jpg", "deeper/a.jpg"} <= files_in(here)
    before = {path: path.read_bytes() for path in (here / "ph").rglob("*.jpg")}
    for source, out in (("ph", "ph"), (".", "."), ("ph/a.jpg", "ph"), ("ph/deeper/*.jpg", "ph/deeper")):
        capsys.readouterr()
        assert run(published_file, source, "--out", out) == 1
        assert "would be written over an image that is read: name another output folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (here / "ph").rglob("*.jpg")} == before
    assert run(published_file, ".", "--out", "elsewhere") == 0
    assert capsys.readouterr().out.startswith("3 images")
    assert run(published_file, "elsewhere", "--out", "again") == 1
    assert "All 3 images in elsewhere are outputs" in capsys.readouterr().err


def test_full_disk(published_file, tmp_path, monkeypatch):
    """For a while: what could not be written is named; nothing of it is left."""
    lines: list[str] = []
    monkeypatch.setattr("localvit_det.predict.sources.print_log", lambda text, *_: lines.append(text))
    for name in ("a.jpg", "m.png", "z.avif"):
        write_image(tmp_path / "ph" / name)
    real = os.replace

    def replace(source, target):
        if "m_" in str(target):  # a crop
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    out, crops = tmp_path / "out", tmp_path / "crops"
    assert run(published_file, tmp_path / "ph", "--out", out, "--crops", crops, "--json", tmp_path / "o.json") == 3
    assert images_of(tmp_path / "o.json") == ["a.jpg", "z.avif"]
    assert files_in(out) == {"a.jpg", "z.jpg"}
    assert len(files_in(crops)) == 10
    assert "m.png is not written (No space left on device)" in lines[-1]
