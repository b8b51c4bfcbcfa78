"""One bad item is named and left out; what is found is on the disk at any moment."""

import copy
import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predict_cases import files_in, picture, published, run, write_image, write_video

from localvit_det import Detector
from localvit_det.errors import ConfigError, DataError, UserError
from localvit_det.predict.coco_file import CocoFile, assemble, partial_of
from localvit_det.predict.sources import Sources

BAD = {
    "thin.png": "1600 x 2 pixels) does not pass the test pipeline",
    "broken.jpg": "cannot be decoded",
    "line\nbreak.jpg": "line break.jpg cannot be decoded",
    "broken.mp4": "cannot be opened",
    "photo.heic": "no decoder here",
    "dead.jpg": "it is a link to nothing",
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return published(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def detector(file):
    return Detector(file, device="cpu", options={"model.test_cfg.rcnn.max_per_img": 5})


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
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr("localvit_det.predict.sources.print_log", lambda text, *_: lines.append(text))
    return lines


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def images_of(path: Path) -> list[str]:
    content = json.loads(path.read_text())
    assert len(content["annotations"]) == 5 * len(content["images"])
    return [image["file_name"] for image in content["images"]]


def test_bad_items_in_a_folder(file, folder, tmp_path, capsys, logged):
    """As many images in the JSON as there are sources, less the named ones."""
    assert run(file, folder, "--out", tmp_path / "out", "--json", tmp_path / "o.json") == 3
    assert images_of(tmp_path / "o.json") == ["a.jpg", "m.png", "z.avif"]
    assert files_in(tmp_path / "out") == {"a.jpg", "m.png", "z.jpg"}
    for name, why in BAD.items():
        assert any(name.replace("\n", " ") in line and why in line for line in logged), name
    assert capsys.readouterr().out.splitlines()[-1].startswith("left out, wholly or in part: 6 (")


@pytest.mark.parametrize("name", [name for name in BAD if name != "dead.jpg"])
def test_bad_item_alone(file, folder, tmp_path, capfd, name):
    assert run(file, folder / name, "--out", tmp_path / "out", "--json", tmp_path / "o.json") == 1
    assert BAD[name].rpartition(") ")[2] in capfd.readouterr().err
    assert images_of(tmp_path / "o.json") == []


def test_dead_address_among_others(file, folder, tmp_path, monkeypatch):
    def fetch(address, *_, **__):
        if "dead" in address:
            raise DataError(f"{address} could not be downloaded (timed out): check address and network.")
        return folder / "a.jpg"

    monkeypatch.setattr("localvit_det.predict.sources.download", fetch)
    addresses = [f"https://example.org/{name}" for name in ("1.jpg", "dead.jpg", "%2Ftmp%2F2.jpg", "3.jpg?x=/4.jpg")]
    assert run(file, *addresses, "--out", tmp_path / "out", "--json", tmp_path / "o.json") == 3
    assert images_of(tmp_path / "o.json") == ["1.jpg", "2.jpg", "3.jpg"]
    assert files_in(tmp_path / "out") == {"1.jpg", "2.jpg", "3.jpg"}


def test_video_that_ends_early(file, tmp_path, capsys):
    write_video(tmp_path / "clip.avi", 30)
    content = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(content[: len(content) // 2])
    assert run(file, tmp_path / "clip.avi", "--out", tmp_path / "out", "--json", tmp_path / "o.json") == 3
    assert 10 < len(images_of(tmp_path / "o.json")) < 20
    assert "left out, wholly or in part: 1 (clip.avi)" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["tif", "webp", "png", "avif", "gif"])
def test_pages(tmp_path, suffix):
    pages = [Image.fromarray(np.full((64, 64, 3), 60 * index, np.uint8)) for index in range(1, 4)]
    pages[0].save(tmp_path / f"p.{suffix}", save_all=True, append_images=pages[1:], duration=100)
    frames = list(Sources(tmp_path / f"p.{suffix}"))
    assert [frame.index for frame in frames] == [0, 1, 2]
    np.testing.assert_allclose([frame.image.mean() for frame in frames], [60, 120, 180], atol=6)
    assert frames[0].rate == (1 if suffix == "tif" else 10)
    assert [frame.index for frame in Sources(tmp_path / f"p.{suffix}", every=2)] == [0, 2]


def test_full_disk(file, folder, tmp_path, monkeypatch, logged):
    """For a while: what could not be written is named; nothing of it is left."""
    for path in [*folder.iterdir()]:
        if path.name not in ("a.jpg", "m.png", "z.avif"):
            path.unlink()
    real = os.replace

    def replace(source, target):
        if "m_" in str(target):  # a crop
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    out, crops = tmp_path / "out", tmp_path / "crops"
    assert run(file, folder, "--out", out, "--crops", crops, "--json", tmp_path / "o.json") == 3
    assert images_of(tmp_path / "o.json") == ["a.jpg", "z.avif"]
    assert files_in(out) == {"a.jpg", "z.jpg"}
    assert len(files_in(crops)) == 10
    assert "m.png is not written (No space left on device)" in logged[-1]


def test_no_room_for_the_json(file, folder, tmp_path, monkeypatch, capsys):
    """All lines are kept, and the next run makes a file of them."""
    target = tmp_path / "o.json"
    with monkeypatch.context() as patch:
        patch.setattr("localvit_det.predict.coco_file.atomic_file", full_disk)
        assert run(file, folder / "a.jpg", "--no-images", "--json", target) == 1
    assert "all objects are in" in capsys.readouterr().err
    assert run(file, folder / "m.png", "--no-images", "--json", target) == 0
    assert images_of(target) == ["m.png"]
    assert images_of(tmp_path / "o.recovered_1.json") == ["a.jpg"]
    assert not partial_of(target).exists()


def test_half_a_line(file, folder, tmp_path):
    """A disk that fills in the middle of a line, and a kill there."""
    target = tmp_path / "o.json"
    writer = CocoFile(target, ("a",))

    class Stream:
        def __init__(self, stream):
            self.stream, self.room = stream, 5

        def write(self, content):
            if not self.room:
                raise OSError(errno.ENOSPC, "full")
            self.room, part = 0, content[: self.room]
            return self.stream.write(part)

        def __getattr__(self, name):
            return getattr(self.stream, name)

    whole = partial_of(target).read_bytes()
    stream, writer._stream = writer._stream, Stream(writer._stream)
    with pytest.raises(OSError, match="full"):
        writer._write({"image": {}, "annotations": []})
    assert partial_of(target).read_bytes() == whole
    writer._stream = stream
    writer._write({"image": {"id": 1}, "annotations": []})
    with open(partial_of(target), "ab") as more:
        more.write(b'{"image": {"id": 2}, "anno')
    assemble(partial_of(target), tmp_path / "kept.json")
    assert json.loads((tmp_path / "kept.json").read_text())["images"] == [{"id": 1}]


@pytest.mark.slow
def test_killed(file, folder, tmp_path):
    """Whatever was found before the kill is in the file of the next run."""
    code = (
        "import os, signal\nfrom localvit.commands import predict\nfrom localvit_det.predict.output import Output\n"
        "real, count = Output.add, []\n"
        "def add(self, result):\n"
        "    real(self, result)\n    count.append(1)\n    len(count) == 2 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "Output.add = add\n"
    )
    arguments = [str(file), str(folder), "--no-images", "--json", str(tmp_path / "o.json"), "--score", "0"]
    arguments += ["--cfg-options", "model.test_cfg.rcnn.max_per_img=5"]
    done = subprocess.run([sys.executable, "-c", f"{code}predict.main({arguments})"], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    run(file, folder / "z.avif", "--no-images", "--json", tmp_path / "o.json")
    assert images_of(tmp_path / "o.recovered_1.json") == ["a.jpg", "m.png"]


def test_ctrl_c_loses_no_batch(detector, monkeypatch):
    def frames(self):
        yield from list(self._items)
        raise KeyboardInterrupt

    sources = Sources([picture(), picture()])
    items = list(sources)
    monkeypatch.setattr(Sources, "__iter__", lambda _: frames(type("S", (), {"_items": items})))
    results = detector.predict(sources, 0.0, batch_size=8)
    assert [len(next(results)) for _ in items] == [5, 5]
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_batch_with_one_that_fails(detector, monkeypatch):
    """The others of its batch are found, and the same as without it."""
    real = detector.model.test_step

    def test_step(data):
        if any(sample.img_id == 0 and (image == 7).all() for image, sample in zip(*data.values(), strict=True)):
            raise RuntimeError("bad image")
        return real(data)

    monkeypatch.setattr(detector.model, "test_step", test_step)
    bad = np.full((64, 64, 3), 7, np.uint8)
    sources = Sources([picture(0), bad, picture(1)])
    found = list(detector.predict(sources, 0.0, batch_size=8))
    assert [result.frame.name for result in found] == ["array.png", "array_3.png"]
    assert list(sources.left_out.values()) == [
        "array_2.png (64 x 64 pixels) makes the detector fail (RuntimeError: bad image)"
    ]
    np.testing.assert_allclose(found[1].scores, detector(picture(1), 0.0).scores, atol=1e-4)
    with pytest.raises(DataError, match="bad image"):
        detector(bad)


def test_generators_and_pil(detector, folder):
    image = Image.fromarray(picture()[..., ::-1])
    given = (one for one in (picture(), np.zeros((1, 3000, 3), np.uint8), None, image, str(folder / "broken.jpg")))
    sources = Sources(given)
    first, second = detector.predict(sources, 0.0)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert list(sources.left_out) == ["array_2.png", "source 3", "broken.jpg"]


@pytest.mark.parametrize(
    "source",
    [
        *(None, True, -1, 1.5, {}, [], "", "a\0b", [None], torch.zeros(3, 4, 4), [torch.zeros(3, 4, 4)]),
        *(np.zeros((0, 0, 3), np.uint8), np.zeros((1, 3000, 3), np.uint8), Image.new("RGB", (0, 5))),
    ],
    ids=lambda source: type(source).__name__,
)
def test_what_is_no_image_ends_in_a_sentence(detector, source):
    with pytest.raises(DataError, match="give"):
        detector(source)


@pytest.mark.parametrize("settings", [{"score": float("nan")}, {"score": None}, {"score": 3}, {"batch_size": 0}])
def test_what_is_no_score(detector, settings):
    with pytest.raises(ConfigError, match="give a"):
        detector.predict(picture(), **settings)


def test_threads_with_scores_of_their_own(detector):
    image = picture()
    scores = sorted(detector(image, 0.0).scores.tolist())
    bounds = [0.0, *(low + (high - low) / 2 for low, high in pairwise(scores))]
    expected = {bound: len(detector(image, bound)) for bound in bounds}
    assert len(set(expected.values())) > 2
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda bound: (bound, len(detector(image, bound))), bounds * 4))
    assert all(expected[bound] == count for bound, count in found)
    assert all(settings["score_thr"] == bound for settings, bound in detector._bounds)
    assert len(copy.deepcopy(detector)(image, 0.0)) == 5  # has a lock of its own


def test_errors_are_the_users(detector, folder, tmp_path):
    with pytest.raises(UserError):
        list(detector.predict([str(folder / "a.jpg"), str(tmp_path / "typo.jpg")]))
