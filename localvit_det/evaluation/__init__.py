"""Evaluation that MMDetection does not have; importing this package registers it."""

from .fast_coco_metric import FastCocoMetric, use_fast_eval
from .pair_visualizer import PairVisualizer

__all__ = ["FastCocoMetric", "PairVisualizer", "use_fast_eval"]
