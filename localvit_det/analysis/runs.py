"""What trainings have logged in their work dirs, and sections that compare them.

A work dir counts for its last training: resumed parts included, and no other training's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..engine.reporting import Line, headline_metrics, line_of, task_lines
from ..engine.runner import START
from ..errors import DataError
from . import charts
from .page import Cell, Chart, Part, Section, Table

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

    def line(self, key: str) -> Line | None:
        """Return a logged number over the iterations, None where there is none."""
        points = [(i, step[key]) for i, step in sorted(self.steps.items()) if key in step]
        return line_of(points) if points else None

    def losses(self) -> dict[str, Line]:
        """Return the total loss and its parts."""
        names = dict.fromkeys(key for step in self.steps.values() for key in step if "loss" in key)
        lines = {name: self.line(name) for name in sorted(names, key=lambda name: name != "loss")}
        return {name: line for name, line in lines.items() if line is not None}

    def scores(self) -> dict[str, Line]:
        """Return the number of each task (COCO's AP, PQ, mIoU, accuracy) over the iterations."""
        return task_lines({one["iter"]: headline_metrics(one) for _, one in sorted(self.validations.items())})

    def forget_after(self, iteration: int) -> None:
        """Drop what was logged later: the training has gone on from there."""
        for lines in (self.steps, self.validations):
            for key in [key for key, line in lines.items() if line["iter"] > iteration]:
                del lines[key]

    def seconds(self) -> float | None:
        """Return the seconds of an iteration, the median of what was logged."""
        return median(times) if (times := [step["time"] for step in self.steps.values() if "time" in step]) else None

    def memory(self) -> float | None:
        """Return the peak on a GPU in MiB, None where nothing was logged, as on CPUs."""
        return max((step["memory"] for step in self.steps.values() if "memory" in step), default=None)


def read_log(folder: str | os.PathLike) -> TrainingLog:
    """Read the logs of the last training in a work dir; where it went back or was resumed, the later lines count.

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


def run_sections(folders: Sequence[str | os.PathLike]) -> list[Section]:
    """Return curves of losses and validations, and a table of what each training reached and took.

    Raises:
        DataError: No training has logged anything in one of the folders.
    """
    logs = _named([read_log(folder) for folder in folders])
    tasks = list(dict.fromkeys(task for log in logs.values() for task in log.scores()))
    parts: list[Part] = []
    for task in tasks:
        curves = {name: log.scores()[task] for name, log in logs.items() if task in log.scores()}
        parts.append(Chart(f"validations_{task}", charts.lines(curves, task), f"Validations: {task}."))
    losses = {name: line for name, log in logs.items() if (line := log.line("loss")) is not None}
    parts.append(Chart("losses", charts.lines(losses, "loss", smoothed=True, log=True), "Total losses, smoothed."))
    return [Section("Curves", parts), Section("Numbers", [_table(logs, tasks)])]


def _named(logs: Sequence[TrainingLog]) -> dict[str, TrainingLog]:
    """Return the logs by the shortest ends of their paths that differ."""
    paths = [log.folder.resolve().parts for log in logs]
    length = 1
    while len({path[-length:] for path in paths}) < len(set(paths)):
        length += 1
    return {"/".join(path[-length:]): log for path, log in zip(paths, logs, strict=True)}


def _table(logs: dict[str, TrainingLog], tasks: Sequence[str]) -> Table:
    rows: list[dict[str, Cell]] = []
    for name, log in logs.items():
        row: dict[str, Cell] = {"training": name, "iterations": max(log.steps)}
        scores, loss = log.scores(), log.line("loss")
        for task in tasks:
            values = scores[task][1] if task in scores else None
            row[f"{task}: best"] = None if values is None else float(values.max())
            row[f"{task}: last"] = None if values is None else float(values[-1])
        row["last loss"] = None if loss is None else float(loss[1][-1])
        rows.append(row | {"seconds an iteration": log.seconds(), "memory of the GPU, MiB": log.memory()})
    return Table.of_rows("runs", rows)
