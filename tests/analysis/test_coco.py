"""Numbers of an evaluation are those of MMDetection and pycocotools; matches are counted by hand."""

import contextlib
import io
import json

import numpy as np
import pytest
from coco_folder import annotations as made_annotations
from coco_folder import write_coco
from made_results import make_predictions, write_predictions
from mmdet.evaluation import CocoMetric
from pycocotools.cocoeval import COCOeval

from localvit_det.analysis.coco import (
    MEASURES,
    RANGES,
    Evaluation,
    average_precision,
    best_score,
    confusion_matrix,
    evaluate,
    match,
    precision_at_half,
    worst,
)
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


# ---- matches

CAT, DOG, ZEBRA = 1, 2, 3  # an evaluation numbers the categories of the file, 10, 20 and 30, anew


def object_at(x: float, category: int, image: int = 1, crowd: int = 0, width: float = 10) -> dict:
    one = {"image_id": image, "category_id": 10 * category, "bbox": [x, 0, width, 10], "area": 10 * width}
    return {**one, "iscrowd": crowd}


def found_at(x: float, category: int, score: float, image: int = 1) -> dict:
    return {"image_id": image, "category_id": 10 * category, "bbox": [x, 0, 10, 10], "score": score}


@pytest.fixture
def case(tmp_path) -> Evaluation:
    content = made_annotations(count=3)
    content["annotations"] = [
        object_at(0, CAT),
        object_at(20, DOG),
        object_at(40, ZEBRA),  # missed
        object_at(60, ZEBRA, crowd=1, width=40),
        object_at(0, DOG, image=2),
    ]
    for identity, one in enumerate(content["annotations"], 1):
        one["id"] = identity
    root = write_coco(tmp_path, val=content)
    predictions = [
        found_at(1, CAT, 0.9),
        found_at(0, CAT, 0.8),  # the same cat again
        found_at(21, CAT, 0.7),  # the dog
        found_at(70, ZEBRA, 0.6),  # in the crowd
        found_at(40, ZEBRA, 0.2),  # too unsure
        found_at(4, DOG, 0.5, image=2),  # overlaps by 6 / 14
        found_at(0, ZEBRA, 0.9, image=2),  # surer than the dog's own, which is right at a lower overlap
    ]
    write_predictions(root, predictions)
    return evaluate(root / "annotations/instances_val2017.json", root / "predictions.json")


def test_matches(case):
    first, second, third = match(case)
    assert [(a["category_id"], b["category_id"]) for a, b in first.right] == [(CAT, CAT)]
    assert first.right[0][1]["score"] == 0.9
    assert [(a["category_id"], b["category_id"]) for a, b in first.confused] == [(DOG, CAT)]
    assert [one["category_id"] for one in first.missed] == [ZEBRA]
    assert [one["score"] for one in first.false] == [0.8]
    assert [(a["category_id"], b["category_id"]) for a, b in second.confused] == [(DOG, ZEBRA)]
    assert [one["category_id"] for one in second.false] == [DOG]
    assert third.f1 == 1
    assert first.f1 == pytest.approx(2 / (2 + 1 + 1 + 2))


def test_overlap_and_score_decide(case):
    first, second, _ = match(case, overlap=0.4, score=0.1)
    assert [a["category_id"] for a, _ in first.right] == [CAT, ZEBRA]
    # Its own class comes first, though the zebra is surer.
    assert [b["category_id"] for _, b in second.right] == [DOG]
    assert [one["category_id"] for one in second.false] == [ZEBRA]


def test_confusion_matrix(case):
    expected = np.zeros((4, 4), int)
    expected[0, 0] = 1  # cat
    expected[1, 0] = expected[1, 2] = 1  # dogs as cat and zebra
    expected[2, 3] = 1  # zebra missed
    expected[3, 0] = expected[3, 1] = 1  # nothing as cat and dog
    np.testing.assert_array_equal(confusion_matrix(match(case), list(case.classes)), expected)


@pytest.mark.parametrize("measure", MEASURES)
def test_worst_images(case, measure):
    matches = match(case)
    found = worst(matches, measure, 9)
    badness = [one.badness(measure) for one in found]
    assert badness == sorted(badness, reverse=True)
    assert 3 not in {one.image_id for one in found}  # nothing is wrong there
    assert len(found) == len([one for one in matches if one.badness(measure) > 0])
    assert worst(matches, measure, 1) == found[:1]
    expected = {"mistakes": [1, 2], "missed": [1], "false": [2, 1], "confused": [2, 1], "f1": [2, 1]}
    assert [one.image_id for one in found] == expected[measure]


def test_masks_decide_where_there_are_masks(evaluation):
    (matches, *_) = (one for one in match(evaluation) if one.right)
    assert evaluation.main_task == "segm"
    assert json.dumps(matches.right[0][1]["segmentation"]["size"]) == "[96, 96]"
