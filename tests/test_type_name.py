"""A part of a config may name its type by a string, with or without a scope, or by the class itself."""

import pytest
from mmdet.datasets import OpenImagesChallengeDataset
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.hooks import EMAHook

from localvit_det.config_names import type_name
from localvit_det.datasets.data_files import check_hierarchy
from localvit_det.errors import DataError
from localvit_det.evaluation.metrics import ExactCocoMetric, FastCocoMetric, exact_metrics, use_fast_eval
from localvit_det.evaluation.record import keep_predictions
from localvit_det.evaluation.tta import use_tta
from localvit_det.switches import average_weights


@pytest.mark.parametrize("kind", ["CocoMetric", "mmdet.CocoMetric", "mmdet.evaluation.CocoMetric", CocoMetric])
def test_bare_name(kind):
    assert (
        type_name({"type": kind}) == type_name(Config({"part": {"type": kind}}).part) == type_name(kind) == "CocoMetric"
    )


def test_no_type():
    assert type_name({}) == type_name(None) == type_name({"type": None}) == ""


@pytest.mark.parametrize(
    "kind",
    [
        "CocoMetric",
        "mmdet.CocoMetric",
        CocoMetric,
        "ExactCocoMetric",
        "mmdet.ExactCocoMetric",
        ExactCocoMetric,
        "FastCocoMetric",
        FastCocoMetric,
    ],
)
@pytest.mark.parametrize("switch", [use_tta, keep_predictions, use_fast_eval])
def test_metrics_of_coco(kind, switch, monkeypatch, tmp_path):
    monkeypatch.setattr("localvit_det.evaluation.metrics.check_fast_eval", lambda: None)
    evaluator = {"type": kind, "metric": "bbox", "ann_file": "a.json"}
    cfg = Config({"model": {}, "test_evaluator": evaluator, "work_dir": str(tmp_path)})
    switch(cfg)  # without an error
    if switch is use_fast_eval:
        assert cfg.test_evaluator.type == "FastCocoMetric"


class OwnMetrics:
    """Where a user's own class has the name of MMDetection's."""

    CocoMetric = type("CocoMetric", (CocoMetric,), {})


@pytest.mark.parametrize("kind", ["CocoMetric", "mmdet.CocoMetric", CocoMetric])
def test_metrics_are_exchanged(kind):
    assert exact_metrics({"type": kind})["type"] is ExactCocoMetric
    assert exact_metrics({"type": OwnMetrics.CocoMetric})["type"] is OwnMetrics.CocoMetric


def test_pickled_hierarchy_of_a_class(tmp_path):
    """A config that names the class would have had the file unpickled."""
    import numpy as np

    file = tmp_path / "hierarchy.np"
    with file.open("wb") as stream:
        np.save(stream, np.array([object], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="is a pickle"):
        check_hierarchy({"type": OpenImagesChallengeDataset, "hierarchy_file": str(file)})


def test_averages_of_a_class_are_not_doubled():
    cfg = Config({"custom_hooks": [{"type": EMAHook, "momentum": 0.1}]})
    average_weights(cfg, 0.1)
    assert len(cfg.custom_hooks) == 1
