"""Hooks, loops and a runner that MMEngine and MMDetection do not have."""

from .backbone_file import BackboneFileHook, write_backbone
from .bf16 import CpuBf16OptimWrapper
from .broken_images import BrokenImagesHook
from .checkpoint_hook import SafeCheckpointHook
from .curves import CurvesHook
from .fused_evaluation import FusedEvaluationHook
from .layer_decay import LayerDecayConstructor
from .progress_bar import ProgressBarHook
from .runner import ReliableRunner
from .training_report import TrainingReportHook

__all__ = [
    "BackboneFileHook",
    "BrokenImagesHook",
    "CpuBf16OptimWrapper",
    "CurvesHook",
    "FusedEvaluationHook",
    "LayerDecayConstructor",
    "ProgressBarHook",
    "ReliableRunner",
    "SafeCheckpointHook",
    "TrainingReportHook",
    "write_backbone",
]
