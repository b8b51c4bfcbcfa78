"""Objects drawn into images."""

import numpy as np

from localvit_det.visualization import Objects, _free_place, class_color, draw_pair, draw_readable

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
    width = (picture.shape[1] - 500 * 2) + 500
    assert picture.shape[1] == 1006
    assert picture.shape[0] > 400  # a line for the captions
    strip = picture[: picture.shape[0] - 400]
    for side in (strip[:, :500], strip[:, width:]):
        assert side.min() < 100 < side.max()
    np.testing.assert_allclose(inside(picture, 5), inside(picture, 5, left=width), atol=1)


def test_a_class_has_one_color():
    image = np.full((80, 100, 3), 128, np.uint8)
    for label in (0, 5):
        color = inside(draw_readable(image, objects(label)), 5)
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


def test_labels_of_small_images_leave_the_objects_to_be_seen():
    """A label at an object of 24 pixels in an image of 64 covers little of it, wherever it has to go."""
    image, color = np.full((64, 64, 3), 128, np.uint8), np.array(class_color(1))
    for x, y in ((0, 0), (40, 0), (0, 40), (20, 20)):
        box = np.array([[x, y, x + 24, y + 24]], np.float32)
        picture = draw_readable(image, Objects(box, np.array([1]), ["thing 0.99"]))
        factor = picture.shape[0] // 64
        part = picture[y * factor : (y + 24) * factor, x * factor : (x + 24) * factor]
        assert (np.abs(part.astype(int) - color).max(2) < 9).mean() < 0.12


def test_labels_give_way_in_crowds():
    """Each is whole: none lies over another, and what finds no place is left out."""
    image, count = np.full((480, 480, 3), 128, np.uint8), 40
    places = np.random.default_rng(0).uniform(180, 240, (count, 2))
    boxes = np.concatenate((places, places + 60), 1).astype(np.float32)
    written: list[tuple[int, ...]] = []
    for box in boxes.astype(int).tolist():
        place = _free_place((480, 480), (70, 18), box, written)
        written += [place] if place else []
    covered = np.zeros((480, 480), int)
    for left, top, right, bottom in written:
        covered[top:bottom, left:right] += 1
    assert 5 < len(written) < count
    assert covered.max() == 1
    assert covered.sum() == 70 * 18 * len(written)  # inside the image
    drawn = draw_readable(image, Objects(boxes, np.zeros(count, int), ["thing"] * count))
    assert (drawn != 128).any()


def test_labels_move_out_of_the_way_of_earlier_ones():
    image = np.full((480, 480, 3), 128, np.uint8)
    boxes = np.array([[100, 100, 300, 300]] * 2, np.float32)
    alone = draw_readable(image, Objects(boxes[:1], np.array([1]), ["first"]))
    both = draw_readable(image, Objects(boxes, np.array([1, 2]), ["first", "second"]))
    above = np.s_[70:98, 98:160]
    assert (both[above] == alone[above]).all()  # the first, as it is without the second
    second = np.abs(both.astype(int) - class_color(2)).max(2) < 9
    assert second[70:98, 200:310].sum() > 200  # which stands at the other corner
