"""Hooks, loops, optimizer constructors and a runner that MMEngine and MMDetection do not have."""

from ..datasets.load_image import BrokenImagesHook
from .checkpoint_hook import BackboneFileHook, SafeCheckpointHook, write_backbone
from .load_policy import LoadPolicyHook
from .loggers import MLflowBackend, ProgressBarHook, WandbBackend
from .optim import BackboneConstructor, CpuBf16OptimWrapper, LayerDecayConstructor
from .reporting import CurvesHook, TrainingReportHook
from .runner import ReliableRunner
from .validations import EarlyStopHook, FusedEvaluationHook

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
