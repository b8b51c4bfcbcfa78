"""COCO evaluation with faster-coco-eval (C++) in pycocotools' place: the same numbers, sooner."""

from __future__ import annotations

import importlib.util
from typing import Any
from unittest import mock

from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from mmengine.config import Config

from ..config.parts import walk
from ..errors import ConfigError, RequirementError
from .exact_metrics import ExactCocoMetric


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
        """Evaluates the predictions of all images."""
        # CocoMetric takes the evaluator from its module, so it is exchanged there, and only while this one works.
        with mock.patch.object(coco_metric, "COCOeval", _evaluator_class()):
            return super().compute_metrics(results)


def check_fast_eval() -> None:
    """Checks that faster-coco-eval is there, before an inference of hours rather than after it.

    Raises:
        RequirementError: It is not installed.
    """
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise RequirementError(
            "--fast-eval and FastCocoMetric need faster-coco-eval, which is not installed: "
            "pip install faster-coco-eval, or use CocoMetric."
        )


def use_fast_eval(cfg: Config) -> None:
    """Lets every `CocoMetric` of a config be a `FastCocoMetric`.

    Raises:
        RequirementError: faster-coco-eval is not installed.
        ConfigError: No evaluator of the config is a `CocoMetric`.
    """
    check_fast_eval()
    evaluators = [node for split in ("val", "test") for _, node in walk(cfg.get(f"{split}_evaluator"))]
    found = [node for node in evaluators if node.get("type") in ("CocoMetric", "mmdet.CocoMetric", CocoMetric)]
    if not found and not any(node.get("type") == "FastCocoMetric" for node in evaluators):
        types = sorted({str(node.get("type")) for node in evaluators})
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
