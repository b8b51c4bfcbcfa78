"""The report of a run: settings, data, curves, results, time and memory of a work dir; and runs next to each other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.config import Config

from ..checkpoint.config_text import parse
from ..config.run import changes
from ..config.utils import dataset_paths, find_datasets
from ..config_names import type_name
from ..datasets.annotations import read_annotations
from ..engine.reporting import Line, coco_rows, headline_metrics, line_of, task_lines
from ..engine.runner import START
from ..errors import DataError, UserError, first_line
from ..evaluation.record import EvaluationRecord, read_record
from . import charts
from .coco import TASKS, evaluate
from .page import Cell, Chart, Part, Section, Table, Tiles, write_page
from .results import result_sections

_LOGS = "*/vis_data/scalars.json"  # MMEngine's, one for each start; folders are named by time


@dataclass(frozen=True)
class TrainingLog:
    """The lines of a training's log."""

    folder: Path  # the work dir
    steps: dict[int, dict[str, Any]] = field(default_factory=dict)  # what was logged of an iteration, by iteration
    # What was logged of a validation, by its epoch or iteration, and after which iteration ('iter').
    validations: dict[int, dict[str, Any]] = field(default_factory=dict)
    # The folders of the training's starts, and after how many iterations each has gone on.
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


def write_report(work_dir: str | os.PathLike) -> Path:
    """Write the report of a work dir into it, and return the file; as `report`."""
    path = Path(work_dir, "report.html")
    write_page(path, *report(work_dir))
    return path


def report(work_dir: str | os.PathLike, **settings: Any) -> tuple[str, list[Section]]:
    """Return the title and the sections of a work dir's report.

    Args:
        work_dir: Of a training, an evaluation, or both.
        settings: Of `result_sections`.

    Raises:
        DataError: There is nothing to report, or what there is cannot be read.
    """
    work_dir = Path(work_dir)
    record = read_record(work_dir)
    folder = Path(record.checkpoint).parent if record else work_dir
    log = _training(folder)
    if record and log and record.start and record.start < next(iter(log.starts)).name:
        # The training that was evaluated was another one, which the folder of its checkpoint no longer holds.
        record, log = (None, log) if folder.resolve() == work_dir.resolve() else (record, None)
    if record is None and log is None:
        raise DataError(
            f"There is nothing to report in {work_dir}: name the work dir of a training or of "
            "`localvit test … --report`."
        )
    cfg = _config(list(log.starts)[-1]) if log else None
    model = (cfg or (record and record.start and _config(work_dir / record.start)) or {}).get("model") or {}
    sections = [_summary(record, log), _settings(cfg, model, record, log), _data(cfg, record)]
    if log is not None:
        sections.append(_curves(log))
    if record is not None:
        found = (record.annotations, record.predictions, record.classes, record.images, record.image_ids)
        sections += result_sections(evaluate(*found, record.pixel_range), **settings)
    else:
        text = "No predictions are kept here: `localvit test … --report` adds tables, curves and pictures."
        sections.append(Section("Results", [text]))
    sections.append(_costs(record, log))
    name = (record and record.config) or (log and log.folder.name) or work_dir.name
    return f"{name}: report", [section for section in sections if section.parts]


def _training(folder: Path) -> TrainingLog | None:
    """Return the training whose work dir this is, None where it is of none."""
    try:
        return read_log(folder)
    except DataError:
        return None


def _config(start: Path) -> Config | None:
    """Return the config that MMEngine has written next to the log of a start, parsed and not run."""
    file = start / "vis_data/config.py"
    if not file.is_file():
        return None
    try:
        return Config(parse(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"The config {file} cannot be read ({first_line(error)}): remove it.") from error


def _summary(record: EvaluationRecord | None, log: TrainingLog | None) -> Section:
    numbers = []
    scores = log.scores() if log else {}
    if record:
        for task, row in coco_rows(record.metrics).items():
            numbers += [
                (f"{TASKS.get(task, task)}: {name}", f"{row[name]:.3f}") for name in ("AP", "AP50") if name in row
            ]
        numbers.append(("images evaluated", f"{record.image_count:,}"))
    else:
        numbers += [(f"{task}: last of {len(y)} validations", f"{y[-1]:.3f}") for task, (_, y) in scores.items()]
    if log:
        numbers.append(("iterations trained", f"{max(log.steps):,}"))
    return Section("Summary", [Tiles(numbers)])


def _rate(cfg: Config) -> str:
    """Return the config's learning rate, and for which batch it is where the runner has scaled it with the batch."""
    rate, scaling = cfg.optim_wrapper.optimizer.get("lr", "?"), cfg.get("auto_scale_lr") or {}
    return (
        f"{rate} for a batch of {scaling['base_batch_size']}, scaled to its batch"
        if scaling.get("enable")
        else str(rate)
    )


def _settings(
    cfg: Config | None, model: Mapping[str, Any], record: EvaluationRecord | None, log: TrainingLog | None
) -> Section:
    rows: list[tuple[str, Any]] = []
    if record:
        rows += [("evaluated checkpoint", record.checkpoint), ("device of the evaluation", record.device)]
        rows.append(("versions", ", ".join(f"{name} {number}" for name, number in record.versions.items())))
    if model:
        rows += [("detector", _name(model)), ("backbone", _name(model.get("backbone") or {}))]
    if cfg:
        loader, optim = cfg.get("train_dataloader") or {}, cfg.get("optim_wrapper") or {}
        optimizer = optim.get("optimizer") or {}
        schedule = cfg.get("train_cfg") or {}
        length = next((f"{schedule[key]} {key[4:]}" for key in ("max_epochs", "max_iters") if key in schedule), None)
        rows += [
            ("length", length),
            ("batch size of a process", loader.get("batch_size")),
            ("optimizer", f"{_name(optimizer)}, learning rate {_rate(cfg)}" if optimizer else None),
            ("mixed precision", kind if (kind := type_name(optim)) not in ("", "OptimWrapper") else None),
            ("seed", (cfg.get("randomness") or {}).get("seed")),
            ("started from", cfg.get("load_from")),
        ]
    parts: list[Part] = [Table("settings", ["setting", "value"], [(k, str(v)) for k, v in rows if v is not None])]
    if changed := _changes(log):
        parts.append(Table("changes", ["after iteration", "setting", "was", "now"], changed))
    return Section("Settings", parts)


def _changes(log: TrainingLog | None) -> list[Sequence[Any]]:
    """Return what the starts of a training have changed."""
    found: list[Sequence[Any]] = []
    before = None
    for start, iteration in log.starts.items() if log else ():
        cfg = _config(start)
        if before is not None and cfg is not None:
            found += [(iteration, key, str(was), str(now)) for key, (was, now) in changes(before, cfg).items()]
        before = cfg or before
    return found


def _name(part: Mapping[str, Any]) -> str:
    arch = part.get("arch")
    return (type_name(part) or "?") + (f" ({arch})" if isinstance(arch, str) else "")


def _data(cfg: Config | None, record: EvaluationRecord | None) -> Section:
    """Return what the annotation files hold that can still be found."""
    files: dict[str, list[str]] = {}
    for split in ("train", "val"):
        for _, dataset in find_datasets(cfg, split) if cfg else ():
            if file := dataset_paths(dataset)[0]:
                files.setdefault(os.path.abspath(file), []).append(split)
    if record:
        files.setdefault(record.annotations, []).append("evaluated")
    rows: list[dict[str, Cell]] = []
    absent = []
    for file, splits in files.items():
        try:
            found = read_annotations(file)
        except UserError:
            absent.append(file)
            continue
        dropped = found.faults.count() + found.errors.count()
        rows.append(
            {
                "used for": ", ".join(dict.fromkeys(splits)),
                "annotations": file,
                "images": len(found.images),
                "objects": found.boxes - found.crowds - dropped,
                "crowds": found.crowds,
                "unusable": dropped,
                "classes": len(found.categories),
            }
        )
    parts: list[Part] = [Table.of_rows("data", rows)] if rows else []
    if absent:
        parts.append(f"Not found from here, or not in COCO's format: {', '.join(absent)}.")
    return Section("Data", parts)


def _curves(log: TrainingLog) -> Section:
    losses, scores = log.losses(), log.scores()
    section = Section("Training", [Chart("losses", charts.lines(losses, "loss", smoothed=True), "Losses, smoothed.")])
    if scores:
        best = "; ".join(f"{task}: best {y.max():.3f}, last {y[-1]:.3f}" for task, (_, y) in scores.items())
        section.parts.append(Chart("validations", charts.lines(scores, "validation"), f"Validations. {best}."))
    for key, what in (("lr", "Learning rate."), ("grad_norm", "Norm of the gradient, before it is clipped.")):
        if (line := log.line(key)) is not None:
            section.parts.append(Chart(key, charts.lines({key: line}, what.split(",")[0].rstrip(".").lower()), what))
    return section


def _costs(record: EvaluationRecord | None, log: TrainingLog | None) -> Section:
    rows: list[Sequence[Any]] = []
    if log:
        rows.append(["training: seconds an iteration (median)", log.seconds()])
        rows.append(["training: peak memory of the GPU, MiB", log.memory()])
    if record:
        each = record.seconds / record.batch_size if record.seconds and record.batch_size else None
        loading = record.loading_seconds / record.batch_size if record.loading_seconds and record.batch_size else None
        rows.append(["evaluation: seconds an image (median of the batches)", each])
        rows.append(["evaluation: of them, waiting for data", loading])
        rows.append([f"evaluation: peak memory on {record.device}, MiB", record.memory])
    return Section("Time and memory", [Table("costs", ["what", "number"], [row for row in rows if row[1] is not None])])
