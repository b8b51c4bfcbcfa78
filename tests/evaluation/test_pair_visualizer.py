"""What is written next to the objects of the two sides."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData, PixelData

from localvit_det.evaluation import pair_visualizer
from localvit_det.evaluation.pair_visualizer import PairVisualizer, _objects


@pytest.fixture
def instances():
    return InstanceData(labels=torch.tensor([1, 0]), bboxes=torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]))


def test_objects_are_named_by_class_and_score(instances):
    assert _objects(instances, ("cat", "dog")).texts == ["dog", "cat"]
    assert _objects(instances, None).texts == ["class 1", "class 0"]
    instances.scores = torch.tensor([0.517, 0.9])
    objects = _objects(instances, ("cat", "dog"))
    assert objects.texts == ["dog 0.52", "cat 0.90"]
    assert objects.boxes.tolist() == instances.bboxes.tolist()
    assert objects.labels.tolist() == [1, 0]


def test_masks_of_either_kind(instances):
    assert _objects(instances, None).masks is None
    masks = np.zeros((2, 9, 9), np.uint8)
    masks[1, 3, 4] = 1
    for kind in (torch.from_numpy(masks), BitmapMasks(masks, 9, 9)):
        instances.masks = kind
        found = _objects(instances, None).masks
        assert found.dtype == bool
        assert (found == masks.astype(bool)).all()


@pytest.mark.parametrize(
    ("options", "pair"),
    [
        ({}, True),
        ({"draw_gt": False}, False),
        ({"draw_pred": False}, False),
        ({"data_sample": None}, False),
        ({"without": "gt_instances"}, False),
        ({"without": "pred_instances"}, False),
        ({"stuff": True}, False),
    ],
    ids=str,
)
def test_pairs_are_drawn_of_objects_on_both_sides(instances, monkeypatch, options, pair):
    found = InstanceData(labels=torch.tensor([0, 1]), bboxes=instances.bboxes, scores=torch.tensor([0.3, 0.31]))
    sample = DetDataSample(gt_instances=instances, pred_instances=found)
    if name := options.pop("without", None):
        delattr(sample, name)
    if options.pop("stuff", False):
        sample.pred_sem_seg = PixelData(sem_seg=torch.zeros(1, 9, 9))
    drawn, handed_on = [], []
    monkeypatch.setattr(pair_visualizer, "draw_pair", lambda image, *sides: drawn.append((image, *sides)) or image)
    monkeypatch.setattr(DetLocalVisualizer, "add_datasample", lambda self, *args, **settings: handed_on.append(args))
    visualizer = PairVisualizer(name="pairs")
    visualizer.dataset_meta = {"classes": ("cat", "dog")}
    image = np.full((9, 9, 3), (1.0, 2.0, 300.0))
    visualizer.add_datasample("a", image, **{"data_sample": sample, "out_file": "x.png", **options})
    assert len(drawn) == pair
    if pair:
        [(picture, truth, objects)] = drawn
        assert picture[0, 0].tolist() == [255, 2, 1]  # BGR of bytes
        assert truth.texts == ["dog", "cat"]
        assert objects.texts == ["dog 0.31"]
        assert handed_on[0][1][0, 0].tolist() == [1, 2, 255]
        assert handed_on[0][2] is None
    else:
        given = {"data_sample": sample, "draw_gt": True, "draw_pred": True, **options}
        assert handed_on == [("a", image, *given.values(), False, 0, "x.png", 0.3, 0)]
