"""Matches, confusions and worst images, on a case that can be counted by hand."""

import json

import numpy as np
import pytest
from coco_folder import annotations, write_coco
from made_results import write_predictions

from localvit_det.analysis.coco import Evaluation, evaluate
from localvit_det.analysis.matching import MEASURES, confusion_matrix, match, worst

CAT, DOG, ZEBRA = 1, 2, 3  # an evaluation numbers the categories of the file, 10, 20 and 30, anew


def object_at(x: float, category: int, image: int = 1, crowd: int = 0, width: float = 10) -> dict:
    one = {"image_id": image, "category_id": 10 * category, "bbox": [x, 0, width, 10], "area": 10 * width}
    return {**one, "iscrowd": crowd}


def found_at(x: float, category: int, score: float, image: int = 1) -> dict:
    return {"image_id": image, "category_id": 10 * category, "bbox": [x, 0, 10, 10], "score": score}


@pytest.fixture
def case(tmp_path) -> Evaluation:
    content = annotations(count=3)
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
