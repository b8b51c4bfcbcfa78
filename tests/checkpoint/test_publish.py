"""What a published file says of its training."""

import json
from pathlib import Path

import pytest

from localvit_det.checkpoint.publish import measured_metrics

LINES = [
    {"lr": 0.1, "loss": 2.0, "epoch": 3, "step": 3},
    {"coco/bbox_mAP": 0.2, "data_time": 0.1, "time": 0.5, "step": 2},
    {"coco/bbox_mAP": 0.3, "coco/segm_mAP": 0.25, "data_time": 0.1, "time": 0.5, "step": 3},
    {"coco/bbox_mAP": 0.4, "step": 300},
]


@pytest.fixture
def work_dir(tmp_path) -> Path:
    for stamp, factor in (("20260101_000000", 1), ("20260102_000000", 10)):
        file = tmp_path / stamp / "vis_data/scalars.json"
        file.parent.mkdir(parents=True)
        lines = [{**line, **{k: v * factor for k, v in line.items() if "/" in k}} for line in LINES]
        file.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"coco/bbox')
    return tmp_path


@pytest.mark.parametrize(
    ("meta", "metrics"),
    [
        ({"epoch": 3, "experiment_name": "net_20260101_000000"}, {"coco/bbox_mAP": 0.3, "coco/segm_mAP": 0.25}),
        ({"epoch": 3, "experiment_name": "net_20260102_000000"}, {"coco/bbox_mAP": 3, "coco/segm_mAP": 2.5}),
        ({"iter": 300, "experiment_name": "net_20260101_000000"}, {"coco/bbox_mAP": 0.4}),
        ({"epoch": 4, "experiment_name": "net_20260101_000000"}, {}),
        ({"epoch": 3}, {}),
    ],
)
def test_metrics_of_the_validation_after_a_checkpoint(work_dir, meta, metrics):
    assert measured_metrics(work_dir, meta) == pytest.approx(metrics)
