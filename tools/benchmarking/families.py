"""One training of each family under one budget: run it, read its logs, put it beside the others."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmdet.registry import MODELS
from mmengine.config import Config

from localvit_det.errors import ConfigError, UserError
from localvit_det.files import atomic_file, write_text

from .environment import describe, headline
from .markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
BASELINES = {"PyramidVisionTransformer": "gray", "SwinTransformer": "black"}  # MMDetection's, and their lines' colors
BUDGET = ("train_cfg", "param_scheduler", "optim_wrapper", "train_dataloader", "randomness")
RUN_FILE = "run.json"  # written when a training has ended well


@dataclass(frozen=True)
class Run:
    """What a finished training left behind."""

    name: str  # type of the backbone
    loss: np.ndarray  # (N, 2): epochs so far, total loss as logged
    mean_ap: np.ndarray  # (V, 3): epoch, bbox mAP, segm mAP
    seconds: float  # per iteration, median
    memory: float  # MiB
    parameters: int
    environment: dict


def digest(cfg: Config) -> str:
    """Tells whether a finished training is one of this config: model and budget in short."""
    content = {key: cfg.get(key) for key in ("model", *BUDGET)}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_equal_budgets(configs: Mapping[Path, Config]) -> None:
    """The comparison stands on it.

    Raises:
        ConfigError: Two configs differ in data, schedule or optimiser.
    """
    first, *others = configs
    for key in BUDGET:
        for path in others:
            if configs[path].get(key) != configs[first].get(key):
                raise ConfigError(f"{path.name} and {first.name} differ in {key}; families are compared at one budget.")


def train(config: Path, cfg: Config, work_dir: Path) -> None:
    """Trains one config in a process of its own, going on where an earlier one stopped.

    Raises:
        UserError: The training failed; its own messages say why.
    """
    environment = describe("cuda" if torch.cuda.is_available() else "cpu")
    command = [sys.executable, str(ROOT / "tools/train.py"), str(config), "--work-dir", str(work_dir), "--resume"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
    if process.returncode:
        raise UserError(f"The training of {config.name} failed; what it printed last says why. Mend it and run again.")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    record = {"digest": digest(cfg), "environment": environment, "resident_mib": usage.ru_maxrss / unit}
    write_text(work_dir / RUN_FILE, json.dumps(record, indent=1))


def is_finished(config: Path, cfg: Config, work_dir: Path) -> bool:
    """Whether the training has ended well.

    Raises:
        UserError: It has, with another config.
    """
    file = work_dir / RUN_FILE
    if not file.is_file():
        return False
    if json.loads(file.read_text())["digest"] != digest(cfg):
        raise UserError(f"{work_dir} was trained with an older {config.name}; delete the folder to train again.")
    return True


def read_run(cfg: Config, work_dir: Path) -> Run:
    """Reads the logs of a training, those of resumed parts included.

    Raises:
        UserError: The logs hold no training or no validation.
    """
    record = json.loads((work_dir / RUN_FILE).read_text())
    steps: dict[int, dict] = {}
    validations: dict[int, dict] = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):  # folders are named by time
        for line in map(json.loads, file.read_text().splitlines()):
            if "loss" in line:
                steps[line["iter"]] = line
            elif "coco/bbox_mAP" in line:
                validations[line["step"]] = line
    if not steps or not validations:
        raise UserError(f"The logs under {work_dir} hold no training or no validation; delete the folder, train again.")
    iterations = sorted(steps)
    per_epoch = iterations[-1] / cfg.train_cfg.max_epochs
    memory = [step["memory"] for step in steps.values() if "memory" in step]  # on a GPU, in MiB
    return Run(
        name=cfg.model.backbone.type,
        loss=np.array([(i / per_epoch, steps[i]["loss"]) for i in iterations]),
        mean_ap=np.array([(e, v["coco/bbox_mAP"], v["coco/segm_mAP"]) for e, v in sorted(validations.items())]),
        seconds=median(step["time"] for step in steps.values()),
        memory=max(memory, default=record["resident_mib"]),
        parameters=sum(p.numel() for p in MODELS.build(cfg.model).parameters()),
        environment=record["environment"],
    )


def page(runs: Sequence[Run], cfg: Config, image: str) -> str:
    """The table and how it came about, in Markdown."""
    head = ["backbone", "bbox mAP", "segm mAP", "seconds per iteration", "peak memory, MiB", "parameters"]
    rows = []
    for run in runs:
        name = f"{run.name} (MMDetection's, a baseline)" if run.name in BASELINES else run.name
        scores = [f"{score:.3f}" for score in run.mean_ap[-1, 1:]]
        rows.append([name, *scores, f"{run.seconds:.2f}", f"{run.memory:.0f}", f"{run.parameters / 1e6:.2f}M"])
    loads = [run.environment["load"] for run in runs]
    load = f"{min(loads)} to {max(loads)}"  # differs from run to run; the rest of a line should not
    machines = "\n".join(f"- {line}" for line in dict.fromkeys(headline({**r.environment, "load": load}) for r in runs))
    return f"""<!-- Generated by tools/compare_families.py; do not edit. -->
# The families side by side

Nano Mask R-CNNs (`configs/mask_rcnn_*_nano_shapes.py`) on the drawn shapes, all under one budget: \
{cfg.train_cfg.max_epochs} epochs, batch {cfg.train_dataloader.batch_size}, one seed, from random weights. It shows \
that every family learns; at this size and with one seed it does not rank them.

{markdown_table(head, rows)}

mAP of the last validation. Seconds: median of the logged means, data loading included. Peak memory: of PyTorch on a
GPU, else the largest resident size of the training's processes. Parameters: of the whole detector.

Machine and versions:

{machines}

![Training loss and validation mAP]({image})
"""


def draw(runs: Sequence[Run], path: Path) -> None:
    """Loss and bbox mAP over the epochs, one line for each family, the baseline dashed."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for run in runs:
        style = {"color": BASELINES[run.name], "linestyle": "--"} if run.name in BASELINES else {}
        left.plot(*run.loss.T, label=run.name, linewidth=1.2, **style)
        label = f"{run.name}: {run.mean_ap[-1, 1]:.3f}"
        right.plot(run.mean_ap[:, 0], run.mean_ap[:, 1], label=label, marker="o", **style)
    left.set(title="Training loss", ylabel="loss", yscale="log")
    right.set(title="Validation", ylabel="bbox mAP", ylim=(0, None))
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
