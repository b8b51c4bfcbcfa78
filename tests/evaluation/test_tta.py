"""Masks of several views of an image are turned back and merged."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

from localvit_det.evaluation.tta import MaskTTAModel, vote

HEIGHT, WIDTH = 8, 12


def view(flip: str | None, *objects: tuple[list[int], float, int], masks: bool = True) -> DetDataSample:
    """What a detector finds in a view; objects of box in the image, score and label, each with its box as mask."""
    sample = DetDataSample(metainfo={"ori_shape": (HEIGHT, WIDTH), "flip": flip is not None, "flip_direction": flip})
    boxes = torch.tensor([box for box, _, _ in objects], dtype=torch.float).reshape(-1, 4)
    canvas = torch.zeros(len(objects), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(canvas, boxes.int(), strict=True):
        mask[y1:y2, x1:x2] = True
    if flip in ("horizontal", "diagonal"):
        boxes[:, [0, 2]], canvas = WIDTH - boxes[:, [2, 0]], canvas.flip(2)
    if flip in ("vertical", "diagonal"):
        boxes[:, [1, 3]], canvas = HEIGHT - boxes[:, [3, 1]], canvas.flip(1)
    sample.pred_instances = InstanceData(
        bboxes=boxes,
        scores=torch.tensor([score for _, score, _ in objects]),
        labels=torch.tensor([label for _, _, label in objects], dtype=torch.long),
    )
    if masks:
        sample.pred_instances.masks = canvas
    return sample


class Detector(nn.Module):
    def test_step(self, data):
        raise NotImplementedError


def merge(*views: DetDataSample) -> InstanceData:
    settings = ConfigDict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
    return MaskTTAModel(tta_cfg=settings, module=Detector()).merge_preds([list(views)])[0].pred_instances


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "diagonal"])
def test_masks_lie_in_their_boxes(flip):
    found = merge(view(None, ([1, 1, 5, 4], 0.9, 0)), view(flip, ([6, 2, 12, 8], 0.8, 0), ([1, 1, 5, 4], 0.7, 1)))
    assert found.bboxes.tolist() == [[1, 1, 5, 4], [6, 2, 12, 8], [1, 1, 5, 4]]
    assert found.labels.tolist() == [0, 0, 1]
    for mask, (x1, y1, x2, y2) in zip(found.masks, found.bboxes.int(), strict=True):
        assert mask.sum() == (x2 - x1) * (y2 - y1)
        assert mask[y1:y2, x1:x2].all()


def test_the_views_of_an_object_vote():
    """Two views outvote the best one; another class and an object elsewhere have no voice."""
    narrow, wide = [0, 0, 6, 6], [0, 0, 8, 6]
    found = merge(
        view(None, (narrow, 0.9, 0), (wide, 0.8, 1)),
        view("horizontal", (wide, 0.7, 0), ([8, 0, 12, 6], 0.9, 0)),
        view("vertical", (wide, 0.6, 0)),
    )
    first = (found.bboxes == torch.tensor(narrow)).all(1).nonzero().item()
    assert len(found) == 3
    assert found.masks[first].sum() == 8 * 6
    assert found.masks.dtype is torch.bool


def test_nothing_found():
    found = merge(view(None), view("horizontal"))
    assert found.masks.shape == (0, HEIGHT, WIDTH)


def test_without_masks():
    assert "masks" not in merge(view(None, ([1, 1, 5, 4], 0.9, 0), masks=False), view("vertical", masks=False))


def test_no_weight_is_no_mask():
    assert not vote(torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 1)).any()


def test_half_of_the_weight_is_enough():
    masks = torch.tensor([[[1, 0, 0]], [[0, 1, 0]], [[1, 1, 1]]], dtype=torch.bool)
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.25, 0.0], [0.0, 0.5, 0.25]])
    assert vote(masks, weights)[:, 0].tolist() == [[True, True, False], [True, False, False], [False, True, False]]
