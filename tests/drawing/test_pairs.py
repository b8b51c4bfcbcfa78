"""Pictures of ground truth and predictions."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

from localvit_det.drawing import Objects, class_color, draw_pair, draw_readable
from localvit_det.evaluation import PairVisualizer
from localvit_det.evaluation.showing import draw_predictions

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


def sample(**more: object) -> DetDataSample:
    mask = objects(0).masks
    found = InstanceData(bboxes=torch.tensor(BOX).repeat(2, 1), labels=torch.tensor([1, 0]))
    found.scores = torch.tensor([0.9, 0.1])
    found.masks = torch.tensor(mask).repeat(2, 1, 1)
    truth = InstanceData(bboxes=torch.tensor(BOX), labels=torch.tensor([1]))
    truth.masks = BitmapMasks(mask.astype(np.uint8), 80, 100)
    return DetDataSample(gt_instances=truth, pred_instances=found, **more)


def test_visualizer_draws_pairs(tmp_path):
    visualizer = PairVisualizer(name="pairs")
    visualizer.dataset_meta = {"classes": ("a", "b")}
    image = np.full((80, 100, 3), 128, np.uint8)
    visualizer.add_datasample("x", image, sample(), out_file=str(tmp_path / "x.png"))
    picture = cv2.imread(str(tmp_path / "x.png"))
    assert picture.shape[1] == 806
    color = 128 * 0.55 + 0.45 * np.array(class_color(1))  # BGR, though it was given RGB; what scores 0.1 is left out
    for left in (0, 406):
        np.testing.assert_allclose(inside(picture, 4, left), color, atol=2)


def test_stuff_is_left_to_mmdetection(tmp_path):
    visualizer = PairVisualizer(name="stuff")
    visualizer.dataset_meta = {"classes": ("a", "b"), "palette": [(1, 2, 3), (4, 5, 6)]}
    maps = PixelData(sem_seg=torch.zeros(1, 80, 100, dtype=torch.long))
    one = sample(pred_sem_seg=maps)
    visualizer.add_datasample("x", np.full((80, 100, 3), 128, np.uint8), one, out_file=str(tmp_path / "x.png"))
    assert cv2.imread(str(tmp_path / "x.png")).shape == (80, 200, 3)


@pytest.mark.parametrize(("kind", "expected"), [("DetLocalVisualizer", "PairVisualizer"), ("Mine", "Mine")])
def test_configs_draw_pairs_unless_they_draw_in_their_own_way(kind, expected):
    cfg = Config({"default_hooks": {"visualization": {"type": "V"}}, "visualizer": {"type": kind}})
    draw_predictions(cfg, show=False, folder="images", wait_time=0)
    assert cfg.visualizer.type == expected
    assert cfg.default_hooks.visualization.test_out_dir == "images"
