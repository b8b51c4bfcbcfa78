"""What one training has logged in its work dir: resumed parts included, and no other training's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..engine.reporting import Line, headline_metrics, line_of
from ..engine.runner import START
from ..errors import DataError

_LOGS = "*/vis_data/scalars.json"  # MMEngine's, one for each start; folders are named by time


@dataclass(frozen=True)
class TrainingLog:
    """The lines of a training's log.

    Attributes:
        folder: The work dir.
        steps: What was logged of an iteration, by iteration.
        validations: What was logged of a validation, by its epoch or iteration, and after which iteration ('iter').
        starts: The folders of the training's starts, and after how many iterations each has gone on.
    """

    folder: Path
    steps: dict[int, dict[str, Any]] = field(default_factory=dict)
    validations: dict[int, dict[str, Any]] = field(default_factory=dict)
    starts: dict[Path, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How the training is called beside others."""
        return self.folder.name

    def line(self, key: str) -> Line | None:
        """A logged number over the iterations, None where there is none."""
        points = [(i, step[key]) for i, step in sorted(self.steps.items()) if key in step]
        return line_of(points) if points else None

    def losses(self) -> dict[str, Line]:
        """The total loss and its parts."""
        names = dict.fromkeys(key for step in self.steps.values() for key in step if "loss" in key)
        lines = {name: self.line(name) for name in sorted(names, key=lambda name: name != "loss")}
        return {name: line for name, line in lines.items() if line is not None}

    def scores(self) -> dict[str, Line]:
        """The number of each task (COCO's AP, PQ, mIoU, accuracy) over the iterations."""
        points = {one["iter"]: headline_metrics(one) for _, one in sorted(self.validations.items())}
        tasks = dict.fromkeys(task for point in points.values() for task in point)
        found = {task: [(i, point[task]) for i, point in points.items() if task in point] for task in tasks}
        return {task: line_of(row) for task, row in found.items()}

    def forget_after(self, iteration: int) -> None:
        """Drop what was logged later: the training has gone on from there."""
        for lines in (self.steps, self.validations):
            for key in [key for key, line in lines.items() if line["iter"] > iteration]:
                del lines[key]

    def seconds(self) -> float | None:
        """Of an iteration, the median of what was logged."""
        return median(times) if (times := [step["time"] for step in self.steps.values() if "time" in step]) else None

    def memory(self) -> float | None:
        """Peak on a GPU, in MiB; None where nothing was logged, as on CPUs."""
        return max((step["memory"] for step in self.steps.values() if "memory" in step), default=None)


def read_log(folder: str | os.PathLike) -> TrainingLog:
    """Reads the logs of the last training in a work dir; where it went back or was resumed, the later lines count.

    Raises:
        DataError: There is no such folder, or no training has logged there.
    """
    log = TrainingLog(Path(folder))
    if not log.folder.is_dir():
        raise DataError(f"There is no folder {folder}: name the work dir of a training.")
    for file in sorted(log.folder.glob(_LOGS)):
        lines = list(_lines(file))
        first = next((line["iter"] for line in lines if _is_step(line)), None)
        if first is None:  # a test, or a start that came to nothing
            continue
        start = file.parent.parent
        last = _start(start, first - 1)
        log.forget_after(last)
        if not log.steps:  # another training, or this one's first start
            log.starts.clear()
            log.validations.clear()
        log.starts[start] = last
        for line in lines:
            if _is_step(line):
                if line["iter"] <= last:  # back to a checkpoint
                    log.forget_after(line["iter"] - 1)
                last = line["iter"]
                log.steps[last] = line
            elif "step" in line and last and headline_metrics(line):
                # The step is an epoch, which is smaller, or the iteration itself, which may not have been logged.
                log.validations[line["step"]] = {**line, "iter": max(last, line["step"])}
    if not log.steps:
        raise DataError(
            f"No training has logged anything in {folder}: name a work dir, which holds */vis_data/scalars.json."
        )
    return log


def _is_step(line: dict[str, Any]) -> bool:
    return "loss" in line and "iter" in line


def _start(folder: Path, otherwise: int) -> int:
    """Return after how many iterations a start went on; trainings of earlier versions do not say."""
    try:
        return int(json.loads((folder / START).read_text())["iteration"])
    except (OSError, ValueError, KeyError, TypeError):
        return otherwise


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # the last line of a killed training
            continue
        if isinstance(line, dict):
            yield line
