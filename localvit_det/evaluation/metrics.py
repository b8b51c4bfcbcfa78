"""MMDetection's metrics of COCO, for exactly the images that were evaluated; `ReliableRunner` takes them instead.

faster-coco-eval (C++) computes the same numbers in pycocotools' place, where it is installed.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
from mmdet.evaluation import CocoMetric, CocoPanopticMetric, LVISMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.fileio import load
from mmengine.fileio.handlers.json_handler import set_default
from mmengine.logging import MMLogger

from ..config.utils import is_coco_metric, registered, walk
from ..config_names import type_name
from ..errors import ConfigError, DataError
from .coco import GroundTruth, check_fast_eval, coco_evaluator, prints_logged


class _ChecksImages(BaseMetric):
    """What the metrics do with their annotation file: it is kept, and has to have the images of each batch.

    What is printed about it, and with its scores, is logged.
    """

    _api = "_coco_api"  # the attribute that has its content

    def __init__(self, **settings: Any) -> None:
        with prints_logged():
            super().__init__(**settings)
        self._ann_file = settings.get("ann_file")
        self._whole = getattr(self, self._api)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch.

        Raises:
            DataError: The annotation file does not have these images.
        """
        if self._whole is not None:
            check_images(self._whole.imgs, data_samples, self._ann_file)
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        with prints_logged():
            return super().compute_metrics(results)


@METRICS.register_module()
class ExactCocoMetric(_ChecksImages, CocoMetric):
    """MMDetection's `CocoMetric` on the images that were evaluated and the annotations that pycocotools can score.

    With `fast` faster-coco-eval computes: the same numbers; by default where it is installed.
    """

    outfile_prefix: str | None  # of `CocoMetric`, like the next
    cat_ids: Any

    def __init__(self, fast: bool | None = None, **settings: Any) -> None:
        if fast:
            check_fast_eval()
        super().__init__(**settings)
        self._fast = fast
        self._truths: dict[bool, GroundTruth] = {}
        self._written: dict | None = None
        self.detections: int | None = None  # count of the last evaluation
        self.image_ids: list | None = None  # that were scored last, None if they are all of the annotation file

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the predictions of all images, each image once."""
        by_image = {prediction["img_id"]: (truth, prediction) for truth, prediction in results}
        results = list(by_image.values())
        self.detections = sum(len(prediction["scores"]) for _, prediction in results)
        settings = {key: getattr(self, key) for key in ("metrics", "outfile_prefix", "_coco_api")}
        numbers: dict[str, float] = {}
        # CocoMetric takes the evaluator from its module, so it is exchanged there, and only while this one works.
        exchanged = mock.patch.object(coco_metric, "COCOeval", coco_evaluator(self._fast))
        with tempfile.TemporaryDirectory() as folder, exchanged:
            try:
                self.outfile_prefix = self.outfile_prefix or f"{folder}/results"
                content = self._content([truth for truth, _ in results])
                self._report_limit(content, list(by_image))
                for metric in settings["metrics"]:
                    self._use_truth(content, list(by_image), masks=metric == "segm")
                    self.metrics = [metric]
                    numbers |= super().compute_metrics(results)
            finally:
                self.__dict__.update(settings, cat_ids=None, img_ids=None, _written=None)
        return numbers

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict:
        """Write the predictions with the ids of the annotation file, once for all metrics.

        What MMDetection writes, image by image, which takes a tenth of its time and no memory.
        """
        if self._written is None:
            kinds = ["bbox", *(["segm"] if "masks" in results[0] else [])]
            for kind in kinds:
                with open(f"{outfile_prefix}.{kind}.json", "w", encoding="utf-8") as file:
                    texts = (json.dumps(self._entries(one, kind), default=set_default)[1:-1] for one in results)
                    file.write("[")
                    file.writelines(", " * bool(place) + text for place, text in enumerate(filter(None, texts)))
                    file.write("]")
            files = {kind: f"{outfile_prefix}.{kind}.json" for kind in kinds}
            self._written = {**files, "proposal": files["bbox"]}
        return self._written

    def _entries(self, result: Mapping[str, Any], kind: str) -> list[dict]:
        """Return the predictions of an image in the format of COCO's results."""
        boxes = result["bboxes"].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        scores = result.get("mask_scores", result["scores"]) if kind == "segm" else result["scores"]
        listed = zip(boxes.tolist(), scores.tolist(), result["labels"].tolist(), strict=True)
        ids = self._coco_api.category_ids
        entries = [
            {"image_id": result["img_id"], "bbox": box, "score": score, "category_id": ids[label]}
            for box, score, label in listed
        ]
        for entry, mask in zip(entries, result["masks"] if kind == "segm" else (), strict=False):
            counts = mask["counts"]
            entry["segmentation"] = {**mask, "counts": counts.decode() if isinstance(counts, bytes) else counts}
        return entries

    def _content(self, truths: Sequence[dict]) -> dict:
        if self._whole is not None:
            return self._whole.dataset
        content = load(self.gt_to_coco_json(truths, self.outfile_prefix))
        return {"annotations": [], **content}

    def _use_truth(self, content: dict, image_ids: list, masks: bool) -> None:
        truth = self._truths.get(masks)
        if truth is None or truth.numbers.keys() != set(image_ids) or self._whole is None:
            source = self._ann_file or "of the samples"
            truth = GroundTruth(content, image_ids, self.dataset_meta["classes"], masks, source)
            self._truths[masks] = truth
        self._coco_api, self.cat_ids, self.img_ids = truth, list(truth.cats), [truth.numbers[one] for one in image_ids]

    def _report_limit(self, content: dict, image_ids: list) -> None:
        count, known = len(image_ids), self.image_ids
        self.image_ids = image_ids if count < len(content["images"]) else None
        if self.image_ids != known:
            MMLogger.get_current_instance().info(
                f"Scored are the {count} images that were evaluated, of {len(content['images'])} in {self._ann_file}."
            )


@METRICS.register_module()
class ExactPanopticMetric(_ChecksImages, CocoPanopticMetric):
    """MMDetection's `CocoPanopticMetric` on the images that were evaluated."""

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self._whole is not None and self.tmp_dir is None:  # else each batch is already evaluated by itself
            segments = self._whole.img_ann_map
            self._coco_api = copy.copy(self._whole)
            self._coco_api.img_ann_map = {
                truth["image_id"]: segments.get(truth["image_id"], []) for truth, _ in results
            }
        return super().compute_metrics(results)


@METRICS.register_module()
class ExactLVISMetric(_ChecksImages, LVISMetric):
    """MMDetection's `LVISMetric` on the images that were evaluated; what that one sets is nothing that lvis reads."""

    _api = "_lvis_api"

    def compute_metrics(self, results: list) -> dict[str, float]:
        self.img_ids = [truth["img_id"] for truth, _ in results]
        if self._whole is not None:
            self._lvis_api = copy.copy(self._whole)
            self._lvis_api.imgs = {identity: self._whole.imgs[identity] for identity in self.img_ids}
            self._lvis_api.dataset = {**self._whole.dataset, "images": list(self._lvis_api.imgs.values())}
        return super().compute_metrics(results)


@METRICS.register_module()
class FastCocoMetric(ExactCocoMetric):
    """`ExactCocoMetric` that needs faster-coco-eval: without it there is a RequirementError."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(fast=True, **settings)


def check_images(images: Mapping[object, dict], samples: Sequence[dict], ann_file: str | None) -> None:
    """Check that the annotation file of a metric has the images of samples, under the same ids and names.

    Raises:
        DataError: It does not.
    """
    for sample in samples:
        identity, path = sample["img_id"], sample.get("img_path")
        image = images.get(identity)
        name = image and image.get("file_name")
        # Labels of panoptic sets are listed by the names of their maps.
        if image is None or (path and name and _stem(path) != _stem(name)):
            there = "no such image" if image is None else f"{name} under this id"
            raise DataError(
                f"The image {path or identity} (image_id {identity}) was evaluated, but the evaluator's ann_file "
                f"{ann_file} has {there}: give it the annotation file of its dataset."
            )


def _stem(path: str) -> str:
    return os.path.splitext(path.replace("\\", "/").rsplit("/", 1)[-1])[0]


def exact_metrics(evaluator: Any) -> Any:
    """Return an evaluator's config with our metrics in the place of MMDetection's of COCO."""
    if isinstance(evaluator, (list, tuple)):
        return [exact_metrics(one) for one in evaluator]
    if not isinstance(evaluator, dict):
        return evaluator
    named = registered(METRICS, evaluator)
    for ours in (ExactCocoMetric, ExactPanopticMetric, ExactLVISMetric):
        if named is ours.__bases__[1]:
            return {**evaluator, "type": ours}
    return {key: exact_metrics(value) if key == "metrics" else value for key, value in evaluator.items()}


def use_fast_eval(cfg: Config) -> None:
    """Make every metric of COCO in a config a `FastCocoMetric`.

    Raises:
        RequirementError: faster-coco-eval is not installed.
        ConfigError: No evaluator of the config is a `CocoMetric`.
    """
    check_fast_eval()
    evaluators = [node for split in ("val", "test") for _, node in walk(cfg.get(f"{split}_evaluator"))]
    found = list(filter(is_coco_metric, evaluators))
    if not found:
        types = sorted(set(map(type_name, evaluators)))
        raise ConfigError(f"--fast-eval replaces CocoMetric, but the config evaluates with {types}; leave it out.")
    for node in found:
        node["type"] = "FastCocoMetric"
