"""Hooks, loops and a runner that MMEngine and MMDetection do not have."""

from .checkpoint_hook import SafeCheckpointHook
from .curves import CurvesHook
from .epoch_seed import EpochSeedHook
from .progress_bar import ProgressBarHook
from .runner import ReliableRunner
from .training_report import TrainingReportHook

__all__ = [
    "CurvesHook",
    "EpochSeedHook",
    "ProgressBarHook",
    "ReliableRunner",
    "SafeCheckpointHook",
    "TrainingReportHook",
]
