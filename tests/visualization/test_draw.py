"""Objects drawn into images."""

import numpy as np

from localvit_det.visualization import Objects, class_color, draw_pair, draw_readable

BOX = np.array([[10, 20, 40, 50]], np.float32)


def objects(label: int, text: str = "thing", size: tuple[int, int] = (80, 100)) -> Objects:
    masks = np.zeros((1, *size), bool)
    masks[0, 20:50, 10:40] = True
    return Objects(BOX, np.array([label]), [text], masks)


def inside(picture: np.ndarray, factor: int, left: int = 0) -> np.ndarray:
    """The mean color in the middle of the object."""
    top = picture.shape[0] - 80 * factor
    return picture[top + 33 * factor : top + 40 * factor, left + 20 * factor : left + 30 * factor].mean((0, 1))


def test_small_images_are_enlarged_and_captioned():
    image = np.full((80, 100, 3), 128, np.uint8)
    picture = draw_pair(image, objects(1), objects(1))
    assert (image == 128).all()
    width = (picture.shape[1] - 400 * 2) + 400
    assert picture.shape[1] == 806
    assert picture.shape[0] > 320  # a line for the captions
    strip = picture[: picture.shape[0] - 320]
    for side in (strip[:, :400], strip[:, width:]):
        assert side.min() < 100 < side.max()
    np.testing.assert_allclose(inside(picture, 4), inside(picture, 4, left=width), atol=1)


def test_a_class_has_one_color():
    image = np.full((80, 100, 3), 128, np.uint8)
    for label in (0, 5):
        color = inside(draw_readable(image, objects(label)), 4)
        np.testing.assert_allclose(color, 128 * 0.55 + 0.45 * np.array(class_color(label)), atol=2)


def test_large_images_are_drawn_smaller():
    image = np.full((800, 1000, 3), 128, np.uint8)
    big = objects(0, size=(800, 1000))
    assert draw_readable(image, big).shape == (800, 1000, 3)
    assert draw_readable(image, big, largest=500).shape == (400, 500, 3)


def test_nothing_to_draw():
    image = np.full((80, 100, 3), 128, np.uint8)
    empty = Objects(np.zeros((0, 4), np.float32), np.zeros(0, int), [], np.zeros((0, 80, 100), bool))
    assert (draw_readable(image, empty) == 128).all()
