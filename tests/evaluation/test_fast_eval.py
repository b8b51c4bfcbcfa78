"""faster-coco-eval must give pycocotools' numbers, on drawn and on real images."""

import importlib.util
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmdet.registry import MODELS
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config

from benchmarks.evaluators import compare
from localvit.commands import test
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import ConfigError, RequirementError
from localvit_det.evaluation import ExactCocoMetric, FastCocoMetric, metrics, use_fast_eval
from localvit_det.evaluation import coco as coco_module
from localvit_det.evaluation.coco import coco_evaluator, fast_evaluator

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
    fast = twelve_numbers(fast_evaluator(), coco, results, kind)
    assert len(expected) == len(fast) == 12
    assert 0.05 < expected[0] < 0.95  # neither everything nor nothing was found
    np.testing.assert_allclose(fast, expected, rtol=0, atol=1e-6)


@installed
def test_random_cases():
    """A few of those that `python -m benchmarks.evaluators --cases 1000` compares."""
    count, worst = compare(12, seed=4)
    assert count > 100_000
    assert worst <= 1e-6


@installed
def test_taken_by_default():
    assert coco_evaluator() is coco_evaluator(True) is fast_evaluator()
    assert coco_evaluator(False) is COCOeval


@pytest.mark.parametrize("other", [None, SimpleNamespace(COCOeval_faster=object, __version__="2.0.0", __spec__="")])
def test_another_one_is_reported_once(other, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", other)
    fast_evaluator.cache_clear()
    coco_module._report_slow.cache_clear()
    lines = []
    monkeypatch.setattr(coco_module, "print_log", lambda line, logger: lines.append(line))
    assert coco_evaluator() is coco_evaluator() is COCOeval
    assert len(lines) == 1
    assert "pycocotools evaluates" in lines[0]
    assert "pip install 'faster-coco-eval>=1.8,<2'" in lines[0]
    with pytest.raises(RequirementError, match="faster"):
        FastCocoMetric(metric="bbox")


def of_detector(coco: COCO, found: list[dict], image: int) -> dict:
    """A sample as a detector returns it."""
    height, width = (coco.imgs[image][side] for side in ("height", "width"))
    boxes = np.array([result["bbox"] for result in found], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = {
        "bboxes": torch.from_numpy(boxes),
        "scores": torch.tensor([result["score"] for result in found]),
        "labels": torch.tensor([coco.getCatIds().index(result["category_id"]) for result in found]).long(),
        "masks": torch.from_numpy(np.array([result["mask"] for result in found]).reshape(-1, height, width)),
    }
    return {"img_id": image, "ori_shape": (height, width), "pred_instances": instances}


def processed(metric_class: type, file: Path) -> CocoMetric:
    """A metric of boxes and masks that has seen all images."""
    coco = COCO(str(file))
    metric = metric_class(ann_file=str(file), metric=["bbox", "segm"], classwise=True)
    metric.dataset_meta = {"classes": tuple(category["name"] for category in coco.loadCats(coco.getCatIds()))}
    found = predictions(coco, crowd_one=False)
    for image in coco.imgs:
        metric.process({}, [of_detector(coco, [one for one in found if one["image_id"] == image], image)])
    return metric


def test_masks_are_kept_compressed(shapes_annotations):
    """Between two images nothing of the size of a mask is left."""
    metric = processed(ExactCocoMetric, shapes_annotations)
    masks = [mask for _, prediction in metric.results for mask in prediction["masks"]]
    assert len(masks) > 20
    assert all(isinstance(mask["counts"], bytes) for mask in masks)
    assert len(pickle.dumps(metric.results)) < len(masks) * 96 * 96 / 10  # what ranks send to each other


def test_written_predictions_are_those_of_mmdetection(shapes_annotations, tmp_path):
    """Whatever prefix: `--report` and `outfile_prefix` read and write them."""
    read = []
    for metric_class in (CocoMetric, ExactCocoMetric):
        metric = processed(metric_class, shapes_annotations)
        metric.results[0][1]["mask_scores"] = metric.results[0][1]["scores"] / 2
        metric.outfile_prefix = str(tmp_path / metric_class.__name__)
        metric.evaluate(len(metric.results))
        files = sorted(tmp_path.glob(f"{metric_class.__name__}*"))
        read.append({file.name.split(".", 1)[1]: json.loads(file.read_text()) for file in files})
    assert read[0] == read[1]
    assert read[0].keys() == {"bbox.json", "segm.json"}


@installed
def test_average_precision_over_a_hundred_detections(shapes_annotations):
    """The one number for which pycocotools does not take the largest limit."""
    coco = COCO(str(shapes_annotations))
    image, ann = coco.getImgIds()[0], coco.loadAnns(coco.getAnnIds(imgIds=coco.getImgIds()[0]))[0]
    right = {"image_id": image, "category_id": ann["category_id"], "bbox": ann["bbox"], "score": 0.1}
    wrong = {**right, "bbox": [0, 0, 2, 2], "score": 0.9}
    results = [dict(wrong) for _ in range(120)] + [right]
    expected = twelve_numbers(COCOeval, coco, results, "bbox")
    fast = twelve_numbers(fast_evaluator(), coco, results, "bbox")
    assert expected[0] == 0 < expected[1]
    np.testing.assert_allclose(fast, expected, rtol=0, atol=1e-6)


@installed
def test_metric_in_coco_metrics_place(annotations, monkeypatch):
    """The whole metric: same keys and numbers, from the other evaluator; afterwards MMDetection's is back."""
    used = []
    make = metrics.coco_evaluator
    monkeypatch.setattr(metrics, "coco_evaluator", lambda fast: used.append(fast) or make(fast))
    made = [processed(metric_class, annotations) for metric_class in (CocoMetric, FastCocoMetric)]
    numbers = [metric.evaluate(size=len(metric.results)) for metric in made]
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
def test_command_evaluates_with_it(shapes_annotations, tmp_path, capsys):
    config = REPOSITORY / "configs/mask_rcnn_dwnet_nano_shapes.py"
    checkpoint = tmp_path / "random.pth"
    torch.save({"state_dict": MODELS.build(load_config(config).model).state_dict()}, checkpoint)
    command = [str(config), str(checkpoint), "--fast-eval"]
    command += ["--work-dir", str(tmp_path / "run"), "--cfg-options", f"data_root={shapes_annotations.parents[1]}"]
    command += ["test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]
    command += ["model.test_cfg.rcnn.score_thr=0.0"]
    test.main(command)
    [log] = (tmp_path / "run").rglob("*.log")
    assert "COCOeval_opt.evaluate() finished" in log.read_text()  # what the other evaluator says
    assert "FastCocoMetric" in "".join(path.read_text() for path in (tmp_path / "run").rglob("*.py"))  # not the default
    assert "\nsegm  " in capsys.readouterr().out


def test_not_installed_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequirementError, match="pip install faster-coco-eval"):
        FastCocoMetric(metric="bbox")
    with pytest.raises(RequirementError, match="pip install faster-coco-eval"):
        use_fast_eval(Config({"val_evaluator": {"type": "CocoMetric"}}))
