"""Large images in tiles: all of them is seen, and an object on a border is one object."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from predict_cases import files_in, run

from localvit_det import Detector
from localvit_det.datasets.converters import yolo
from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.errors import ConfigError
from localvit_det.predict.result import OVERLAP, Frame, Result, cut, join


@pytest.fixture(scope="module")
def detector(published_file) -> Detector:
    return Detector(published_file, device="cpu", options={"model.test_cfg.rcnn.max_per_img": 20})


def found_in(frame: Frame, truth: np.ndarray) -> Result:
    """What a perfect detector finds: each object's part in a tile, with the share of the object for a score.

    Args:
        truth: (H, W), numbers of objects from 1 on; those from 10 on are of another class.
    """
    left, top = getattr(frame, "left", 0), getattr(frame, "top", 0)
    height, width = frame.image.shape[:2]
    window = truth[top : top + height, left : left + width]
    numbers = [number for number in np.unique(window) if number]
    masks = np.array([window == number for number in numbers], bool).reshape(-1, height, width)
    places = [np.nonzero(mask) for mask in masks]
    boxes = [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in places]
    scores = [mask.sum() / (truth == number).sum() for mask, number in zip(masks, numbers, strict=True)]
    order = np.argsort(-np.array(scores, np.float32), kind="stable")
    return Result(
        frame,
        np.array(boxes, np.float32).reshape(-1, 4)[order],
        np.array(scores, np.float32)[order],
        np.array([number // 10 for number in numbers], np.int64)[order],
        masks[order],
        CLASSES,
    )


@pytest.mark.parametrize("shape", [(100, 100), (100, 260), (777, 501), (101, 99), (20, 400)])
def test_tiles_cover_the_image(shape):
    seen = np.zeros(shape, int)
    image = np.zeros((*shape, 3), np.uint8)
    whole, *tiles = cut(Frame(image, "", "a.jpg"), 100)
    assert whole.image.shape == image.shape
    assert bool(tiles) == (max(shape) > 100)
    for tile in tiles:
        height, width = tile.image.shape[:2]
        assert (height, width) == (min(100, shape[0]), min(100, shape[1]))
        seen[tile.top : tile.top + height, tile.left : tile.left + width] += 1
    assert not tiles or seen.min() >= 1
    for name, length in (("left", shape[1]), ("top", shape[0])):
        starts = sorted({getattr(tile, name) for tile in tiles})
        assert all(b - a <= 100 * (1 - OVERLAP) + 1 for a, b in pairwise(starts))
        assert not starts or starts[-1] == max(0, length - 100)


@pytest.mark.parametrize("certainty", [1.0, 0.1])
def test_each_object_is_found_once_and_whole(certainty):
    """Small ones in two tiles, one over all tiles, two of other classes at one place, two that touch each other."""
    truth = np.zeros((250, 250), int)
    truth[5:15, 5:15] = 1
    truth[70:95, 70:95] = 2  # in the overlap of four tiles
    truth[120:140, 10:240] = 3  # wider than a tile
    truth[200:220, 30:50], truth[200:220, 50:70] = 4, 5
    truth[160:180, 160:180] = 10
    frame = Frame(np.zeros((250, 250, 3), np.uint8), "", "a.jpg")
    tiles = list(cut(frame, 100))
    whole, *parts = (found_in(tile, truth) for tile in tiles)
    result = join(frame, [replace(whole, scores=whole.scores * np.float32(certainty)), *parts])
    assert len(result) == 6
    assert list(result.scores) == sorted(result.scores, reverse=True)
    drawn = np.zeros_like(truth)
    for mask, box, label in zip(result.masks, result.boxes, result.labels, strict=True):
        (number,) = np.unique(truth[mask])
        assert label == number // 10
        drawn[mask] = number
        rows, columns = np.nonzero(truth == number)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_array_equal(drawn, truth)


def test_an_object_at_the_place_of_another_class_stays():
    frame = Frame(np.zeros((50, 50, 3), np.uint8), "", "a.jpg")
    one, other = np.zeros((50, 50), int), np.zeros((50, 50), int)
    one[10:20, 10:20], other[10:20, 10:20] = 1, 10
    assert sorted(join(frame, [found_in(frame, one), found_in(frame, other)]).labels) == [0, 1]
    assert len(join(frame, [found_in(frame, one), found_in(frame, one)])) == 1
    assert len(join(frame, [found_in(frame, one * 0)])) == 0


def test_a_small_image_is_one_tile(detector, images):
    path = next(images.glob("*.jpg"))
    (plain,), (tiled,) = (list(detector.predict(path, score=0, tile=tile)) for tile in (None, 4096))
    np.testing.assert_array_equal(tiled.boxes, plain.boxes)
    np.testing.assert_array_equal(tiled.masks, plain.masks)


def test_a_large_image(detector):
    image = np.random.default_rng(0).integers(0, 255, (130, 200, 3), np.uint8)
    (result,) = detector.predict(image, score=0, tile=100, batch_size=4)
    assert result.image.shape == image.shape
    assert result.masks.shape == (len(result), 130, 200)
    assert 0 < len(result) <= 7 * 20
    assert result.boxes[:, [0, 2]].max() > 100


def test_classes_and_number_of_objects(detector, images):
    path = next(images.glob("*.jpg"))
    everything = detector(path, score=0)
    for label, wanted in enumerate(CLASSES):
        for name in (wanted, label, str(label)):
            (some,) = detector.predict(path, score=0, classes=[name])
            np.testing.assert_array_equal(some.scores, everything.scores[everything.labels == label])
            assert set(some.names) <= {wanted}
            assert some.masks.shape[0] == len(some)
    (best,) = detector.predict(path, score=0, max_det=3)
    np.testing.assert_array_equal(best.boxes, everything.boxes[:3])
    with pytest.raises(ConfigError, match=f"no class {CLASSES[0]}s .did you mean '{CLASSES[0]}'"):
        detector.predict(path, classes=[f"{CLASSES[0]}s"])
    for wrong in ({"max_det": 0}, {"tile": 8}, {"tile": 100.5}):
        with pytest.raises(ConfigError, match="makes no sense: give a whole number from"):
            detector.predict(path, **wrong)


def test_labels_of_yolo_are_read_as_they_were_found(published_file, images, tmp_path, capsys):
    run(published_file, images, "--out", tmp_path / "out", "--save-txt")
    assert len(files_in(tmp_path / "out/labels")) == len(list(images.rglob("*.*")))
    assert str(tmp_path / "out/labels") in capsys.readouterr().out
    mask = np.zeros((40, 60), np.uint8)
    cv2.ellipse(mask, (30, 20), (20, 10), 0, 0, 360, 1, -1)
    box = np.array([[10, 10, 51, 31]], np.float32)
    frame = Frame(np.zeros((40, 60, 3), np.uint8), "", "a.jpg")
    reader = yolo.Yolo.__new__(yolo.Yolo)
    reader.classes, reader.keypoints = CLASSES, None
    for masks in (None, mask[None].astype(bool)):
        result = Result(frame, box, np.ones(1, np.float32), np.array([2]), masks, CLASSES)
        (tmp_path / "a.txt").write_text(result.to_yolo())
        (label,) = reader.read_labels(tmp_path / "a.txt", (60, 40), tmp_path / "a.jpg")
        assert label.name == CLASSES[2]
        np.testing.assert_allclose(label.box, box[0], atol=1e-4 if masks is None else 0.51)
        assert len(label.polygons) == (masks is not None)
        if masks is not None:
            drawn = np.zeros_like(mask)
            cv2.fillPoly(drawn, [np.floor(label.polygons[0]).astype(int).reshape(-1, 1, 2)], 1)
            np.testing.assert_array_equal(drawn, mask)
