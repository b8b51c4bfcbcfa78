"""Whole detectors side by side: evaluation from loading to metric, and training steps, each row in its own process."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection

from .detector_rows import DetectorOptions, DetectorRow
from .markdown import markdown_table
from .memory import Peak
from .timing import quartiles

_MIB = 2**20
# What our tools put into the environment of their processes, see tools/_process.py.
_OURS = ("GOMP_SPINCOUNT", "10000")


@dataclass
class DetectorResult:
    """One row in one type.

    Attributes:
        samples: Seconds of each round, all parts together.
        parts: Seconds of each round, by part.
        images: Of one round.
        found: Instances found, or boxes sampled as positive, in the last round.
        memory: Of the row's process; shared by its types.
        note: Why numbers are missing.
    """

    row: str
    way: str
    dtype: str
    samples: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    images: int = 0
    found: int = 0
    memory: Peak | None = None
    note: str = ""


@dataclass
class DetectorTable:
    """All results of one mode, timed in the same rounds."""

    mode: str
    options: DetectorOptions
    results: list[DetectorResult]

    def records(self) -> list[dict[str, object]]:
        """The results with what follows from them, as they stand in the JSON file."""
        first = next((quartiles(r.samples).median for r in self.results if r.samples), None)
        return [self._record(result, first) for result in self.results]

    def _record(self, result: DetectorResult, first: float | None) -> dict[str, object]:
        latency = quartiles(result.samples) if result.samples else None
        return {
            **asdict(result),
            "mode": self.mode,
            "latency": asdict(latency) if latency else None,
            "images_per_second": result.images / latency.median if latency else None,
            "speed_to_first": first / latency.median if latency and first else None,
            "part_medians": {part: quartiles(seconds).median for part, seconds in result.parts.items()},
        }


def measure_detectors(
    rows: Sequence[DetectorRow], options: DetectorOptions, tell: Callable[[str], None]
) -> Iterator[DetectorTable]:
    """Measure all rows, one table for each mode.

    Every row runs in a process of its own, which lives through all rounds: rows differ in how their processes handle
    memory, and peaks are theirs alone. In each round one row after the other gets the machine, the others wait.
    """
    for mode in options.modes:
        with _workers(rows, mode, options) as workers:
            results = [[DetectorResult(row.label, row.way, dtype) for dtype in options.dtypes] for row in rows]
            turns = [(i, j) for i in range(len(rows)) for j in range(len(options.dtypes))]
            for number in range(-options.warmup, options.rounds):
                for place in range(len(turns)):
                    i, j = turns[(place + number) % len(turns)]
                    result = results[i][j]
                    if not result.note:
                        _take_turn(workers[i], result, keep=number >= 0)
                tell(f"{mode}: round {number + options.warmup + 1} of {options.rounds + options.warmup}")
        yield DetectorTable(mode, options, [result for of_row in results for result in of_row])


def detector_table(measured: DetectorTable) -> str:
    """A table in Markdown: medians with quartiles, speed, and the medians of parts."""
    options = measured.options
    records = measured.records()
    rounds = max((len(record["samples"]) for record in records), default=0)
    if measured.mode == "evaluation":
        images = max((record["images"] for record in records), default=0)
        what = f"Evaluation of {images} images from loading to metric, {options.workers} data workers"
    else:
        height, width = options.size
        what = f"Training step, {height}x{width}, batch {options.batch}: forward, backward, optimizer"
    found = "instances" if measured.mode == "evaluation" else "positives"
    parts = list(dict.fromkeys(part for record in records for part in record["part_medians"]))
    head = ["row", "run", "dtype", "images/s", "speed ÷ first", "ms an image (quartiles)"]
    lines = [
        f"{what}; {options.device}; median of {rounds} rounds; parts in ms an image",
        "",
        markdown_table([*head, *parts, found, "peak MiB (over start)"], [_cells(r, parts) for r in records], left=3),
    ]
    notes = [f"- {record['row']} {record['dtype']}: {record['note']}" for record in records if record["note"]]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _cells(record: dict, parts: Sequence[str]) -> list[str]:
    start = [record["row"], record["way"], record["dtype"]]
    if not record["samples"]:
        return [*start, *["-"] * (len(parts) + 5)]
    scale, latency, peak = 1e3 / record["images"], record["latency"], record["memory"]
    medians = record["part_medians"]
    return [
        *start,
        f"{record['images_per_second']:.2f}",
        f"{record['speed_to_first']:.2f}",
        f"{latency['median'] * scale:.1f} ({latency['low'] * scale:.1f} to {latency['high'] * scale:.1f})",
        *(f"{medians[part] * scale:.1f}" if part in medians else "-" for part in parts),
        str(record["found"]),
        f"{peak['peak'] / _MIB:.0f} ({(peak['peak'] - peak['start']) / _MIB:.0f})" if peak else "-",
    ]


def _take_turn(worker: Connection, result: DetectorResult, keep: bool) -> None:
    worker.send(result.dtype)
    answer = worker.recv()
    if isinstance(answer, str):
        result.note = answer
        return
    sample, total, peak = answer
    result.images, result.found = sample.images, sample.found
    result.memory = result.memory or peak
    if keep:
        result.samples.append(total)
        for part, seconds in sample.seconds.items():
            result.parts.setdefault(part, []).append(seconds)


@contextmanager
def _workers(rows: Sequence[DetectorRow], mode: str, options: DetectorOptions) -> Iterator[list[Connection]]:
    """A process for each row, ready to work; they end with the block."""
    context, started = get_context("spawn"), []
    try:
        for row in rows:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, row, mode, options), daemon=options.workers == 0)
            with _environment(row.way):
                process.start()
            theirs.close()
            started.append((process, ours))
            ours.recv()  # one after the other: building all at once would need everyone's memory twice
        yield [connection for _, connection in started]
    finally:
        for process, connection in started:
            connection.close()
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()


@contextmanager
def _environment(way: str) -> Iterator[None]:
    """The environment in which a row's process starts."""
    name, value = _OURS
    before = os.environ.get(name)
    if way != "stock":
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def _work(connection: Connection, row: DetectorRow, mode: str, options: DetectorOptions) -> None:
    """What a row's process does: answer each dtype with what a round took, until nobody asks any more."""
    if row.way != "stock":
        import _process  # noqa: F401 - keeps freed memory

    import torch

    from .detector_jobs import EvaluationJob, TrainingJob
    from .memory import measure_peak

    if options.threads:
        torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    job, mistake, peak = None, "", None
    try:
        job = (EvaluationJob if mode == "evaluation" else TrainingJob)(row, options)
    except Exception as error:  # whatever a row breaks on is the row's result
        mistake = _sentence(error)
    connection.send("ready")
    while True:
        try:
            dtype = connection.recv()
        except EOFError:
            return
        if job is None:
            connection.send(mistake)
            continue
        job.dtype = dtype
        try:
            start = time.perf_counter()
            if peak is None:
                peak = measure_peak(job, options.device)
            else:
                job()
            connection.send((job.last, time.perf_counter() - start, peak))
        except Exception as error:
            connection.send(_sentence(error))


def _sentence(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {where.name}: {' '.join(str(error).split())[:200]}"
