"""Whole runs: what is reported is about the images that were run, whatever their files were named by."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import lines_logged_by
from forked import _one_thread_and_no_process_left, forked_ranks  # noqa: F401 - a fixture
from made_results import write_shapes
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import RUNNERS
from mmengine.structures import InstanceData
from scoring import recorded

from localvit_det import preflight
from localvit_det.analysis.coco import average_precision, evaluate
from localvit_det.analysis.report import read_record
from localvit_det.analysis.results import class_table
from localvit_det.config import discovery, load_config
from localvit_det.datasets.synthetic_shapes_datasets import make_panoptic_maps
from localvit_det.errors import DataError, raise_all
from localvit_det.evaluation import exact_metrics
from localvit_det.evaluation.record import keep_predictions, write_record
from localvit_det.ops.panopticapi import rgb2id
from localvit_det.preflight.data import find_problems

CONFIG = "configs/mask_rcnn_shuffle_nano_shapes.py"
FILE, SMALL = "annotations/instances_val2017.json", "annotations/val_small.json"


@MODELS.register_module(force=True)
class Oracle(BaseModel):
    """Finds the objects of each image as the dataset has them, with scores below the others' in some images."""

    def __init__(self, score: float = 0.9) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.score = score

    def forward(self, inputs: object, data_samples: list | None = None, mode: str = "tensor") -> object:
        if mode == "loss":
            return {"loss": self.weight.sum()}
        for sample in data_samples:
            truth = sample.gt_instances
            boxes = getattr(truth.bboxes, "tensor", truth.bboxes)  # loaded after the resizing
            masks = torch.from_numpy(truth.masks.to_ndarray()).bool()
            scores = torch.full((len(boxes),), self.score)
            sample.pred_instances = InstanceData(bboxes=boxes, labels=truth.labels, scores=scores, masks=masks)
        return data_samples


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Eight images in a file of their own, with a coarse box in each, of the twelve of the whole file."""
    root = write_shapes(tmp_path_factory.mktemp("run") / "shapes")
    content = json.loads((root / FILE).read_text())
    content["images"] = content["images"][:8]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
    (root / SMALL).write_text(json.dumps(content))
    return root


def run_of(root: Path, work_dir: Path, options: dict, config: str | Path = CONFIG) -> Config:
    cfg = load_config(config, {"data_root": f"{root}/", **options})
    for split in ("val", "test"):
        cfg[f"{split}_dataloader"].update(num_workers=0, persistent_workers=False)
    cfg.model, cfg.work_dir = {"type": "Oracle"}, str(work_dir)
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook["type"] != "FusedEvaluationHook"]
    return cfg


def child_config(folder: Path) -> Path:
    path = folder / "child.py"
    path.write_text(f"_base_ = '{Path(CONFIG).absolute()}'\ntest_dataloader = dict(dataset=dict(ann_file='{SMALL}'))\n")
    return path


WAYS = {
    "option of the test": {"test_dataloader.dataset.ann_file": SMALL},
    "option of the validation": {"val_dataloader.dataset.ann_file": SMALL},
    "child config": {},
    "indices": {"test_dataloader.dataset.indices": 8},
}


@pytest.mark.parametrize("way", WAYS)
def test_part_of_the_images(root, tmp_path, way):
    config = child_config(tmp_path) if way == "child config" else CONFIG
    cfg = run_of(root, tmp_path / "run", WAYS[way], config)
    keep_predictions(cfg)
    if way == "option of the validation":
        assert Path(cfg.val_evaluator.ann_file) == root / SMALL
    runner = RUNNERS.build(cfg)
    with recorded() as numbers:
        metrics = runner.test()
    # All objects are found; before, those of the other four images were missed.
    assert metrics["coco/bbox_mAP"] == 1
    np.testing.assert_allclose(numbers["bbox"][:2], 1, atol=1e-6)
    runner.cfg.load_from = "weights.pth"
    write_record(runner, metrics)
    record = read_record(tmp_path / "run")
    assert record.image_count == 8
    assert record.image_ids == (list(range(4, 12)) if way == "indices" else None)
    evaluation = evaluate(record.annotations, record.predictions, record.classes, record.images, record.image_ids)
    assert average_precision(evaluation.tasks["segm"]) == pytest.approx(numbers["segm"][0], abs=1e-6)
    assert class_table(evaluation, "bbox").rows[-1][1] == 8  # images


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_score_a_part_of_the_images(root, tmp_path):
    """Seven images of two processes, one of which is padded with an eighth."""

    def go(rank: int) -> None:
        cfg = run_of(root, tmp_path / "run", {"test_dataloader.dataset.indices": 7})
        cfg.launcher = "pytorch"
        runner = RUNNERS.build(cfg)
        with recorded() as numbers:
            metrics = runner.test()
        found = {"AP": metrics["coco/bbox_mAP"], "ids": runner.test_evaluator.metrics[0].image_ids}
        (tmp_path / f"{rank}.json").write_text(json.dumps(found | {task: list(row) for task, row in numbers.items()}))

    ranks = forked_ranks(go, tmp_path)
    assert [rank.wait(60) for rank in ranks] == [0, 0], ranks[0].text()[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["AP"] == second["AP"] == 1
    assert first["bbox"][0] == pytest.approx(1, abs=1e-6)
    assert sorted(first["ids"]) == list(range(4, 11))


def test_validation_of_a_training(root, tmp_path):
    cfg = run_of(root, tmp_path / "run", {"val_dataloader.dataset.indices": 8, "train_cfg.max_epochs": 1})
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.val_interval = 1
    runner = RUNNERS.build(cfg)
    with recorded() as numbers:
        runner.train()
    assert numbers["bbox"][0] == pytest.approx(1, abs=1e-6)


# ---- two files


def two_files(root: Path, folder: Path, dataset: str, evaluator: str, parent: str = CONFIG) -> Path:
    """Return a config that has other files than its parent."""
    path = folder / "two.py"
    path.write_text(
        f"_base_ = '{Path(parent).absolute()}'\ntest_dataloader = dict(dataset=dict(ann_file='{dataset}'))\n"
        f"test_evaluator = dict(ann_file='{root}/{evaluator}')\n"
    )
    return path


def test_config_whose_evaluator_lacks_images(root, tmp_path, monkeypatch):
    """The evaluator follows its dataset, and says so; also where the ids are those of other images."""
    other = json.loads((root / FILE).read_text())
    other["images"][0]["file_name"] = "other.jpg"
    (root / "annotations/other.json").write_text(json.dumps(other))
    (root / "annotations/broken.json").write_text("{")
    said = lines_logged_by(monkeypatch, discovery)
    for others in (SMALL, "annotations/other.json", "annotations/broken.json"):
        cfg = run_of(root, tmp_path / "run", {}, two_files(root, tmp_path, FILE, others))
        assert Path(cfg.test_evaluator.ann_file) == root / FILE
        assert f"test_evaluator.ann_file is {root}/{others}, and its dataset reads {root}/{FILE}" in said.pop()


CORRECTED = "annotations/corrected.json"


@pytest.fixture
def corrected(root) -> Path:
    """Ground truth of the same images, without the objects of the first one."""
    content = json.loads((root / FILE).read_text())
    first = content["images"][0]["id"]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != first]
    (root / CORRECTED).write_text(json.dumps(content))
    return root / CORRECTED


@pytest.mark.parametrize("dataset", [FILE, SMALL])
def test_config_with_ground_truth_of_its_own(root, corrected, tmp_path, monkeypatch, dataset):
    """Corrected annotations of the same images, or of more, are scored; a line says so. A child changes nothing."""
    said = lines_logged_by(monkeypatch, discovery)
    path = two_files(root, tmp_path, dataset, CORRECTED)
    (tmp_path / "child.py").write_text("_base_ = 'two.py'\n")
    for config in (path, tmp_path / "child.py"):
        cfg = run_of(root, tmp_path / "run", {}, config)
        assert Path(cfg.test_evaluator.ann_file) == corrected
        line = f"test_evaluator: the images of {root}/{dataset} are scored against {corrected}, as the config says."
        assert said.pop() == line
        raise_all(list(find_problems(cfg, "test")))
    # What is found in the first image counts as wrong.
    assert 0 < RUNNERS.build(cfg).test()["coco/bbox_mAP"] < 1
    assert load_config(path, {"data_root": f"{root}/"}, data=False).test_evaluator.ann_file == str(corrected)


def test_child_that_replaces_the_file_of_its_dataset_alone(root, corrected, tmp_path, monkeypatch):
    """Its parent's file is not scored, though it has the same images; nor is that of the parent's parent."""
    said = lines_logged_by(monkeypatch, discovery)
    two_files(root, tmp_path, SMALL, FILE)
    body = f"test_dataloader = dict(dataset=dict(ann_file='{CORRECTED}'))\n"
    (tmp_path / "child.py").write_text(f"_base_ = 'two.py'\n{body}")
    (tmp_path / "grandchild.py").write_text("_base_ = ['child.py']\n")
    for name in ("child.py", "grandchild.py"):
        cfg = run_of(root, tmp_path / "run", {}, tmp_path / name)
        assert Path(cfg.test_evaluator.ann_file) == corrected
        assert f"test_evaluator.ann_file is {root}/{FILE}, and its dataset reads {corrected}" in said.pop()


def test_ground_truth_of_its_own_without_areas_stops_before_the_run(root, corrected, tmp_path):
    content = json.loads(corrected.read_text())
    del content["annotations"][0]["area"]
    corrected.write_text(json.dumps(content))
    cfg = run_of(root, tmp_path / "run", {}, two_files(root, tmp_path, FILE, CORRECTED))
    with pytest.raises(DataError, match=f"1 annotations in {corrected} lack the key area"):
        raise_all(list(find_problems(cfg, "test")))


def test_option_of_the_evaluator(root, tmp_path, monkeypatch):
    """A file that is given to the evaluator by hand is taken as far as it has the images of the dataset."""
    said = lines_logged_by(monkeypatch, preflight.data)
    options = {"test_dataloader.dataset.ann_file": SMALL, "test_evaluator.ann_file": str(root / FILE)}
    cfg = run_of(root, tmp_path, options)
    assert Path(cfg.test_evaluator.ann_file) == root / FILE
    raise_all(list(find_problems(cfg, "test")))
    assert any("has 12 images, of which the 8 of its dataset are scored" in one for one in said)
    cfg = run_of(root, tmp_path, {"test_evaluator.ann_file": str(root / SMALL)})
    with pytest.raises(DataError, match="lacks 4 of the 12 images"):
        raise_all(list(find_problems(cfg, "test")))
    other = json.loads((root / FILE).read_text())
    other["images"][0]["file_name"] = "other.jpg"
    (tmp_path / "other.json").write_text(json.dumps(other))
    cfg = run_of(root, tmp_path, {"test_evaluator.ann_file": str(tmp_path / "other.json")})
    with pytest.raises(DataError, match="has other images under the ids of 1 of the 12 images"):
        raise_all(list(find_problems(cfg, "test")))


def test_file_cut_in_its_images_alone(root, tmp_path, monkeypatch):
    """Annotations of other images are no mistake of a file that is scored, and do not count."""
    said = lines_logged_by(monkeypatch, preflight.data)
    content = json.loads((root / FILE).read_text())
    (root / "annotations/cut.json").write_text(json.dumps({**content, "images": content["images"][:3]}))
    cfg = run_of(root, tmp_path / "run", {"test_dataloader.dataset.ann_file": "annotations/cut.json"})
    raise_all(list(find_problems(cfg, "test")))
    assert "have an image_id that is not among the images" in said[0]
    assert RUNNERS.build(cfg).test()["coco/segm_mAP"] == 1


# ---- panoptic


@pytest.mark.parametrize("written", [False, True])
def test_panoptic_part_of_the_images(root, tmp_path, written):
    """With files of predictions MMDetection raised; all objects of eight images are found."""
    config = "configs/panoptic_fpn_shuffle_nano_shapes.py"
    make_panoptic_maps(root)
    cfg = load_config(config, {"data_root": f"{root}/", "test_dataloader.dataset.ann_file": "panoptic/few.json"})
    assert Path(cfg.test_evaluator.ann_file) == root / "panoptic/few.json"
    # The whole file is no harm either, as under MMDetection's own tools.
    settings = {"outfile_prefix": str(tmp_path / "found")} if written else {}
    settings["ann_file"] = f"{root}/panoptic/val2017.json"
    metric = METRICS.build(exact_metrics({**cfg.test_evaluator, **settings}))
    dataset = DATASETS.build({**cfg.test_dataloader.dataset, "ann_file": "panoptic/val2017.json", "indices": 8})
    metric.dataset_meta = dataset.metainfo
    for sample in map(dataset.get_data_info, range(len(dataset))):
        colors = cv2.imread(sample["seg_map_path"])[..., ::-1]
        ids, found = rgb2id(colors), np.zeros(colors.shape[:2], np.int64)
        for one in sample["segments_info"]:
            found[ids == one["id"]] = one["category"] + one["id"] * INSTANCE_OFFSET
        segments = {"sem_seg": torch.from_numpy(found)[None]}
        size = {"img_path": sample["img_path"], "ori_shape": found.shape}
        metric.process({}, [{"img_id": sample["img_id"], "pred_panoptic_seg": segments, **size}])
    assert metric.evaluate(8)["coco_panoptic/PQ"] == pytest.approx(100)
    with pytest.raises(DataError, match="no such image"):
        metric.process({}, [{"img_id": 99, "pred_panoptic_seg": segments, **size}])


# ---- nothing found


def test_test_without_a_detection_says_why(root, tmp_path, caplog):
    cfg = load_config(CONFIG, {"data_root": f"{root}/", "test_dataloader.dataset.indices": 2})
    cfg.model.test_cfg.rcnn.score_thr = 0.99
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.work_dir = str(tmp_path)
    runner = RUNNERS.build(cfg)
    said = []
    runner.logger.warning = said.append
    metrics = runner.test()
    assert metrics["coco/bbox_mAP"] == metrics["coco/segm_mAP"] == 0
    assert "the first 2 images have no score above 0." in said[-1]
    assert "model.test_cfg.rcnn.score_thr=0.99 keeps higher scores only" in said[-1]
    assert runner.model.roi_head.test_cfg.score_thr == 0.99  # as before
