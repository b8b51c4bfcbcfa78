"""AP is that of pycocotools, on the images that were run and the annotations that can be scored."""

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_results import write_shapes
from mmdet.evaluation import LVISMetric
from scoring import exact_predictions, reference, sample, scored

from localvit_det.analysis.coco import average_precision, evaluate
from localvit_det.datasets.annotations import read_annotations
from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.errors import DataError
from localvit_det.evaluation import ExactCocoMetric, FastCocoMetric
from localvit_det.evaluation.metrics import exact_metrics

FILE = "annotations/instances_val2017.json"
METRICS = [ExactCocoMetric] + [FastCocoMetric] * (importlib.util.find_spec("faster_coco_eval") is not None)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("scored") / "shapes")


@pytest.fixture(scope="module")
def content(root) -> dict:
    return json.loads((root / FILE).read_text())


@pytest.fixture(scope="module")
def predictions(root) -> list[dict]:
    return exact_predictions(root / FILE)


def of_images(content: dict, ids: set) -> dict:
    parts = {"images": [one for one in content["images"] if one["id"] in ids]}
    return {**content, **parts, "annotations": [one for one in content["annotations"] if one["image_id"] in ids]}


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() == {"bbox", "segm"}
    for task, numbers in expected.items():
        assert 0.05 < numbers[0] < 0.95  # neither everything nor nothing was found
        np.testing.assert_allclose(found[task], numbers, rtol=0, atol=1e-6)


# ---- images


@pytest.mark.parametrize("metric", METRICS)
def test_images_that_were_run(root, content, predictions, metric):
    """The metric reads a file of twelve images, eight are run: the other four are no missed objects."""
    ids = {image["id"]: image["id"] for image in content["images"][2:10]}
    found = scored(metric, root / FILE, predictions, ids)
    few = of_images(content, set(ids))
    expected = reference(few, [one for one in predictions if one["image_id"] in ids])
    assert_equal(found, expected)
    with_all = reference(content, [one for one in predictions if one["image_id"] in ids])
    assert abs(with_all["bbox"][0] - expected["bbox"][0]) > 0.02  # what was reported before


def test_image_that_a_sampler_repeats_counts_once(root, content, predictions):
    metric = ExactCocoMetric(ann_file=str(root / FILE), metric="bbox")
    metric.dataset_meta = {"classes": CLASSES}
    images = content["images"]
    for image in [*images, *images[:5]]:
        metric.process({}, [sample(image, [one for one in predictions if one["image_id"] == image["id"]])])
    numbers = metric.evaluate(len(images) + 5)
    assert numbers["coco/bbox_mAP"] == pytest.approx(reference(content, predictions)["bbox"][0], abs=5e-4)
    assert metric.image_ids is None  # all of the file


@pytest.mark.parametrize("change", [{"id": 77}, {"file_name": "other.jpg"}])
def test_file_of_other_images_is_refused_at_the_first_batch(tmp_path, content, change):
    """A part of a set whose images were numbered anew is no part of the whole file."""
    other = copy.deepcopy(content)
    other["images"][0].update(change)
    (tmp_path / "other.json").write_text(json.dumps(other))
    metric = ExactCocoMetric(ann_file=str(tmp_path / "other.json"), metric="bbox")
    metric.dataset_meta = {"classes": CLASSES}
    with pytest.raises(DataError, match="give it the annotation file of its dataset"):
        metric.process({}, [sample(content["images"][0], [])])


def test_equal_scores_are_ranked_as_in_pycocotools(tmp_path, content, predictions):
    """By the order of the image ids, also in a file with another order."""
    other = {**content, "images": content["images"][::-1]}
    (tmp_path / "other.json").write_text(json.dumps(other))
    equal = [{**one, "score": 0.5} for one in predictions]
    assert_equal(scored(ExactCocoMetric, tmp_path / "other.json", equal), reference(other, equal))


def test_predictions_of_other_classes_do_not_count(root, tmp_path, content, predictions):
    (tmp_path / "found.json").write_text(json.dumps(predictions))
    evaluation = evaluate(root / FILE, tmp_path / "found.json", CLASSES[:2])
    few = {**content, "categories": content["categories"][:2]}
    expected = reference(few, [one for one in predictions if one["category_id"] < 3])
    assert average_precision(evaluation.tasks["bbox"]) == pytest.approx(expected["bbox"][0], abs=1e-6)


# ---- ids


def numbered(section: str, new: Callable[[int], object]) -> Callable[[dict], dict]:
    """Changes the ids of a section, and what refers to them; returns the new ones by the old ones."""

    def change(content: dict) -> dict:
        ids = {one["id"]: new(index) for index, one in enumerate(content[section])}
        for one in content[section]:
            one["id"] = ids[one["id"]]
        key = {"images": "image_id", "categories": "category_id"}.get(section)
        for one in content["annotations"] if key else ():
            one[key] = ids[one[key]]
        return ids

    return change


def mixed(index: int) -> object:
    return [index, f"id_{index}", index + 0.5][index % 3]


IDS = {
    "annotations from 0": numbered("annotations", int),
    "annotations as texts": numbered("annotations", "ann_{:04d}".format),
    "annotations as fractions": numbered("annotations", lambda index: index + 0.25),
    "annotations below 0": numbered("annotations", lambda index: -1 - index),
    "annotations beyond 2^53": numbered("annotations", lambda index: 2**53 + index),
    "annotations beyond 2^64": numbered("annotations", lambda index: 2**64 + index),
    "annotations of several types": numbered("annotations", mixed),
    "images from 0": numbered("images", int),
    "images as texts": numbered("images", "image {:04d}".format),
    "images beyond 2^53": numbered("images", lambda index: 2**53 + index),
    "images beyond 2^64": numbered("images", lambda index: 2**64 + index),
    "images of several types": numbered("images", mixed),
    "categories from 0": numbered("categories", int),
    "categories as texts": numbered("categories", "category_{}".format),
    "categories in falling order": numbered("categories", lambda index: 9 - index),
}


@pytest.mark.parametrize("case", IDS)
def test_ids_do_not_matter(tmp_path, content, predictions, case):
    other = copy.deepcopy(content)
    ids = IDS[case](other)
    file = tmp_path / "other.json"
    file.write_text(json.dumps(other))
    before = file.read_bytes()
    images = ids if case.startswith("images") else {image["id"]: image["id"] for image in content["images"]}
    prefix = tmp_path / "predictions"
    found = scored(ExactCocoMetric, file, predictions, images, outfile_prefix=str(prefix), classwise=True)
    expected = reference(content, predictions)
    assert_equal(found, expected)
    assert file.read_bytes() == before
    # Predictions are written with the ids of the file, and analyzed with the same result.
    written = json.loads(Path(f"{prefix}.segm.json").read_text())
    known = [{one["id"] for one in other[section]} for section in ("images", "categories")]
    assert all({one["image_id"]} <= known[0] and {one["category_id"]} <= known[1] for one in written)
    evaluation = evaluate(file, f"{prefix}.segm.json")
    for task, numbers in expected.items():
        assert average_precision(evaluation.tasks[task]) == pytest.approx(numbers[0], abs=1e-6)
    names = list(evaluation.classes.values())
    alone = average_precision(evaluation.tasks["bbox"], label=names.index(CLASSES[0]))
    first = [one for one in predictions if one["category_id"] == 1]
    only = {**content, "categories": content["categories"][:1]}
    assert alone == pytest.approx(reference(only, first)["bbox"][0], abs=1e-6)  # of the class that it is said to be


# ---- annotations that training and scoring take differently


def every_fourth(**values: object) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for one in content["annotations"][::4]:
            one.update({key: value(one) if callable(value) else value for key, value in values.items()})

    return change


def without(content: dict) -> dict:
    return {**content, "annotations": [one for i, one in enumerate(content["annotations"]) if i % 4]}


def as_crowds(content: dict) -> dict:
    rows = enumerate(copy.deepcopy(content)["annotations"])
    return {**content, "annotations": [{**one, "iscrowd": int(i % 4 == 0)} for i, one in rows]}


def as_it_is(content: dict) -> dict:
    return content


def with_point(one: dict) -> list:
    return [[5, 5], *one["segmentation"]]


def with_points(one: dict) -> list:
    return [*one["segmentation"], [1, 2, 3, 4]]


# How annotations are changed; the file on which pycocotools gives the right numbers of boxes, and of masks.
FAULTS = {
    "boxes outside": (every_fourth(bbox=[500, 500, 20, 20]), without, without),
    "boxes right of the image": (every_fourth(bbox=[96, 5, 20, 20]), without, without),
    "boxes above the image": (every_fourth(bbox=[5, -20, 20, 20]), without, without),
    "boxes without width": (every_fourth(bbox=[5, 5, 0, 20]), without, without),
    "boxes of negative width": (every_fourth(bbox=[5, 5, -3, 20]), without, without),
    "boxes of half a pixel": (every_fourth(bbox=[5, 5, 0.5, 20]), as_it_is, as_it_is),
    "area 0": (every_fourth(area=0), as_it_is, as_it_is),
    "negative area": (every_fourth(area=-5), as_it_is, as_it_is),
    "ignored": (every_fourth(ignore=1), as_crowds, as_crowds),
    "unknown category": (every_fourth(category_id=77), as_it_is, as_it_is),
    "unknown image": (every_fourth(image_id=77), without, without),
    "polygons of two points": (every_fourth(segmentation=[[5, 5, 9, 9]]), as_it_is, without),
    "no polygon": (every_fourth(segmentation=[]), as_it_is, without),
    "rle of another size": (every_fourth(segmentation={"size": [5, 5], "counts": [25]}), as_it_is, without),
    "ignored with a flat polygon": (every_fourth(ignore=1, segmentation=[1, 2, 3, 4, 5, 6]), as_crowds, without),
    "area 0 with broken runs": (
        every_fourth(area=0, segmentation={"size": [96, 96], "counts": "o" * 99}),
        as_it_is,
        without,
    ),
    "a point before polygons": (every_fourth(segmentation=with_point), None, None),
    "short polygon after polygons": (
        every_fourth(segmentation=lambda one: [*one["segmentation"], [1, 2, 3, 4]]),
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_unusable_annotations(tmp_path, content, predictions, case):
    change, boxes, masks = FAULTS[case]
    other = copy.deepcopy(content)
    change(other)
    file = tmp_path / "other.json"
    file.write_text(json.dumps(other))
    found = scored(ExactCocoMetric, file, predictions)
    for task, right in (("bbox", boxes), ("segm", masks)):
        good = right(other) if right else content
        if task == "bbox":
            good = {
                **good,
                "annotations": [{**one, "segmentation": [[0, 0, 9, 0, 9, 9]]} for one in good["annotations"]],
            }
        expected = reference(good, predictions)[task]
        assert 0.05 < expected[0] < 0.95
        np.testing.assert_allclose(found[task], expected, rtol=0, atol=1e-6)


def test_summary_and_score_agree(tmp_path, content, predictions):
    """Preflight names the annotations that scoring leaves out."""
    scored_boxes = ("boxes of half a pixel", "ignored", "ignored with a flat polygon", "area 0 with broken runs")
    for case in ("boxes outside", "boxes without width", "unknown category", *scored_boxes):
        other = copy.deepcopy(content)
        FAULTS[case][0](other)
        (tmp_path / "other.json").write_text(json.dumps(other))
        found = read_annotations(tmp_path / "other.json")
        count = len(content["annotations"][::4])
        assert found.unscored.count() == count * (case not in scored_boxes)
        assert found.neutral.count() == count * case.startswith("ignored")
        assert found.mask_unscored.count() == count * (case in scored_boxes[2:])
        assert not found.mask_errors


# ---- other uses of the metric


def test_predictions_alone(tmp_path, content, predictions):
    """Images without annotations, as those of COCO's test server."""
    images = {key: content[key] for key in ("images", "categories")}
    (tmp_path / "images.json").write_text(json.dumps(images))
    prefix = str(tmp_path / "found")
    metric = ExactCocoMetric(
        ann_file=str(tmp_path / "images.json"), metric=["bbox", "segm"], format_only=True, outfile_prefix=prefix
    )
    metric.dataset_meta = {"classes": CLASSES}
    for image in content["images"]:
        metric.process({}, [sample(image, [one for one in predictions if one["image_id"] == image["id"]])])
    assert metric.evaluate(len(content["images"])) == {}
    assert len(json.loads(Path(f"{prefix}.segm.json").read_text())) == len(predictions)


# ---- nothing found


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_found_is_ap_0(root, content, metric):
    built = metric(ann_file=str(root / FILE), metric=["bbox", "segm"])
    built.dataset_meta = {"classes": CLASSES}
    for image in content["images"]:
        built.process({}, [sample(image, [])])
    numbers = built.evaluate(len(content["images"]))
    assert numbers["coco/bbox_mAP"] == numbers["coco/segm_mAP_50"] == 0
    assert built.detections == 0


def test_lvis_scores_the_images_that_were_evaluated(monkeypatch):
    """Its package takes the images of the ground truth, not those that MMDetection names."""
    seen = []
    monkeypatch.setattr(LVISMetric, "__init__", lambda self, ann_file: setattr(self, "_lvis_api", whole))
    monkeypatch.setattr(LVISMetric, "process", lambda *_: None)
    monkeypatch.setattr(LVISMetric, "compute_metrics", lambda self, results: seen.append(self._lvis_api) or {})
    images = {number: {"id": number} for number in (1, 2, 3, 4)}
    whole = SimpleNamespace(imgs=images, dataset={"images": [*images.values()], "annotations": []})
    config = exact_metrics([{"type": "LVISMetric", "ann_file": "x.json"}])[0]
    metric = config.pop("type")(**config)
    metric.process({}, [{"img_id": 3}])
    metric.compute_metrics([({"img_id": 3}, {}), ({"img_id": 2}, {})])
    assert set(seen[0].imgs) == {2, 3}
    assert seen[0].dataset["images"] == [{"id": 3}, {"id": 2}]
    assert len(whole.dataset["images"]) == len(whole.imgs) == 4
    with pytest.raises(
        DataError, match=r"image_id 9\) was evaluated, but the evaluator's ann_file x\.json has no such"
    ):
        metric.process({}, [{"img_id": 9}])
