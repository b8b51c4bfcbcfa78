"""The stand-in of panopticapi: ids and colors, and PQ of a case that is computed by hand."""

import sys

import numpy as np
import pytest

from localvit_det.ops.panopticapi import PQStat, id2rgb, rgb2id

THINGS = {1: {"isthing": 1}, 2: {"isthing": 1}, 3: {"isthing": 0}}


def test_ids_and_colors():
    ids = np.array([[0, 255, 256], [65536, 70000, 256**3 - 1]])
    colors = id2rgb(ids)
    assert (colors.dtype, colors.shape) == (np.uint8, (2, 3, 3))
    assert colors[0, 2].tolist() == id2rgb(256) == [0, 1, 0]
    np.testing.assert_array_equal(rgb2id(colors), ids)
    assert rgb2id(colors[1, 1]) == rgb2id([112, 17, 1]) == 70000


def test_quality_by_hand():
    first, second = PQStat(), PQStat()
    first[1].tp, first[1].iou = 1, 0.8
    second[1].tp, second[1].iou, second[1].fp = 1, 0.6, 2
    second[3].fn = 1
    first += second
    means, each = first.pq_average(THINGS, isthing=None)
    assert each[1] == pytest.approx({"pq": 1.4 / 3, "sq": 0.7, "rq": 2 / 3})
    assert each[2] == {"pq": 0, "sq": 0, "rq": 0}
    assert means == pytest.approx({"pq": 0.7 / 3, "sq": 0.35, "rq": 1 / 3, "n": 2})  # 2 does not occur
    assert first.pq_average(THINGS, isthing=True)[0]["n"] == 1
    assert list(first.pq_average(THINGS, isthing=False)[1]) == [3]


def test_mmdetection_finds_it():
    from mmdet.evaluation.metrics import coco_panoptic_metric

    assert coco_panoptic_metric.PQStat is sys.modules["panopticapi.evaluation"].PQStat
