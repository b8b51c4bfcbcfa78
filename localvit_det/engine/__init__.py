"""Hooks that MMEngine and MMDetection do not have; all act on the first process only."""

from .broken_images import BrokenImagesHook
from .curves import CurvesHook
from .epoch_seed import EpochSeedHook
from .fused_evaluation import FusedEvaluationHook
from .progress_bar import ProgressBarHook
from .training_report import TrainingReportHook

__all__ = [
    "BrokenImagesHook",
    "CurvesHook",
    "EpochSeedHook",
    "FusedEvaluationHook",
    "ProgressBarHook",
    "TrainingReportHook",
]
