"""Numbers of an evaluation are those of MMDetection and pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
from made_results import make_predictions, write_predictions
from mmdet.evaluation import CocoMetric
from pycocotools import mask as coco_masks
from pycocotools.cocoeval import COCOeval

from localvit_det.analysis.coco import RANGES, average_precision, best_score, evaluate, precision_at_half
from localvit_det.analysis.results import class_table
from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.errors import DataError


def test_numbers_are_those_of_mmdetection(evaluation, results):
    annotations = results / "annotations/instances_val2017.json"
    metric = CocoMetric(str(annotations), metric=["bbox", "segm"])
    metric.dataset_meta = {"classes": CLASSES}
    content = json.loads((results / "predictions.json").read_text())
    labels = {category: label for label, category in enumerate(evaluation.classes)}
    for image in json.loads(annotations.read_text())["images"]:
        mine = [one for one in content if one["image_id"] == image["id"]]
        boxes = np.array([one["bbox"] for one in mine]).reshape(-1, 4)
        found = {
            "img_id": image["id"],
            "bboxes": np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1),
            "scores": np.array([one["score"] for one in mine]),
            "labels": np.array([labels[one["category_id"]] for one in mine], int),
            "masks": [dict(one["segmentation"]) for one in mine],
        }
        metric.results.append(({"img_id": image["id"]}, found))
    expected = metric.compute_metrics(metric.results)
    for task in ("bbox", "segm"):
        for column, suffix in zip(RANGES, ("", "_50", "_75", "_s", "_m", "_l"), strict=True):
            value = average_precision(evaluation.tasks[task], column)
            assert round(-1 if value is None else value, 3) == expected[f"{task}_mAP{suffix}"]
    assert 0.2 < expected["bbox_mAP"] < 0.9  # something is right and something wrong


def test_a_class_is_what_pycocotools_says_about_it_alone(evaluation):
    for label, (category, name) in enumerate(evaluation.classes.items()):
        alone = COCOeval(evaluation.truth, evaluation.found, "segm")
        alone.params.catIds = [category]
        with contextlib.redirect_stdout(io.StringIO()):
            alone.evaluate()
            alone.accumulate()
            alone.summarize()
        row = class_table(evaluation, "segm").rows[label]
        assert row[0] == name
        assert row[2] == len(evaluation.truth.getAnnIds(catIds=[category]))
        expected = [None if value == -1 else value for value in alone.stats[:6]]
        assert row[3:9] == pytest.approx(expected)


def test_mean_row_and_curves(evaluation):
    rows = class_table(evaluation, "bbox").rows
    assert rows[-1][3] == pytest.approx(np.mean([row[3] for row in rows[:-1]]))
    curve = precision_at_half(evaluation.tasks["bbox"], 0)
    assert curve.shape == (101,)
    assert curve.mean() == pytest.approx(average_precision(evaluation.tasks["bbox"], "AP50", 0))
    score, f1 = best_score(evaluation.tasks["bbox"], 0)
    assert 0 < score < 1
    assert 0.5 < f1 < 1


def test_boxes_alone_and_part_of_the_classes(results, tmp_path):
    annotations = results / "annotations/instances_val2017.json"
    content = [{k: v for k, v in one.items() if k != "segmentation"} for one in make_predictions(annotations)]
    write_predictions(tmp_path, content)
    found = evaluate(annotations, tmp_path / "predictions.json", classes=CLASSES[1:])
    assert list(found.tasks) == ["bbox"]
    assert found.main_task == "bbox"
    assert tuple(found.classes.values()) == CLASSES[1:]
    assert found.tasks["bbox"].eval["precision"].shape[2] == 2


def test_nothing_found(results, tmp_path):
    annotations = results / "annotations/instances_val2017.json"
    found = evaluate(annotations, write_predictions(tmp_path, []))
    assert average_precision(found.tasks["bbox"]) == 0
    assert best_score(found.tasks["bbox"], 0) is None


def test_perfect_predictions_are_worth_one(results, tmp_path):
    annotations = results / "annotations/instances_val2017.json"
    truth = json.loads(annotations.read_text())["annotations"]
    content = [{key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for one in truth]
    found = evaluate(annotations, write_predictions(tmp_path, content))
    assert average_precision(found.tasks["bbox"]) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read"),
        ('{"annotations": []}', "holds no predictions"),
        ('[{"image_id": 1}]', "holds no predictions"),
        ('[{"image_id": -5, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]', r"name 1 images .* image_id: -5"),
        (
            '[{"image_id": 4, "category_id": 99, "score": 1, "bbox": [0, 0, 1, 1]}]',
            r"name 1 classes .* category_id: 99",
        ),
    ],
)
def test_mistakes(content, sentence, results, tmp_path):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(DataError, match=sentence):
        evaluate(results / "annotations/instances_val2017.json", tmp_path / "bad.json")


def test_other_classes_than_the_file_has(results):
    with pytest.raises(DataError, match=r"no class 'sqare' \(did you mean 'square'\?\)"):
        evaluate(results / "annotations/instances_val2017.json", results / "predictions.json", classes=["sqare"])


def test_masks_of_made_results_are_what_they_seem(results):
    (first, *_) = json.loads((results / "predictions.json").read_text())
    assert coco_masks.area(first["segmentation"]) > 20
