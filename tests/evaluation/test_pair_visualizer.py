"""What is written next to the objects of the two sides."""

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

from localvit_det.evaluation.pair_visualizer import _objects


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
