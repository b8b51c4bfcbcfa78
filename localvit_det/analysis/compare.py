"""Two detectors on the same images: AP with what chance may have done to it, speed and size."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..checkpoint.search import checkpoint_file
from ..config.utils import dataset_paths, find_datasets
from ..errors import ConfigError, shortened
from ..evaluation.coco import draw_images, resampled_ap
from ..evaluation.record import EvaluationRecord, read_record
from ..fused import fuse_detector
from ..predict import Detector
from ..predict.sources import Sources
from .coco import TASKS, Evaluation, average_precision, evaluate
from .page import Cell, Table

Pair = tuple[float | None, float | None]


@dataclass(frozen=True)
class Difference:
    """AP of two detectors, each from 0 to 1; None where there is no object."""

    ap: Pair  # of both
    # Which holds 95% of the differences, second minus first, when the images are drawn again.
    interval: tuple[float, float]
    classes: Mapping[str, Pair]  # AP of both for each class


@dataclass(frozen=True)
class Comparison:
    """Two detectors, the first and the second in each pair."""

    weights: tuple[str, str]  # their files
    annotations: str  # the ground truth
    images: int  # how many of it were evaluated
    tasks: Mapping[str, Difference]  # AP of 'bbox', and of 'segm' where both have masks
    # One image at a time, the detectors in turn, medians; all but reading the file is in it.
    images_per_second: tuple[float, float]
    speed: float  # of the second over the first, the median of the images
    parameters: tuple[int | None, int | None]  # None for an exported model, like the next
    macs: tuple[int | None, int | None]  # multiply-adds for the first image, with the objects that are found in it
    file_bytes: tuple[int, int]  # of the files as they are, a training's state included
    resamples: int  # draws of images for the intervals
    seed: int  # of the draws
    device: str  # where both ran

    def tables(self) -> list[Table]:
        """Return AP of each task, AP of the classes, and costs."""
        rows: list[dict[str, Cell]] = []
        classes: list[dict[str, Cell]] = []
        for task, one in self.tasks.items():
            interval = "{:+.3f} to {:+.3f}".format(*one.interval)
            rows.append({"AP": TASKS[task], **_row(one.ap), "95% of draws of images": interval})
            classes += [{"class": f"{name} ({TASKS[task]})", **_row(pair)} for name, pair in one.classes.items()]
        costs: list[dict[str, Cell]] = [
            {"cost": "images/s", **_row(self.images_per_second), "second ÷ first": self.speed}
        ]
        sizes = {
            "parameters, M": (self.parameters, 1e6),
            "MACs, G": (self.macs, 1e9),
            "file, MB": (self.file_bytes, 1e6),
        }
        for name, (pair, unit) in sizes.items():
            first, second = (None if number is None else number / unit for number in pair)
            ratio = second / first if first and second else None
            costs.append({"cost": name, **_row((first, second)), "second ÷ first": ratio})
        return [Table.of_rows(name, part) for name, part in (("ap", rows), ("classes", classes), ("costs", costs))]


def compare(
    first: str | os.PathLike,
    second: str | os.PathLike,
    data: str | os.PathLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
    images: int = 20,
    options: Mapping[str, Any] | None = None,
    trusted: bool = False,
) -> Comparison:
    """Evaluate two detectors on the same images as `localvit test` does, and compare them.

    Args:
        first: A checkpoint, a work dir or an exported model, as the next.
        second: The other.
        data: Folder of a dataset; by default that of both trainings.
        resamples: How often as many images are drawn, with repetition.
        seed: Of the draws.
        images: On how many speed is measured.
        options: Changes of both configs, by dotted keys.
        trusted: As of `Detector`.

    Raises:
        ConfigError: They know different classes, or have different data and none are named.
        UserError: As `Detector` and `localvit test` report it.
    """
    detectors = [Detector(one, fuse=False, options=options, trusted=trusted) for one in (first, second)]
    _check_comparable(detectors, data)
    with tempfile.TemporaryDirectory() as folder:
        records = [_test(one, data, Path(folder, str(index)), trusted) for index, one in enumerate(detectors)]
        one, other = (
            evaluate(r.annotations, r.predictions, r.classes, r.images, r.image_ids, r.pixel_range, by_image=True)
            for r in records
        )
    files = [Path(one.images or "", image["file_name"]) for image in one.truth.imgs.values()][:images]
    pixels = [frame.image for frame in Sources(files, pixel_range=one.pixel_range)]
    costs = [_cost(detector, pixels[0]) for detector in detectors]
    times = _seconds(detectors, pixels)
    return Comparison(
        weights=(os.fspath(first), os.fspath(second)),
        annotations=records[0].annotations,
        images=len(one.truth.imgs),
        tasks={task: difference(one, other, task, resamples, seed) for task in one.tasks if task in other.tasks},
        images_per_second=(1 / median(times[0]), 1 / median(times[1])),
        speed=median(a / b for a, b in zip(*times, strict=True)),
        parameters=(costs[0][0], costs[1][0]),
        macs=(costs[0][1], costs[1][1]),
        file_bytes=(_file_bytes(first), _file_bytes(second)),
        resamples=resamples,
        seed=seed,
        device=records[0].device,
    )


def difference(first: Evaluation, second: Evaluation, task: str, resamples: int, seed: int) -> Difference:
    """Return how the AP of two evaluations of the same images, kept image by image, differ in 'bbox' or 'segm'."""
    counts = draw_images(len(first.truth.imgs), resamples, seed)  # the same for both: a pair of each draw
    drawn, means, classes = [], [], []
    for one in (first, second):
        evaluator = one.tasks[task]
        drawn.append(resampled_ap(evaluator.detections, counts, evaluator.params.recThrs))
        means.append(average_precision(evaluator))
        classes.append({name: average_precision(evaluator, "AP", at) for at, name in enumerate(one.classes.values())})
    low, high = np.nanquantile(drawn[1] - drawn[0], (0.025, 0.975)).tolist()
    names = {name: (ap, classes[1][name]) for name, ap in classes[0].items() if ap is not None}
    return Difference((means[0], means[1]), (low, high), names)


def count_macs(run: Callable[[], object]) -> int:
    """Count the multiply-adds of everything that `run` does with PyTorch.

    PyTorch's own counter does the work; our inhomogeneous convolution declares its cost. In some releases it
    lacks the attention kernels of the CPU; the plain form of attention is two matrix products, which every release
    counts.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return counter.get_total_flops() // 2


def _check_comparable(detectors: Sequence[Detector], data: str | os.PathLike | None) -> None:
    first, second = (set(one.classes) for one in detectors)
    if first != second:
        raise ConfigError(
            f"The detectors know different classes (only one of both: {shortened(sorted(first ^ second), 5)}): compare "
            "two that were trained on the same ones."
        )
    files = {dataset_paths(dataset)[0] for one in detectors for _, dataset in find_datasets(one.config, "test")}
    if data is None and len(files) > 1:
        raise ConfigError(
            f"The detectors were trained on different data ({shortened(sorted(map(str, files)), 2)}): name those to "
            "compare on by --data."
        )


def _test(detector: Detector, data: str | os.PathLike | None, folder: Path, trusted: bool) -> EvaluationRecord:
    detector.val(data, record=True, work_dir=os.fspath(folder), trust_file=trusted)
    record = read_record(folder)
    assert record is not None, "the test has just written it"
    return record


def _cost(detector: Detector, image: np.ndarray) -> tuple[int | None, int | None]:
    """Return parameters and MACs, and fuse the detector, of which the latter cannot be counted."""
    if detector.exported:
        return None, None
    parameters = sum(one.numel() for one in detector.model.parameters())
    macs = count_macs(lambda: detector(image))
    fuse_detector(detector.model)
    return parameters, macs


def _file_bytes(source: str | os.PathLike) -> int:
    file = Path(checkpoint_file(source))
    parts = [file, *([file.with_suffix(".bin")] if file.suffix == ".xml" else [])]  # OpenVINO's weights
    return sum(part.stat().st_size for part in parts)


def _seconds(detectors: Sequence[Detector], images: Sequence[np.ndarray]) -> list[list[float]]:
    """Return the seconds of each detector for each image; they take turns, so that other load meets both."""
    times: list[list[float]] = [[], []]
    for number, image in enumerate([images[0], *images]):  # the first prepares memory and kernels
        for index in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            detectors[index](image)
            times[index].append(time.perf_counter() - start)
    return [each[1:] for each in times]


def _row(pair: Pair) -> dict[str, Cell]:
    both = None not in pair
    return {"first": pair[0], "second": pair[1], "difference": pair[1] - pair[0] if both else None}  # type: ignore[operator]
