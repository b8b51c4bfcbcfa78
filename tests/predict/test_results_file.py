"""Files of COCO's results: `predict --json --annotations` writes them, `test --predictions` and `analyze results` take
them, with pycocotools' numbers.
"""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_results import write_predictions, write_shapes
from predict_cases import run
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from localvit.commands import analyze, test
from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.errors import DataError
from localvit_det.predict import Result
from localvit_det.predict.output import CocoFile
from localvit_det.predict.result import Frame

NANO = "mask_rcnn_shuffle_nano_shapes"
COLUMNS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


def by_pycocotools(annotations: Path, predictions: Path, task: str) -> dict[str, float]:
    content = json.loads(predictions.read_text())
    for one in content:  # the area of a detection is that of its box for boxes
        one.pop("segmentation" if task == "bbox" else "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(annotations))
        evaluator = COCOeval(coco, coco.loadRes(content), task)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return {f"coco/{task}_{name}": value for name, value in zip(COLUMNS, evaluator.stats[:6], strict=True)}


def test_scores_of_a_file(tmp_path, cache, capsys):
    root = write_shapes(tmp_path / "set")
    predictions = write_predictions(root)
    options = ["--cfg-options", f"data_root={root}", "classes=auto"]
    metrics = test.main.__wrapped__([NANO, "--predictions", str(predictions), *options])
    expected = {}
    for task in ("bbox", "segm"):
        expected |= by_pycocotools(root / "annotations/instances_val2017.json", predictions, task)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6)
    assert 0.2 < metrics["coco/segm_mAP"] < 0.9
    out = capsys.readouterr().out
    assert f"{metrics['coco/bbox_mAP']:.3f}" in out.splitlines()[-2]


@pytest.mark.slow
def test_ids_of_a_dataset(published_file, tmp_path, capsys):
    """Images of one name in two folders, ids of their own, a class that the dataset lacks."""
    source = write_shapes(tmp_path / "shapes", train=1, val=3)
    content = json.loads((source / "annotations/instances_val2017.json").read_text())
    content["categories"] = [{"id": 70, "name": CLASSES[2]}, {"id": 40, "name": CLASSES[0]}]
    content["annotations"] = []
    for number, image in enumerate(content["images"]):
        file = source / "val2017" / image["file_name"]
        image |= {"id": 1000 + number, "file_name": f"cam{number}/a.jpg"}
        (tmp_path / f"set/cam{number}").mkdir(parents=True)
        shutil.copy(file, tmp_path / "set" / image["file_name"])
    annotations, objects, plain = (tmp_path / name for name in ("val.json", "found.json", "plain.json"))
    annotations.write_text(json.dumps(content))
    common = (published_file, tmp_path / "set", "--no-images", "--json")
    assert run(*common, objects, "--annotations", annotations) == 0
    assert run(*common, plain) == 0
    found, whole = json.loads(objects.read_text()), json.loads(plain.read_text())
    assert isinstance(found, list)
    place = {image["id"]: image["file_name"] for image in whole["images"]}
    ids = {image["file_name"]: image["id"] for image in content["images"]}
    kept = {1: 40, 3: 70}
    expected = [
        (ids[place[one["image_id"]]], kept[one["category_id"]], one["bbox"], one["score"], one["segmentation"])
        for one in whole["annotations"]
        if one["category_id"] in kept
    ]
    keys = ("image_id", "category_id", "bbox", "score", "segmentation")
    assert [tuple(one[key] for key in keys) for one in found] == expected
    assert {one["image_id"] for one in found} <= set(ids.values())
    (tmp_path / "set/cam0/a.jpg").rename(tmp_path / "set/cam0/b.jpg")
    capsys.readouterr()
    assert run(*common, objects, "--annotations", annotations) == 3
    assert "left out, wholly or in part: 1 (cam0/b.jpg)" in capsys.readouterr().out
    # An object of each class: the dataset has two of them.
    frame = Frame(np.zeros((96, 96, 3), np.uint8), str(tmp_path / "set/cam1/a.jpg"), "cam1/a.jpg")
    boxes, scores, labels = np.tile(np.float32([1, 2, 9, 9]), (3, 1)), np.float32([0.9, 0.8, 0.7]), np.arange(3)
    file = CocoFile(objects, CLASSES, annotations)
    file.add(Result(frame, boxes, scores, labels, None, CLASSES))
    file.close()
    assert [(one["image_id"], one["category_id"]) for one in json.loads(objects.read_text())] == [
        (1001, 40),
        (1001, 70),
    ]
    with pytest.raises(DataError, match=r"val\.json has none of the detector's classes \(tree\): give another file"):
        CocoFile(objects, ["tree"], annotations)


@pytest.mark.slow
def test_a_report_of_a_file(published_file, tmp_path, monkeypatch, capsys):
    root = write_shapes(tmp_path / "shapes", train=1, val=2)
    annotations, objects = root / "annotations/instances_val2017.json", tmp_path / "found.json"
    assert run(published_file, root / "val2017", "--no-images", "--json", objects, "--annotations", annotations) == 0
    assert len({one["image_id"] for one in json.loads(objects.read_text())}) == 2
    analyze.main(["results", str(objects), "--annotations", str(annotations), "--out", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").is_file()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--predictions", "nowhere.json"], "--predictions {}/nowhere.json does not exist"),
        (["x.pth", "--predictions", "found.json"], "scores a file, and checkpoint needs a model: leave it out"),
        (["--predictions", "found.json", "--tta"], "and tta needs a model"),
        (["--predictions", "found.json"], "holds no predictions in the format of COCO's results"),
    ],
)
def test_refusals(tmp_path, monkeypatch, refused, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "set", train=1, val=1)
    Path("found.json").write_text(json.dumps({"images": [], "annotations": []}))
    assert words.format(tmp_path) in refused(test.main, NANO, *arguments, "--cfg-options", "data_root=set")
