"""Objects in images, folders, videos: `Detector` and `localvit predict`."""

import json
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from predict_cases import NAME, files_in, published
from pycocotools.coco import COCO

from localvit.commands import predict
from localvit_det import Detector
from localvit_det.datasets.synthetic_shapes import CLASSES, make_shapes
from localvit_det.errors import CheckpointError, ConfigError, DataError, OutputError
from localvit_det.predict.output import Output
from localvit_det.predict.sources import Sources


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A published file, of a model that has learned nothing."""
    return published(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def detector(file) -> Detector:
    return Detector(file, device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=3, num_val=1, size=96)
    (root / "train2017").rename(folder := root / "images")
    (folder / "deeper").mkdir()
    content = cv2.imread(str(next(folder.glob("*.jpg"))))
    cv2.imwrite(str(folder / "deeper/small.png"), content[:64, :80])
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory, images) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 96))
    picture = cv2.imread(str(next(images.glob("*.jpg"))))
    for shift in range(5):
        writer.write(np.roll(picture, 8 * shift, axis=1))
    writer.release()
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (answer := capture.read())[0]:
        found.append(answer[1])
    return found


def run(*arguments: object) -> None:
    predict.main([*map(str, arguments), "--quiet", "--device", "cpu"])


@pytest.mark.slow
def test_import_stays_lazy():
    code = (
        "import sys, localvit_det; assert 'localvit_det.predict' not in sys.modules\n"
        "from localvit_det import Detector; assert 'localvit_det.predict' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class TestDetector:
    def test_folder(self, detector, images):
        results = list(detector.predict(images, score=0.0))
        files = sorted(path for path in images.rglob("*") if path.is_file())
        assert [Path(result.path) for result in results] == files
        for result in results:
            height, width = result.image.shape[:2]
            count = len(result)
            assert count > 0
            assert result.boxes.shape == (count, 4)
            assert result.boxes.dtype == np.float32
            assert result.masks.shape == (count, height, width)
            assert result.masks.dtype == bool
            assert list(result.scores) == sorted(result.scores, reverse=True)
            assert set(result.names) <= set(CLASSES)
            assert len(result.crops()) == count
            assert all(crop.size for crop in result.crops())
        assert all(len(one) == 0 for one in detector.predict(images, score=1.0))

    def test_as_mmdetection_infers(self, file, images):
        """The same numbers as MMDetection's own function for one image."""
        from mmdet.apis import inference_detector

        plain = Detector(file, device="cpu", fuse=False)
        assert not plain.fused
        plain.model.cfg = plain.config
        path = next(images.glob("*.jpg"))
        expected = inference_detector(plain.model, str(path)).pred_instances
        found = plain(path, score=0.0)
        np.testing.assert_allclose(found.boxes, expected.bboxes.numpy(), rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(found.labels, expected.labels.numpy())
        np.testing.assert_array_equal(found.masks, expected.masks.numpy())

    def test_fused_alike(self, file, detector, images):
        path = next(images.glob("*.jpg"))
        fused, plain = detector(path, score=0.0), Detector(file, device="cpu", fuse=False)(path, score=0.0)
        np.testing.assert_allclose(fused.scores, plain.scores, atol=1e-4)
        np.testing.assert_allclose(fused.boxes, plain.boxes, atol=1e-2)

    def test_batches_find_the_same(self, detector, images):
        single = list(detector.predict(images, score=0.0, batch_size=1))
        batches = list(detector.predict(images, score=0.0, batch_size=2))
        for one, other in zip(single, batches, strict=True):
            assert one.path == other.path
            np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)

    def test_arrays_and_lists(self, detector, images):
        path = next(images.glob("*.jpg"))
        from_file, from_array = detector.predict([path, cv2.imread(str(path))], score=0.0)
        np.testing.assert_array_equal(from_file.boxes, from_array.boxes)
        assert from_array.path == ""

    def test_plot(self, detector, images):
        result = detector(next(images.glob("*.jpg")), score=0.0)
        before = result.image.copy()
        drawn = result.plot()
        assert drawn.shape == before.shape
        assert (drawn != before).any()
        np.testing.assert_array_equal(result.image, before)

    def test_config_by_name_and_work_dir(self, file, images, tmp_path):
        content = torch.load(file, weights_only=True)
        bare = tmp_path / "bare.pth"
        torch.save({"state_dict": content["state_dict"]}, bare)
        with pytest.raises(CheckpointError, match="carries no config"):
            Detector(bare)
        assert Detector(bare, NAME, device="cpu").classes == CLASSES
        with pytest.raises(CheckpointError, match="trained for 3 classes and the model has 80"):
            Detector(bare, NAME, options={"classes": [f"c{i}" for i in range(80)]})
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            Detector(tmp_path / "..", NAME)

    def test_device(self, file):
        with pytest.raises(ConfigError, match="The device nonsense cannot be used"):
            Detector(file, device="nonsense")


class TestSources:
    @pytest.mark.parametrize("name", ["", "*.jpg", "**/*.png"])
    def test_counts(self, images, name):
        sources = Sources(str(images / name))
        assert sources.total == len(list(sources)) == {"": 4, "*.jpg": 3, "**/*.png": 1}[name]

    def test_video(self, video):
        sources = Sources(video, every=2)
        frames = list(sources)
        assert sources.total == len(frames) == 3
        assert [frame.index for frame in frames] == [0, 2, 4]
        assert frames[0].rate == 5
        assert len(list(Sources(video, limit=2))) == 2

    def test_names_meet(self, images):
        path = next(images.glob("*.jpg"))
        assert [frame.name for frame in Sources([path, path])] == [path.name, f"{path.stem}_2.jpg"]

    def test_what_was_written_is_no_source(self, images, tmp_path):
        (tmp_path / "out").mkdir()
        for place in (tmp_path / "a.jpg", tmp_path / "out/a.jpg"):
            place.write_bytes(next(images.glob("*.jpg")).read_bytes())
        assert Sources(tmp_path, without=[tmp_path / "out"]).total == 1
        assert Sources(tmp_path).total == 2

    def test_mistakes(self, tmp_path):
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

    def test_broken_files(self, images, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(b"no image")
        (tmp_path / "whole.jpg").write_bytes(next(images.glob("*.jpg")).read_bytes())
        sources = Sources(tmp_path)
        assert [frame.name for frame in sources] == ["whole.jpg"]
        assert list(sources.left_out) == ["broken.jpg"]
        with pytest.raises(DataError, match=r"broken.jpg cannot be decoded"):
            list(Sources(tmp_path / "broken.jpg"))
        (tmp_path / "broken.mp4").write_bytes(b"no video")
        with pytest.raises(DataError, match=r"broken.mp4 cannot be opened"):
            list(Sources(tmp_path / "broken.mp4"))

    def test_pixels_that_the_config_allows(self, file, images):
        path = next(images.glob("*.jpg"))
        detector = Detector(file, options={"max_pixels": 50})
        with pytest.raises(DataError, match=r"over the limit of 50 pixels \(--cfg-options max_pixels=N allows more"):
            list(detector.predict(path))
        assert len(list(detector.predict(Sources(path, max_pixels=10**6)))) == 1

    def test_address(self, images, video):
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


class TestCommand:
    def test_folder(self, file, images, tmp_path, capsys):
        out, crops, objects = tmp_path / "out", tmp_path / "crops", tmp_path / "objects.json"
        run(file, images, "--score", 0, "--out", out, "--json", objects, "--crops", crops)
        said = capsys.readouterr().out
        assert said.startswith("4 images, ")
        written = sorted(map(Path, files_in(out)))
        assert written == sorted(path.relative_to(images) for path in images.rglob("*") if path.is_file())
        assert cv2.imread(str(out / "deeper/small.png")).shape == (64, 80, 3)

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

    def test_video(self, file, video, tmp_path):
        run(file, video, "--score", 0, "--out", tmp_path / "out", "--json", tmp_path / "objects.json", "--batch", 2)
        drawn = frames_of(tmp_path / "out/clip.mp4")
        assert len(drawn) == 5
        assert all(frame.shape == (96, 96, 3) for frame in drawn)
        assert [image["frame"] for image in json.loads((tmp_path / "objects.json").read_text())["images"]] == [
            *range(5)
        ]
        assert cv2.VideoCapture(str(tmp_path / "out/clip.mp4")).get(cv2.CAP_PROP_FPS) == 10

    def test_nothing_is_found(self, file, images, tmp_path, capsys):
        run(file, images, "--score", 1, "--no-images", "--json", tmp_path / "objects.json")
        assert "nothing scores 1.0 or more" in capsys.readouterr().out
        assert json.loads((tmp_path / "objects.json").read_text())["annotations"] == []

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["none.jpg"], "There is no file"),
            (["--score", "3", "x"], "--score 3"),
            (["--every", "0", "x"], "--every 0"),
        ],
    )
    def test_mistakes(self, arguments, sentence, file, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            run(file, *arguments)
        assert stop.value.code == 1
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "predictions").exists()

    def test_images_are_not_written_over(self, detector, images):
        with Output(images, classes=CLASSES) as output, pytest.raises(OutputError, match="written over"):
            output.add(detector(next(images.glob("*.jpg"))))
