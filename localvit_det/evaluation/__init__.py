"""Evaluation that MMDetection does not have; importing this package registers it."""

from ..deprecation import former_names
from .metrics import ExactCocoMetric, ExactPanopticMetric, FastCocoMetric, exact_metrics, use_fast_eval

__all__ = [
    "ExactCocoMetric",
    "ExactPanopticMetric",
    "FastCocoMetric",
    "exact_metrics",
    "use_fast_eval",
]
_MOVED = ("DrawingHook", "PairVisualizer")
__getattr__ = former_names(__name__, {name: f"localvit_det.visualization:{name}" for name in _MOVED})
