"""MMEngine's Runner in several processes: on CPUs, too, and each image scored once."""

from __future__ import annotations

from datetime import timedelta

import torch
from mmengine import dist
from mmengine.evaluator import Evaluator
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn

from ..evaluation.metrics import exact_metrics
from .processes import is_cpu_run


class DistributedRunner(Runner):
    """Connect processes, wrap their models and gather their results, where MMEngine's Runner expects GPUs."""

    def setup_env(self, env_cfg: dict) -> None:
        """Connect the processes, on CPUs by gloo."""
        if self.distributed and is_cpu_run() and not dist.is_distributed():
            seconds = env_cfg.get("dist_cfg", {}).get("timeout")
            timeout = timedelta(seconds=seconds) if seconds is not None else None
            torch.distributed.init_process_group("gloo", timeout=timeout)  # MMEngine insists on GPUs
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes; on CPUs without SyncBatchNorm, which PyTorch has on GPUs only."""
        if not self.distributed or not is_cpu_run():
            return super().wrap_model(model_wrapper_cfg, model)
        model = revert_sync_batchnorm(model)
        if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
            self.logger.info(
                "SyncBatchNorm needs GPUs: each process normalises with its own images, and all keep the running "
                "statistics of the first."
            )
        defaults = {
            "type": "MMDistributedDataParallel",
            "device_ids": None,
            "broadcast_buffers": True,
            "find_unused_parameters": self.cfg.get("find_unused_parameters", False),
        }
        sync_bn = self.cfg.get("sync_bn")
        self.cfg.sync_bn = None
        try:
            return super().wrap_model({**defaults, **(model_wrapper_cfg or {})}, model)
        finally:
            self.cfg.sync_bn = sync_bn

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """Build an evaluator that scores exactly what it is given.

        Its processes meet in the work dir, not in whatever folder the user is in.
        """
        built = super().build_evaluator(exact_metrics(evaluator))
        for metric in built.metrics:
            if self.world_size > 1 and metric.collect_device == "cpu" and metric.collect_dir is None:
                metric.collect_dir = f"{self.work_dir}/.collect_{self.timestamp}"
        return built
