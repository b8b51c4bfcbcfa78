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
from statistics import mean

import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from localvit_det.errors import ConfigError, UserError
from localvit_det.files import write_text

from .environment import describe, headline
from .families_plot import BASELINES
from .markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
BUDGET = ("train_cfg", "param_scheduler", "optim_wrapper", "train_dataloader", "randomness")
RUN_FILE = "run.json"  # written when a training has ended well


@dataclass(frozen=True)
class Run:
    """What a finished training left behind."""

    bbox: float  # mAP of the last validation
    segm: float
    memory: float  # MiB
    environment: dict


@dataclass(frozen=True)
class Family:
    """The trainings of one backbone, one for each seed."""

    name: str  # type of the backbone
    parameters: int  # of the whole detector
    runs: Sequence[Run]

    @property
    def bbox(self) -> list[float]:
        """Box mAP of each seed."""
        return [run.bbox for run in self.runs]

    @property
    def segm(self) -> list[float]:
        """Mask mAP of each seed."""
        return [run.segm for run in self.runs]


def budget(epochs: int) -> dict[str, int]:
    """Settings that let a nano config train for so many epochs, with one validation at the end."""
    return {"train_cfg.max_epochs": epochs, "train_cfg.val_interval": epochs, "param_scheduler.1.end": epochs}


def folder_of(work_dir: Path, config: Path, seed: int) -> Path:
    """Where the training of a config with a seed goes."""
    return work_dir / config.stem / f"seed_{seed}"


def digest(cfg: Config, seed: int) -> str:
    """Tells whether a finished training is one of this config: model, budget and seed in short."""
    content = {key: cfg.get(key) for key in ("model", *BUDGET)} | {"seed": seed}
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


def train(config: Path, cfg: Config, seed: int, work_dir: Path) -> None:
    """Trains one config in a process of its own, going on where an earlier one stopped.

    Raises:
        UserError: The training failed; its own messages say why.
    """
    environment = describe("cuda" if torch.cuda.is_available() else "cpu")
    command = [sys.executable, str(ROOT / "tools/train.py"), str(config)]
    command += ["--seed", str(seed), "--work-dir", str(work_dir), "--resume", "--cfg-options"]
    command += [f"{name}={value}" for name, value in budget(cfg.train_cfg.max_epochs).items()]
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
    record = {"digest": digest(cfg, seed), "environment": environment, "resident_mib": usage.ru_maxrss / unit}
    write_text(work_dir / RUN_FILE, json.dumps(record, indent=1))


def is_finished(config: Path, cfg: Config, seed: int, work_dir: Path) -> bool:
    """Whether the training has ended well.

    Raises:
        UserError: It has, with another config.
    """
    file = work_dir / RUN_FILE
    if not file.is_file():
        return False
    if json.loads(file.read_text())["digest"] != digest(cfg, seed):
        raise UserError(f"{work_dir} was trained with an older {config.name}; delete the folder to train again.")
    return True


def read_run(work_dir: Path) -> Run:
    """Reads the logs of a training, those of resumed parts included.

    Raises:
        UserError: The logs hold no validation.
    """
    record = json.loads((work_dir / RUN_FILE).read_text())
    lines = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):  # folders are named by time
        lines += map(json.loads, file.read_text().splitlines())
    validations = [line for line in lines if "coco/bbox_mAP" in line]
    if not validations:
        raise UserError(f"The logs under {work_dir} hold no validation; delete the folder, train again.")
    last = max(reversed(validations), key=lambda line: line["step"])  # of a resumed training the later log holds
    memory = [line["memory"] for line in lines if "memory" in line]  # on a GPU, in MiB
    return Run(
        bbox=last["coco/bbox_mAP"],
        segm=last["coco/segm_mAP"],
        memory=max(memory, default=record["resident_mib"]),
        environment=record["environment"],
    )


def read_family(cfg: Config, folders: Sequence[Path]) -> Family:
    """Reads the trainings of one config."""
    parameters = sum(p.numel() for p in MODELS.build(cfg.model).parameters())
    return Family(cfg.model.backbone.type, parameters, [read_run(folder) for folder in folders])


def page(families: Sequence[Family], cfg: Config, seeds: Sequence[int], image: str) -> str:
    """The table and how it came about, in Markdown."""
    head = [
        "backbone",
        "bbox mAP",
        "lowest to highest",
        "segm mAP",
        "lowest to highest",
        "peak memory, MiB",
        "parameters",
    ]
    rows = []
    for family in families:
        name = f"{family.name} (MMDetection's, a baseline)" if family.name in BASELINES else family.name
        scores = []
        for metric in (family.bbox, family.segm):
            scores += [f"{mean(metric):.3f}", f"{min(metric):.3f} to {max(metric):.3f}"]
        memory = max(run.memory for run in family.runs)
        rows.append([name, *scores, f"{memory:.0f}", f"{family.parameters / 1e6:.2f}M"])
    environments = [run.environment for family in families for run in family.runs]
    loads = [environment["load"] for environment in environments]
    load = f"{min(loads)} to {max(loads)}"  # differs from run to run; the rest of a line should not
    machines = "\n".join(f"- {line}" for line in dict.fromkeys(headline({**e, "load": load}) for e in environments))
    return f"""<!-- Generated by tools/compare_families.py; do not edit. -->
# Families

Nano Mask R-CNNs (`configs/mask_rcnn_*_nano_shapes.py`) on the synthetic shapes, all under one budget: \
{cfg.train_cfg.max_epochs} epochs, batch {cfg.train_dataloader.batch_size}, from random weights, seeds \
{", ".join(map(str, seeds))}: the mean, and the lowest and highest of them. It shows that every family learns; at this \
size it does not rank them.

{markdown_table(head, rows)}

mAP of the last validation. Peak memory: of PyTorch on a GPU, else the largest resident size of a training's processes,
of the seeds the largest. Parameters: of the whole detector. How fast the families are: [benchmarks](benchmarks.md).

Machine and versions:

{machines}

![Mean and range of the mAP of each family]({image})
"""
