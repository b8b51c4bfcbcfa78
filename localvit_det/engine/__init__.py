"""Hooks, loops and a runner that MMEngine and MMDetection do not have."""

from .broken_images import BrokenImagesHook
from .checkpoint_hook import SafeCheckpointHook
from .curves import CurvesHook
from .epoch_seed import EpochSeedHook
from .fused_evaluation import FusedEvaluationHook
from .layer_decay import LayerDecayConstructor
from .progress_bar import ProgressBarHook
from .runner import ReliableRunner
from .training_report import TrainingReportHook

__all__ = [
    "BrokenImagesHook",
    "CurvesHook",
    "EpochSeedHook",
    "FusedEvaluationHook",
    "LayerDecayConstructor",
    "ProgressBarHook",
    "ReliableRunner",
    "SafeCheckpointHook",
    "TrainingReportHook",
]
