"""Hooks, loops and a runner that MMEngine and MMDetection do not have."""

from .backbone_file import BackboneFileHook, write_backbone
from .bf16 import CpuBf16OptimWrapper
from .broken_images import BrokenImagesHook
from .checkpoint_hook import SafeCheckpointHook
from .curves import CurvesHook
from .early_stop import EarlyStopHook
from .fused_evaluation import FusedEvaluationHook
from .layer_decay import BackboneConstructor, LayerDecayConstructor
from .load_policy import LoadPolicyHook
from .loggers import MLflowBackend, WandbBackend
from .progress_bar import ProgressBarHook
from .runner import ReliableRunner
from .training_report import TrainingReportHook

__all__ = [
    "BackboneConstructor",
    "BackboneFileHook",
    "BrokenImagesHook",
    "CpuBf16OptimWrapper",
    "CurvesHook",
    "EarlyStopHook",
    "FusedEvaluationHook",
    "LayerDecayConstructor",
    "LoadPolicyHook",
    "MLflowBackend",
    "ProgressBarHook",
    "ReliableRunner",
    "SafeCheckpointHook",
    "TrainingReportHook",
    "WandbBackend",
    "write_backbone",
]
