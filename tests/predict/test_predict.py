"""Find objects with `Detector`."""

import copy
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from predict_cases import NAME, picture

from localvit_det import Detector
from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.errors import CheckpointError, ConfigError, DataError
from localvit_det.predict.sources import Sources


@pytest.fixture(scope="module")
def detector(published_file) -> Detector:
    return Detector(published_file, device="cpu")


@pytest.fixture(scope="module")
def brief(published_file) -> Detector:
    """A detector of five objects in every image."""
    return Detector(published_file, device="cpu", options={"model.test_cfg.rcnn.max_per_img": 5})


def test_folder(detector, images):
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


def test_as_mmdetection_infers(published_file, images):
    """The same numbers as MMDetection's own function for one image."""
    from mmdet.apis import inference_detector

    plain = Detector(published_file, device="cpu", fuse=False)
    assert not plain.fused
    plain.model.cfg = plain.config
    path = next(images.glob("*.jpg"))
    expected = inference_detector(plain.model, str(path)).pred_instances
    found = plain(path, score=0.0)
    np.testing.assert_allclose(found.boxes, expected.bboxes.numpy(), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.labels, expected.labels.numpy())
    np.testing.assert_array_equal(found.masks, expected.masks.numpy())


def test_fused_alike(published_file, detector, images):
    path = next(images.glob("*.jpg"))
    fused, plain = detector(path, score=0.0), Detector(published_file, device="cpu", fuse=False)(path, score=0.0)
    np.testing.assert_allclose(fused.scores, plain.scores, atol=1e-4)
    np.testing.assert_allclose(fused.boxes, plain.boxes, atol=1e-2)


def test_batches_find_the_same(detector, images):
    single = list(detector.predict(images, score=0.0, batch_size=1))
    batches = list(detector.predict(images, score=0.0, batch_size=2))
    for one, other in zip(single, batches, strict=True):
        assert one.path == other.path
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_arrays_and_lists(detector, images):
    path = next(images.glob("*.jpg"))
    from_file, from_array = detector.predict([path, cv2.imread(str(path))], score=0.0)
    np.testing.assert_array_equal(from_file.boxes, from_array.boxes)
    assert from_array.path == ""


def test_plot(detector, images):
    result = detector(next(images.glob("*.jpg")), score=0.0)
    before = result.image.copy()
    drawn = result.plot()
    assert drawn.shape == (5 * 96, 5 * 96, 3)  # a small image, so that texts can be read
    assert (drawn != cv2.resize(before, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)).any()
    np.testing.assert_array_equal(result.image, before)


def test_config_by_name_and_work_dir(published_file, images, tmp_path):
    content = torch.load(published_file, weights_only=True)
    bare = tmp_path / "bare.pth"
    torch.save({"state_dict": content["state_dict"]}, bare)
    with pytest.raises(CheckpointError, match="carries no config"):
        Detector(bare)
    assert Detector(bare, NAME, device="cpu").classes == CLASSES
    with pytest.raises(CheckpointError, match="trained for 3 classes and the model has 80"):
        Detector(bare, NAME, options={"classes": [f"c{i}" for i in range(80)]})
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        Detector(tmp_path / "..", NAME)


def test_device(published_file):
    with pytest.raises(ConfigError, match="The device nonsense cannot be used"):
        Detector(published_file, device="nonsense")


def test_ctrl_c_loses_no_batch(brief, monkeypatch):
    def frames(self):
        yield from list(self._items)
        raise KeyboardInterrupt

    sources = Sources([picture(), picture()])
    items = list(sources)
    monkeypatch.setattr(Sources, "__iter__", lambda _: frames(type("S", (), {"_items": items})))
    results = brief.predict(sources, 0.0, batch_size=8)
    assert [len(next(results)) for _ in items] == [5, 5]
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_batch_with_one_that_fails(brief, monkeypatch):
    """The others of its batch are found, and the same as without it."""
    real = brief.model.test_step

    def test_step(data):
        if any(sample.img_id == 0 and (image == 7).all() for image, sample in zip(*data.values(), strict=True)):
            raise RuntimeError("bad image")
        return real(data)

    monkeypatch.setattr(brief.model, "test_step", test_step)
    bad = np.full((64, 64, 3), 7, np.uint8)
    sources = Sources([picture(0), bad, picture(1)])
    found = list(brief.predict(sources, 0.0, batch_size=8))
    assert [result.frame.name for result in found] == ["array.png", "array_3.png"]
    assert list(sources.left_out.values()) == [
        "array_2.png (64 x 64 pixels) makes the detector fail (RuntimeError: bad image)"
    ]
    np.testing.assert_allclose(found[1].scores, brief(picture(1), 0.0).scores, atol=1e-4)
    with pytest.raises(DataError, match="bad image"):
        brief(bad)


def test_generators_and_pil(brief, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    image = Image.fromarray(picture()[..., ::-1])
    given = (one for one in (picture(), np.zeros((1, 3000, 3), np.uint8), None, image, str(tmp_path / "broken.jpg")))
    sources = Sources(given)
    first, second = brief.predict(sources, 0.0)
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
def test_what_is_no_image_ends_in_a_sentence(brief, source):
    with pytest.raises(DataError, match="give"):
        brief(source)


@pytest.mark.parametrize("settings", [{"score": float("nan")}, {"score": None}, {"score": 3}, {"batch_size": 0}])
def test_what_is_no_score(brief, settings):
    with pytest.raises(ConfigError, match="give a"):
        brief.predict(picture(), **settings)


def test_threads_with_scores_of_their_own(brief):
    image = picture()
    scores = sorted(brief(image, 0.0).scores.tolist())
    bounds = [0.0, *(low + (high - low) / 2 for low, high in pairwise(scores))]
    expected = {bound: len(brief(image, bound)) for bound in bounds}
    assert len(set(expected.values())) > 2
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda bound: (bound, len(brief(image, bound))), bounds * 4))
    assert all(expected[bound] == count for bound, count in found)
    assert all(settings["score_thr"] == bound for settings, bound in brief._bounds)
    assert len(copy.deepcopy(brief)(image, 0.0)) == 5  # has a lock of its own
