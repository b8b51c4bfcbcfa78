"""Take images from wherever they are; name one that cannot be used, and leave it out."""

import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import cv2
import numpy as np
import pytest
from PIL import Image
from predict_cases import files_in, images_of, run, write_image, write_video

from localvit_det import Detector
from localvit_det.errors import DataError
from localvit_det.predict.sources import Sources, find_files

BAD = {
    "thin.png": "1600 x 2 pixels) does not pass the test pipeline",
    "broken.jpg": "cannot be decoded",
    "line\nbreak.jpg": "line break.jpg cannot be decoded",
    "broken.mp4": "cannot be opened",
    "photo.heic": "no decoder here",
    "dead.jpg": "it is a link to nothing",
}


@pytest.fixture
def folder(tmp_path):
    """Three good images between bad ones."""
    folder = tmp_path / "ph"
    for name in ("a.jpg", "m.png", "z.avif"):
        write_image(folder / name)
    for name in set(BAD) - {"thin.png", "dead.jpg"}:
        (folder / name).write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 99 if name == "photo.heic" else b"nothing")
    Image.new("RGB", (1600, 2)).save(folder / "thin.png")
    os.symlink("nowhere", folder / "dead.jpg")
    return folder


@pytest.fixture
def log_lines(monkeypatch):
    lines = []
    monkeypatch.setattr("localvit_det.predict.sources.print_log", lambda text, *_: lines.append(text))
    return lines


@pytest.mark.parametrize("name", ["", "*.jpg", "**/*.png"])
def test_counts(images, name):
    sources = Sources(str(images / name))
    assert sources.total == len(list(sources)) == {"": 4, "*.jpg": 3, "**/*.png": 1}[name]


def test_video(video):
    sources = Sources(video, every=2)
    frames = list(sources)
    assert sources.total == len(frames) == 3
    assert [frame.index for frame in frames] == [0, 2, 4]
    assert frames[0].rate == 5
    assert len(list(Sources(video, limit=2))) == 2


def test_names_meet(images):
    path = next(images.glob("*.jpg"))
    assert [frame.name for frame in Sources([path, path])] == [path.name, f"{path.stem}_2.jpg"]


def test_what_was_written_is_no_source(images, tmp_path):
    (tmp_path / "out").mkdir()
    for place in (tmp_path / "a.jpg", tmp_path / "out/a.jpg"):
        place.write_bytes(next(images.glob("*.jpg")).read_bytes())
    assert Sources(tmp_path, without=[tmp_path / "out"]).total == 1
    assert Sources(tmp_path).total == 2


def test_mistakes(tmp_path):
    (tmp_path / "empty").mkdir()
    for source, sentence in (
        (tmp_path / "none.jpg", "There is no file or folder .*holds empty/"),
        (tmp_path / "empty", "There is no image or video in"),
        (str(tmp_path / "*.jpg"), "There is no image or video in"),
        ("ftp://somewhere/image.jpg", "give a file, a folder, or an https address"),
        (np.zeros((4, 4)), r"shape \(4, 4\)"),
    ):
        with pytest.raises(DataError, match=sentence):
            Sources(source)


def test_pixels_that_the_config_allows(published_file, images):
    path = next(images.glob("*.jpg"))
    detector = Detector(published_file, options={"max_pixels": 50})
    with pytest.raises(DataError, match=r"over the limit of 50 pixels \(--cfg-options max_pixels=N allows more"):
        list(detector.predict(path))
    assert len(list(detector.predict(Sources(path, max_pixels=10**6)))) == 1


def test_address(images, video):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = images.parent
    (folder / "page.html").write_text("<html></html>")
    (folder / "clip.avi").write_bytes(video.read_bytes())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        path = next(images.glob("*.jpg"))
        (frame,) = Sources(f"{root}/images/{path.name}")
        np.testing.assert_array_equal(frame.image, cv2.imread(str(path)))
        assert len(list(Sources(f"{root}/clip.avi"))) == 5
        for name, sentence in (("page.html", "is a web page"), ("absent.jpg", "could not be downloaded")):
            with pytest.raises(DataError, match=sentence):
                list(Sources(f"{root}/{name}"))
        server.shutdown()
    with pytest.raises(DataError, match="not encrypted"):
        list(Sources("http://example.org/image.jpg"))


def test_links_and_hidden_files(tmp_path):
    write_image(tmp_path / "ph/a.jpg")
    write_image(tmp_path / "ph/b.jpg")
    write_image(tmp_path / "ph/deeper/a.jpg")
    (tmp_path / "ph/.hidden.jpg").write_bytes(b"")
    for name, target in (("one", "."), ("two", "."), ("deeper/up", ".."), ("alias", "deeper"), ("dead.jpg", "nowhere")):
        os.symlink(target, tmp_path / "ph" / name)
    for pattern in ("**/*", "**/*.jpg", "**"):
        found = find_files(tmp_path / "ph" / pattern, (".jpg",))
        assert len({os.path.realpath(path) for path in found.files}) == len(found.files) == 3
        assert found.hidden == 1
        assert list(found.unreadable) == [str(tmp_path / "ph/dead.jpg")]


def test_bad_items_in_a_folder(published_file, folder, tmp_path, capsys, log_lines):
    """As many images in the JSON as there are sources, less the named ones."""
    assert run(published_file, folder, "--out", tmp_path / "out", "--json", tmp_path / "o.json") == 3
    assert images_of(tmp_path / "o.json") == ["a.jpg", "m.png", "z.avif"]
    assert files_in(tmp_path / "out") == {"a.jpg", "m.png", "z.jpg"}
    for name, why in BAD.items():
        assert any(name.replace("\n", " ") in line and why in line for line in log_lines), name
    assert capsys.readouterr().out.splitlines()[-1].startswith("left out, wholly or in part: 6 (")


@pytest.mark.parametrize("name", [name for name in BAD if name != "dead.jpg"])
def test_bad_item_alone(published_file, folder, tmp_path, capfd, name):
    assert run(published_file, folder / name, "--out", tmp_path / "out", "--json", tmp_path / "o.json") == 1
    assert BAD[name].rpartition(") ")[2] in capfd.readouterr().err
    assert images_of(tmp_path / "o.json") == []


def test_dead_address_among_others(published_file, folder, tmp_path, monkeypatch):
    def fetch(address, *_, **__):
        if "dead" in address:
            raise DataError(f"{address} could not be downloaded (timed out): check address and network.")
        return folder / "a.jpg"

    monkeypatch.setattr("localvit_det.predict.sources.download", fetch)
    addresses = [f"https://example.org/{name}" for name in ("1.jpg", "dead.jpg", "%2Ftmp%2F2.jpg", "3.jpg?x=/4.jpg")]
    assert run(published_file, *addresses, "--out", tmp_path / "out", "--json", tmp_path / "o.json") == 3
    assert images_of(tmp_path / "o.json") == ["1.jpg", "2.jpg", "3.jpg"]
    assert files_in(tmp_path / "out") == {"1.jpg", "2.jpg", "3.jpg"}


def test_video_that_ends_early(published_file, tmp_path, capsys):
    write_video(tmp_path / "clip.avi", 30)
    content = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(content[: len(content) // 2])
    assert run(published_file, tmp_path / "clip.avi", "--out", tmp_path / "out", "--json", tmp_path / "o.json") == 3
    assert 10 < len(images_of(tmp_path / "o.json")) < 20
    assert "left out, wholly or in part: 1 (clip.avi)" in capsys.readouterr().out
