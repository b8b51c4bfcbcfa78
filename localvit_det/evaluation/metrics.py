"""MMDetection's metrics of COCO, for exactly the images that were evaluated; `ReliableRunner` takes them instead.

`FastCocoMetric` computes the same numbers with faster-coco-eval (C++) in pycocotools' place.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

from mmdet.evaluation import CocoMetric, CocoPanopticMetric, LVISMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.fileio import load
from mmengine.logging import MMLogger

from ..config.utils import is_coco_metric, registered, walk
from ..config_names import type_name
from ..errors import ConfigError, DataError
from ..requirements import require_package
from .prints import prints_logged
from .truth import GroundTruth


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
        """Evaluate the predictions of all images."""
        with prints_logged():
            return super().compute_metrics(results)


@METRICS.register_module()
class ExactCocoMetric(_ChecksImages, CocoMetric):
    """MMDetection's `CocoMetric` on the images that were evaluated and the annotations that pycocotools can score.

    Args:
        settings: Arguments of `CocoMetric`.

    Attributes:
        detections: Count of the last evaluation.
        image_ids: Ids of the images that were scored last, None if they are all of the annotation file.
    """

    outfile_prefix: str | None  # of `CocoMetric`, like the next
    cat_ids: Any

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._truths: dict[bool, GroundTruth] = {}
        self._written: dict | None = None
        self.detections: int | None = None
        self.image_ids: list | None = None

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the predictions of all images, each image once."""
        by_image = {prediction["img_id"]: (truth, prediction) for truth, prediction in results}
        results = list(by_image.values())
        self.detections = sum(len(prediction["scores"]) for _, prediction in results)
        settings = {key: getattr(self, key) for key in ("metrics", "outfile_prefix", "_coco_api")}
        numbers: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
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
        """Write the predictions with the ids of the annotation file, once for all metrics."""
        if self._written is None:
            labels, self.cat_ids = self.cat_ids, self._coco_api.category_ids
            try:
                self._written = super().results2json(results, outfile_prefix)
            finally:
                self.cat_ids = labels
        return self._written

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
    """MMDetection's `CocoPanopticMetric` on the images that were evaluated.

    Args:
        settings: Arguments of `CocoPanopticMetric`.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the predictions of all images."""
        if self._whole is not None and self.tmp_dir is None:  # else each batch is already evaluated by itself
            segments = self._whole.img_ann_map
            self._coco_api = copy.copy(self._whole)
            self._coco_api.img_ann_map = {
                truth["image_id"]: segments.get(truth["image_id"], []) for truth, _ in results
            }
        return super().compute_metrics(results)


@METRICS.register_module()
class ExactLVISMetric(_ChecksImages, LVISMetric):
    """MMDetection's `LVISMetric` on the images that were evaluated; what that one sets is nothing that lvis reads.

    Args:
        settings: Arguments of `LVISMetric`.
    """

    _api = "_lvis_api"

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the predictions of all images."""
        self.img_ids = [truth["img_id"] for truth, _ in results]
        if self._whole is not None:
            self._lvis_api = copy.copy(self._whole)
            self._lvis_api.imgs = {identity: self._whole.imgs[identity] for identity in self.img_ids}
            self._lvis_api.dataset = {**self._whole.dataset, "images": list(self._lvis_api.imgs.values())}
        return super().compute_metrics(results)


@METRICS.register_module()
class FastCocoMetric(ExactCocoMetric):
    """`ExactCocoMetric`, computed by faster-coco-eval; every number is the same.

    Args:
        settings: Arguments of `CocoMetric`.

    Raises:
        RequirementError: faster-coco-eval is not installed.
    """

    def __init__(self, **settings: Any) -> None:
        check_fast_eval()
        super().__init__(**settings)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the predictions of all images."""
        # CocoMetric takes the evaluator from its module, so it is exchanged there, and only while this one works.
        with mock.patch.object(coco_metric, "COCOeval", _evaluator_class()):
            return super().compute_metrics(results)


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


def check_fast_eval() -> None:
    """Check that faster-coco-eval is there, before an inference of hours rather than after it.

    Raises:
        RequirementError: It is not installed.
    """
    require_package("faster_coco_eval", "FastCocoMetric (--fast-eval)", "faster-coco-eval")


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


def _evaluator_class() -> type:
    from faster_coco_eval import COCOeval_faster

    class Evaluator(COCOeval_faster):
        def __init__(self, coco_gt: object, coco_dt: object, iou_type: str) -> None:
            super().__init__(coco_gt, coco_dt, iou_type, print_function=print)  # as pycocotools does

        def _summarize(
            self, ap: int = 1, iouThr: float | None = None, areaRng: str = "all", maxDets: int = 100
        ) -> float:
            # pycocotools takes AP, unlike every other number, over 100 detections, whatever the largest limit is
            # (MMDetection's is 1000), and says -1 where 100 is not among the limits.
            if ap == 1 and iouThr is None and areaRng == "all":
                if 100 not in self.params.maxDets:
                    return -1.0
                maxDets = 100
            return super()._summarize(ap, iouThr, areaRng, maxDets)

    return Evaluator
