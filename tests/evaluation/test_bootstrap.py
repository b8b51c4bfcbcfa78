"""AP of images drawn again is what pycocotools says of a dataset with copies of these images."""

import copy
import json

import numpy as np
import pytest
from made_results import make_predictions, write_shapes

from localvit_det.analysis.coco import average_precision, evaluate
from localvit_det.analysis.compare import difference
from localvit_det.evaluation.coco import draw_images, resampled_ap


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Ground truth and the predictions of two detectors; scores are equal in several images, though not in one.

    There pycocotools ranks the copies of an image, and here each prediction's copies stay together.
    """
    root = write_shapes(tmp_path_factory.mktemp("sets") / "shapes", val=8)
    annotations = root / "annotations/instances_val2017.json"
    first = make_predictions(annotations)
    for number, one in enumerate(first):
        place = sum(other["image_id"] == one["image_id"] for other in first[:number])
        one["score"] = round(one["score"], 1) + 0.001 * place
    # The second is sure of what is right, and finds less.
    second = [{**one, "score": 0.3 + one["score"] / 2} for number, one in enumerate(first) if number % 7]
    return json.loads(annotations.read_bytes()), (first, second)


def evaluated(content: dict, predictions: list[dict], folder, keep: bool = True):
    for name, part in (("truth", content), ("found", predictions)):
        (folder / f"{name}.json").write_text(json.dumps(part))
    return evaluate(folder / "truth.json", folder / "found.json", by_image=keep)


def drawn(content: dict, predictions: list[dict], counts: np.ndarray) -> tuple[dict, list[dict]]:
    """The dataset with as many copies of each image as it was drawn."""
    new, found = {**content, "images": [], "annotations": []}, []
    for image, count in zip(sorted(content["images"], key=lambda one: one["id"]), counts, strict=True):
        for _ in range(count):
            number = len(new["images"]) + 1
            new["images"].append({**image, "id": number})
            for one in content["annotations"]:
                if one["image_id"] == image["id"]:
                    new["annotations"].append({**one, "image_id": number, "id": len(new["annotations"]) + 1})
            found += [{**copy.copy(one), "image_id": number} for one in predictions if one["image_id"] == image["id"]]
    return new, found


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_resampled_ap_is_that_of_pycocotools(task, sets, tmp_path):
    content, (predictions, _) = sets
    evaluation = evaluated(content, predictions, tmp_path)
    counts = draw_images(8, 4, seed=1)
    counts[0] = 1  # all images as they are
    counts[1] = [3, 0, 0, 0, 0, 0, 5, 0]  # few of them, so that classes may be absent
    evaluator = evaluation.tasks[task]
    found = resampled_ap(evaluator.detections, counts, evaluator.params.recThrs)
    expected = [
        average_precision(evaluated(*drawn(content, predictions, row), tmp_path, keep=False).tasks[task])
        for row in counts
    ]
    assert len(set(expected)) > 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_images_are_drawn_with_repetition_and_seeded():
    counts = draw_images(10, 200, seed=3)
    assert (counts.sum(1) == 10).all()
    assert counts.max() > 2
    assert (counts == draw_images(10, 200, seed=3)).all()
    assert (counts != draw_images(10, 200, seed=4)).any()


def test_differences_are_paired(sets, tmp_path):
    content, (first, second) = sets
    one, other = (evaluated(content, predictions, tmp_path) for predictions in (first, second))
    found = difference(one, other, "bbox", 200, seed=0)
    low, high = found.interval
    assert low < found.ap[1] - found.ap[0] < high
    assert found == difference(one, other, "bbox", 200, seed=0)
    assert found.interval != difference(one, other, "bbox", 200, seed=1).interval
    # The same detector twice differs in no draw, whichever images are drawn.
    assert difference(one, one, "bbox", 200, seed=0).interval == (0.0, 0.0)
    for name, aps in found.classes.items():
        label = list(one.classes.values()).index(name)
        assert aps == tuple(average_precision(each.tasks["bbox"], "AP", label) for each in (one, other))


def test_nothing_found_and_nothing_there(sets, tmp_path):
    content, _ = sets
    counts = np.array([[1] * 8, [0] * 8])
    evaluator = evaluated(content, [], tmp_path).tasks["bbox"]
    found = resampled_ap(evaluator.detections, counts, evaluator.params.recThrs)
    assert found[0] == 0
    assert np.isnan(found[1])
