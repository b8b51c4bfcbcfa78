"""Evaluation that MMDetection does not have; importing this package registers it."""

from .drawing_hook import DrawingHook
from .exact_metrics import ExactCocoMetric, ExactPanopticMetric, exact_metrics
from .fast_coco_metric import FastCocoMetric, use_fast_eval
from .pair_visualizer import PairVisualizer

__all__ = [
    "DrawingHook",
    "ExactCocoMetric",
    "ExactPanopticMetric",
    "FastCocoMetric",
    "PairVisualizer",
    "exact_metrics",
    "use_fast_eval",
]
