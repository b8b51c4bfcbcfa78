"""Evaluation that MMDetection does not have; importing this package registers it."""

from .drawing_hook import DrawingHook
from .fast_coco_metric import FastCocoMetric, use_fast_eval
from .pair_visualizer import PairVisualizer

__all__ = ["DrawingHook", "FastCocoMetric", "PairVisualizer", "use_fast_eval"]
