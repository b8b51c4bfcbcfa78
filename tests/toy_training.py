"""A training of a few thousand numbers in which everything is random that can be: images, dropout, the order."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from localvit_det.engine import ReliableRunner
from reliability.checks import different  # noqa: F401 - for tests, like the next
from reliability.checks import values_of as tensors_of  # noqa: F401

LENGTH = 12  # images; 6 iterations an epoch
_count = 0


class ToyModel(BaseModel):
    """A convolution, a BatchNorm and dropout; two losses."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 2)

    def init_weights(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for layer in (self.conv, self.head):
                layer.reset_parameters()

    def forward(self, inputs: list[torch.Tensor], data_samples: list | None = None, mode: str = "tensor") -> object:
        x = self.drop(self.norm(self.conv(torch.stack(inputs))).relu().mean((2, 3)))
        out = self.head(x)
        if mode == "loss":
            keep = torch.randperm(len(out))[: max(1, len(out) // 2)]  # as the samplers of detectors
            return {"loss_cls": out[keep].square().mean(), "loss_bbox": (out - 1).abs().mean()}
        return [{"value": row.sum().item()} for row in out]


class Plain(ToyModel):
    """Without BatchNorm and dropout, whose results depend on how the images are divided."""

    def __init__(self) -> None:
        super().__init__(norm=False)
        self.drop = torch.nn.Identity()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if mode != "loss":
            return super().forward(inputs, data_samples, mode)
        out = self.head(self.conv(torch.stack(inputs)).relu().mean((2, 3)))
        return {"loss_cls": out.square().mean(), "loss_bbox": (out - 1).abs().mean()}


class NoisyImages(torch.utils.data.Dataset):
    """Images that ask every generator for random numbers."""

    metainfo = {"classes": ("thing",)}  # noqa: RUF012 - as MMEngine declares it

    def __init__(self, length: int = LENGTH, noise: bool = True, poisoned: tuple[int, ...] = ()) -> None:
        self.length, self.noise, self.poisoned = length, noise, poisoned

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        image = torch.full((3, 6, 6), index / self.length)
        if self.noise:
            image = image * random.random() + np.random.rand() + torch.rand(3, 6, 6)
        if index in self.poisoned:
            image = image * float("nan")
        return {"inputs": image, "data_samples": BaseDataElement(metainfo={"img_path": f"image_{index}.jpg"})}


class MeanMetric(BaseMetric):
    """The mean of the outputs, which depends on every image once."""

    def process(self, data_batch: object, data_samples: list) -> None:
        self.results.extend(sample["value"] for sample in data_samples)

    def compute_metrics(self, results: list) -> dict:
        return {"mAP": float(np.mean(results)), "images": len(results)}


class Do(Hook):
    """Call a function with the runner at a point of a training, such as 'after_train_iter'."""

    priority = "VERY_HIGH"

    def __init__(self, point: str, function: Callable[[Runner], object]) -> None:
        setattr(self, point, lambda runner, *_, **__: function(runner))


def signal_at(iteration: int, number: int = signal.SIGTERM) -> Do:
    """A hook that sends this process a signal in the middle of an iteration."""
    return Do("after_train_iter", lambda runner: runner.iter + 1 == iteration and os.kill(os.getpid(), number))


class Scores(Hook):
    """Puts written numbers in the place of what was measured, validation by validation; the last ones stay."""

    priority = "VERY_HIGH"

    def __init__(self, *scores: dict, every: int = 6) -> None:
        self.scores, self.every = scores, every

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        metrics.clear()
        metrics.update(self.scores[min(max(runner.iter // self.every, 1), len(self.scores)) - 1])

    after_test_epoch = after_val_epoch


def toy_runner(
    work_dir: Path,
    *,
    workers: int = 0,
    epochs: int = 3,
    train_cfg: dict | None = None,
    accumulation: int = 1,
    checkpoint: dict | None = None,
    model: nn.Module | None = None,
    dataset: torch.utils.data.Dataset | None = None,
    validate: bool = False,
    optim: dict | None = None,
    batch_size: int = 2,
    loader: dict | None = None,
    runner_class: type[Runner] = ReliableRunner,
    schedule: list | None = None,
    hooks: dict | None = None,
    **options: object,
) -> Runner:
    """Builds a runner; its records in MMEngine get a name of their own, as in a new process."""
    global _count
    _count += 1
    loader = {
        "dataset": dataset or NoisyImages(),
        "batch_size": batch_size,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "num_workers": workers,
        "persistent_workers": workers > 0,
        **(loader or {}),
    }
    if validate:
        own = {"dataset": NoisyImages(7, noise=False), "sampler": {"type": "DefaultSampler", "shuffle": False}}
        for split in ("val", "test"):
            options[f"{split}_dataloader"] = {**loader, **own, "num_workers": 0, "persistent_workers": False}
            options |= {f"{split}_cfg": {}, f"{split}_evaluator": {"type": MeanMetric}}
    return runner_class(
        model or ToyModel(),
        str(work_dir),
        train_dataloader=loader,
        train_cfg=train_cfg or {"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={
            "optimizer": {"type": "AdamW", "lr": 0.02},
            "accumulative_counts": accumulation,
            **(optim or {}),
        },
        param_scheduler=[
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 10},
            {"type": "MultiStepLR", "milestones": [2], "by_epoch": True},
        ]
        if schedule is None
        else schedule,
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1, **(checkpoint or {})}, **(hooks or {})},
        randomness={"seed": 3, **options.pop("randomness", {})},
        default_scope="mmdet",
        experiment_name=f"toy-{_count}",
        **options,
    )


def log_of(runner: Runner) -> str:
    """The log file of a runner."""
    return (Path(runner.log_dir) / f"{runner.timestamp}.log").read_text()


def names(folder: Path) -> list[str]:
    """The checkpoints of a folder."""
    return sorted(path.name for path in folder.glob("*.pth"))


def final(folder: Path) -> Path:
    """The last checkpoint of a training."""
    return folder / Path((folder / "last_checkpoint").read_text()).name


def begun(folder: Path) -> bool:
    """Whether a training in another process has logged an iteration."""
    return any("Epoch(train)" in log.read_text() for log in folder.glob("*/*.log"))
