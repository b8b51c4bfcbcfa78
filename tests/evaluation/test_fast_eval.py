"""faster-coco-eval must give pycocotools' numbers, on drawn and on real images."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmdet.registry import MODELS
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config

from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import ConfigError, RequirementError
from localvit_det.evaluation import FastCocoMetric, metrics, use_fast_eval

installed = pytest.mark.skipif(
    importlib.util.find_spec("faster_coco_eval") is None, reason="faster-coco-eval is not installed"
)
LIMITS = (100, 300, 1000)


@pytest.fixture(scope="module")
def shapes_annotations(tmp_path_factory) -> Path:
    root = make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=4, num_val=12, size=96)
    return root / "annotations/instances_val2017.json"


@pytest.fixture
def real_annotations(coco_root) -> Path:
    return coco_root / "annotations/instances_val2017.json"


@pytest.fixture(params=["shapes_annotations", "real_annotations"])
def annotations(request) -> Path:
    return request.getfixturevalue(request.param)


def predictions(coco: COCO, crowd_one: bool = True) -> list[dict]:
    """What a middling detector says: shifted, misnamed, doubled and missed objects, and too many on one image."""
    random = np.random.default_rng(0)
    categories, found = coco.getCatIds(), []
    for index, image in enumerate(coco.getImgIds()):
        anns = coco.loadAnns(coco.getAnnIds(imgIds=image, iscrowd=False))
        for ann in anns * (1 + 60 * (crowd_one and index == 0)):
            if random.random() < 0.15:
                continue
            shift = random.integers(-6, 7, size=2)
            mask = np.roll(coco.annToMask(ann), shift, axis=(0, 1))
            found.append(
                {
                    "image_id": image,
                    "category_id": ann["category_id"] if random.random() < 0.9 else int(random.choice(categories)),
                    "bbox": [ann["bbox"][0] + shift[1], ann["bbox"][1] + shift[0], *ann["bbox"][2:]],
                    "score": round(float(random.random()), 2),  # with ties
                    "mask": mask,
                }
            )
    return found


def twelve_numbers(evaluator: type, coco: COCO, results: list[dict], kind: str) -> np.ndarray:
    keep = ("image_id", "category_id", "score", *(["bbox"] if kind == "bbox" else []))
    chosen = [{key: result[key] for key in keep} for result in results]
    if kind == "segm":
        for result, source in zip(chosen, results, strict=True):
            result["segmentation"] = encode_mask_results([source["mask"]])[0]
    evaluation = evaluator(coco, coco.loadRes(chosen), kind)
    evaluation.params.maxDets = list(LIMITS)  # as CocoMetric sets them
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.array(evaluation.stats)


@installed
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equals_pycocotools(annotations, kind):
    coco = COCO(str(annotations))
    results = predictions(coco)
    expected = twelve_numbers(COCOeval, coco, results, kind)
    fast = twelve_numbers(metrics._evaluator_class(), coco, results, kind)
    assert len(expected) == len(fast) == 12
    assert 0.05 < expected[0] < 0.95  # neither everything nor nothing was found
    np.testing.assert_allclose(fast, expected, rtol=0, atol=1e-6)


@installed
def test_average_precision_over_a_hundred_detections(shapes_annotations):
    """The one number for which pycocotools does not take the largest limit."""
    coco = COCO(str(shapes_annotations))
    image, ann = coco.getImgIds()[0], coco.loadAnns(coco.getAnnIds(imgIds=coco.getImgIds()[0]))[0]
    right = {"image_id": image, "category_id": ann["category_id"], "bbox": ann["bbox"], "score": 0.1}
    wrong = {**right, "bbox": [0, 0, 2, 2], "score": 0.9}
    results = [dict(wrong) for _ in range(120)] + [right]
    expected = twelve_numbers(COCOeval, coco, results, "bbox")
    fast = twelve_numbers(metrics._evaluator_class(), coco, results, "bbox")
    assert expected[0] == 0 < expected[1]
    np.testing.assert_allclose(fast, expected, rtol=0, atol=1e-6)


@installed
def test_metric_in_coco_metrics_place(annotations, monkeypatch):
    """The whole metric: same keys and numbers, from the other evaluator; afterwards MMDetection's is back."""
    used = []
    make = metrics._evaluator_class
    monkeypatch.setattr(metrics, "_evaluator_class", lambda: used.append(True) or make())
    coco = COCO(str(annotations))
    by_image: dict[int, list[dict]] = {image: [] for image in coco.imgs}
    for result in predictions(coco, crowd_one=False):
        by_image[result["image_id"]].append(result)
    names = tuple(category["name"] for category in coco.loadCats(coco.getCatIds()))
    numbers = []
    for metric_class in (CocoMetric, FastCocoMetric):
        metric = metric_class(ann_file=str(annotations), metric=["bbox", "segm"], classwise=True)
        metric.dataset_meta = {"classes": names}
        for image, found in by_image.items():
            height, width = (coco.imgs[image][side] for side in ("height", "width"))
            boxes = np.array([result["bbox"] for result in found], dtype=np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            instances = {
                "bboxes": torch.from_numpy(boxes),
                "scores": torch.tensor([result["score"] for result in found]),
                "labels": torch.tensor([coco.getCatIds().index(result["category_id"]) for result in found]).long(),
                "masks": torch.from_numpy(np.array([result["mask"] for result in found]).reshape(-1, height, width)),
            }
            metric.process({}, [{"img_id": image, "ori_shape": (height, width), "pred_instances": instances}])
        numbers.append(metric.evaluate(size=len(by_image)))
    assert used == [True]
    assert numbers[0].keys() == numbers[1].keys()
    np.testing.assert_allclose(list(numbers[1].values()), list(numbers[0].values()), rtol=0, atol=1e-6)


@installed
def test_option_replaces_the_type():
    evaluator = {"type": "CocoMetric", "metric": "bbox"}
    cfg = Config({"val_evaluator": evaluator, "test_evaluator": [evaluator, {"type": "VOCMetric"}]})
    use_fast_eval(cfg)
    assert cfg.val_evaluator.type == "FastCocoMetric"
    assert [e.type for e in cfg.test_evaluator] == ["FastCocoMetric", "VOCMetric"]
    use_fast_eval(cfg)  # again: nothing to do, no error
    with pytest.raises(ConfigError, match="VOCMetric"):
        use_fast_eval(Config({"val_evaluator": {"type": "VOCMetric"}}))


@installed
@pytest.mark.slow
def test_tool_evaluates_with_it(shapes_annotations, tmp_path):
    config = REPOSITORY / "configs/mask_rcnn_dwnet_nano_shapes.py"
    checkpoint = tmp_path / "random.pth"
    torch.save({"state_dict": MODELS.build(load_config(config).model).state_dict()}, checkpoint)
    command = [sys.executable, str(REPOSITORY / "tools/test.py"), str(config), str(checkpoint), "--fast-eval"]
    command += ["--work-dir", str(tmp_path / "run"), "--cfg-options", f"data_root={shapes_annotations.parents[1]}"]
    command += ["test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]
    command += ["model.test_cfg.rcnn.score_thr=0.0"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "COCOeval_opt.evaluate() finished" in done.stdout  # what the other evaluator says
    assert "\nsegm  " in done.stdout


def test_not_installed_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequirementError, match="pip install faster-coco-eval"):
        FastCocoMetric(metric="bbox")
    with pytest.raises(RequirementError, match="pip install faster-coco-eval"):
        use_fast_eval(Config({"val_evaluator": {"type": "CocoMetric"}}))
