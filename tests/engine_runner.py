"""A training of three numbers, with everything that the hooks need."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner

import localvit_det  # noqa: F401 - registers the hooks

METRICS = {
    "coco/bbox_mAP": 0.437,
    "coco/bbox_mAP_50": 0.66,
    "coco/bbox_mAP_75": 0.478,
    "coco/bbox_mAP_s": 0.262,
    "coco/bbox_mAP_m": 0.471,
    "coco/bbox_mAP_l": -1.0,
    "coco/bbox_mAP_copypaste": "0.437 0.660",
    "coco/circle_precision": 0.5,
}
SEGM = {key.replace("bbox", "segm"): value for key, value in METRICS.items() if key.startswith("coco/bbox")}


class Model(BaseModel):
    """Two losses of one trained weight, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1000))
        self.frozen = torch.nn.Parameter(torch.ones(234), requires_grad=False)

    def forward(self, inputs: list[torch.Tensor], mode: str = "tensor") -> object:
        if mode == "loss":
            loss = (self.weight * torch.stack(inputs).mean()).square().mean()
            return {"loss_cls": loss, "loss_bbox": 0.5 * loss}
        return [{} for _ in inputs]


class Metric(BaseMetric):
    """Returns the same numbers always."""

    def __init__(self, metrics: dict) -> None:
        super().__init__()
        self.metrics = metrics

    def process(self, data_batch: object, data_samples: list) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list) -> dict:
        return self.metrics


class Images(torch.utils.data.Dataset):
    """Eight images; calls `visit` at every access."""

    def __init__(self, visit: Callable[[], None] = lambda: None) -> None:
        self.visit = visit

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.visit()
        return {"inputs": torch.full((3,), index / 8 + 0.5)}


@pytest.fixture
def make_runner(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Runner]:
    """Builds runners with the three hooks that share one work dir; 4 iterations an epoch."""
    count = 0

    def make(
        epochs: int = 3,
        metrics: dict | None = None,
        visit: Callable[[], None] = lambda: None,
        schedule: dict | None = None,
        accumulation: int = 1,
        save_best: str | None = None,
        **options: object,
    ) -> Runner:
        nonlocal count
        count += 1
        loader = {
            "dataset": Images(visit),
            "batch_size": 2,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "num_workers": 0,
        }
        validation = {}
        if metrics is not None:
            for split in ("val", "test"):
                validation[f"{split}_dataloader"] = {**loader, "dataset": Images()}
                validation[f"{split}_cfg"] = {}
                validation[f"{split}_evaluator"] = Evaluator(Metric(metrics))
        # mmengine keeps its records by the names of experiments, for the life of the process.
        name = f"{request.node.name}-{count}"
        return Runner(
            Model(),
            str(tmp_path),
            train_dataloader=loader,
            train_cfg=schedule or {"by_epoch": True, "max_epochs": epochs},
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.02}, "accumulative_counts": accumulation},
            param_scheduler={"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "end": 100},
            default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1, "save_best": save_best}},
            custom_hooks=[
                {"type": "TrainingReportHook"},
                {"type": "CurvesHook"},
                {"type": "ProgressBarHook"},
            ],
            default_scope="mmdet",
            experiment_name=name,
            **validation,
            **options,
        )

    return make
