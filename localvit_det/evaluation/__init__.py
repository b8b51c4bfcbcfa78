"""Evaluation that MMDetection does not have; importing this package registers it."""

from .fast_coco_metric import FastCocoMetric, use_fast_eval

__all__ = ["FastCocoMetric", "use_fast_eval"]
