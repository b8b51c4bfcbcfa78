"""Several trainings beside each other."""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import charts
from .logs import TrainingLog, read_log
from .page import Cell, Chart, Part, Section, Table


def run_sections(folders: Sequence[str | os.PathLike]) -> list[Section]:
    """Curves of losses and validations, and a table of what each training reached and took.

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
    """By the shortest ends of their paths that differ."""
    paths = [log.folder.resolve().parts for log in logs]
    length = 1
    while len({path[-length:] for path in paths}) < len(set(paths)):
        length += 1
    return {"/".join(path[-length:]): log for path, log in zip(paths, logs, strict=True)}


def _table(logs: dict[str, TrainingLog], tasks: Sequence[str]) -> Table:
    rows: list[list[Cell]] = []
    for name, log in logs.items():
        scores = log.scores()
        numbers = [
            float(f(scores[task][1])) if task in scores else None for task in tasks for f in (max, lambda y: y[-1])
        ]
        loss = log.line("loss")
        last = None if loss is None else float(loss[1][-1])
        rows.append([name, max(log.steps), *numbers, last, log.seconds(), log.memory()])
    head = ["training", "iterations", *(f"{task}: {what}" for task in tasks for what in ("best", "last"))]
    return Table("runs", [*head, "last loss", "seconds an iteration", "memory of the GPU, MiB"], rows)
