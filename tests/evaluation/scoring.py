"""Predictions on a small set, scored by a metric as a run does it, and by pycocotools as a reference."""

import contextlib
import copy
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from made_results import make_predictions
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.evaluation import metrics

LIMITS = [100, 300, 1000]  # as CocoMetric sets them


def exact_predictions(annotations: Path) -> list[dict]:
    """Predictions whose boxes are exact in fp32, without equal scores; the first object of the file is found, too."""
    found = make_predictions(annotations)
    first = json.loads(annotations.read_text())["annotations"][0]
    mask = next(one["segmentation"] for one in found if one["image_id"] == first["image_id"])
    keys = ("image_id", "category_id", "bbox")
    found.append({key: first[key] for key in keys} | {"score": 0.95, "segmentation": mask})
    for number, one in enumerate(found):
        one["bbox"] = (np.round(np.array(one["bbox"]) * 4) / 4).tolist()
        one["score"] = float(np.float32(one["score"] - number * 1e-4))
    return found


def reference(content: dict, predictions: Sequence[dict]) -> dict[str, np.ndarray]:
    """The twelve numbers of pycocotools for boxes and masks."""
    numbers = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for task in ("bbox", "segm"):
            truth = COCO()
            truth.dataset = copy.deepcopy(content)
            truth.createIndex()
            keys = {"image_id", "category_id", "score", "bbox" if task == "bbox" else "segmentation"}
            evaluator = COCOeval(truth, truth.loadRes([{k: one[k] for k in keys} for one in predictions]), task)
            evaluator.params.maxDets = LIMITS
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
            numbers[task] = np.array(evaluator.stats)
    return numbers


def scored(
    metric_class: type[CocoMetric], file: Path, predictions: Sequence[dict], ids: dict | None = None, **settings: object
) -> dict[str, np.ndarray]:
    """The twelve numbers of a metric, unrounded.

    Args:
        ids: The images that are run: ids of the file by those of the predictions. All, as they are, by default.
    """
    content = json.loads(file.read_text())
    images = {image["id"]: image for image in content["images"]}
    metric = metric_class(ann_file=str(file), metric=["bbox", "segm"], **settings)
    metric.dataset_meta = {"classes": CLASSES}
    ids = {identity: identity for identity in images} if ids is None else ids
    for identity, own in ids.items():
        found = [one for one in predictions if one["image_id"] == identity]
        metric.process({}, [sample(images[own], found)])
    with recorded() as numbers:
        metric.evaluate(len(ids))
    return numbers


def sample(image: dict, found: Sequence[dict]) -> dict:
    """What a detector returns for an image; labels are categories from 1."""
    size = (image["height"], image["width"])
    boxes = np.array([one["bbox"] for one in found], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = [coco_masks.decode(one["segmentation"]).astype(bool) for one in found]
    return {
        "img_id": image["id"],
        "img_path": f"somewhere/{image['file_name']}",
        "ori_shape": size,
        "pred_instances": {
            "bboxes": torch.from_numpy(boxes),
            "scores": torch.tensor([one["score"] for one in found]),
            "labels": torch.tensor([one["category_id"] - 1 for one in found], dtype=torch.long),
            "masks": torch.from_numpy(np.array(masks).reshape(-1, *size)),
        },
    }


@contextlib.contextmanager
def recorded() -> Iterator[dict[str, np.ndarray]]:
    """What evaluators summarize meanwhile, by their tasks."""
    numbers: dict[str, np.ndarray] = {}

    def recorder(build: type) -> type:
        class Recorder(build):
            def summarize(self) -> None:
                super().summarize()
                numbers[self.params.iouType] = np.array(self.stats)

        return Recorder

    ours = metrics.coco_evaluator
    with (
        mock.patch.object(coco_metric, "COCOeval", recorder(coco_metric.COCOeval)),
        mock.patch.object(metrics, "coco_evaluator", side_effect=lambda fast: recorder(ours(fast))),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield numbers
