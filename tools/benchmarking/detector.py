"""Where the time of an evaluation goes: data, network, post-processing, metric."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from torch import nn

from .environment import synchronize

DATA, NETWORK, BOXES, MASKS, METRIC = PARTS = (
    "data loading",
    "network",
    "proposals and boxes",
    "mask pasting",
    "metric",
)


class Stopwatch:
    """Adds up the time of parts; a part inside another one counts for the inner one alone.

    Attributes:
        seconds: By part.
    """

    def __init__(self, device: str) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._device = device
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Let the time of the block count for a part."""
        self._book()
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def _book(self) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


@dataclass(frozen=True)
class Validation:
    """Seconds by part for a number of images, and what was found on them.

    Attributes:
        detections: Instances that the detector found; few of them make masks and metric look cheap.
    """

    seconds: dict[str, float]
    images: int
    workers: int
    detections: int
    metrics: dict[str, float]

    def record(self) -> dict[str, object]:
        """The result with its shares, as it stands in the JSON file."""
        total = sum(self.seconds.values())
        return {**vars(self), "shares": {part: seconds / total for part, seconds in self.seconds.items()}}


def measure_validation(cfg: Config, device: str) -> Validation:
    """Evaluate a detector as `tools/test.py` does, with a stopwatch.

    Data loading is the time that the loop waits for it: workers beside it hide what they do in the meantime.

    Args:
        cfg: A complete config; `load_from` names the checkpoint, None leaves random weights.
    """
    init_default_scope("mmdet")
    loader = Runner.build_dataloader(cfg.test_dataloader, seed=0)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    model = MODELS.build(cfg.model)
    if cfg.get("load_from"):
        load_checkpoint(model, cfg.load_from, map_location="cpu")
    model = model.to(device).eval()
    watch, detections = Stopwatch(device), 0
    _time_post_processing(model, watch)

    batches = iter(loader)
    with torch.no_grad():
        while True:
            with watch.part(DATA):
                batch = next(batches, None)
            if batch is None:
                break
            with watch.part(NETWORK):
                samples = model.test_step(batch)
            detections += sum(len(sample.pred_instances) for sample in samples)
            with watch.part(METRIC):
                evaluator.process(data_samples=samples, data_batch=batch)
    with watch.part(METRIC):
        metrics = evaluator.evaluate(len(loader.dataset))
    return Validation(watch.seconds, len(loader.dataset), loader.num_workers, detections, metrics)


def validation_table(found: Validation, device: str) -> str:
    """A table in Markdown."""
    shares = found.record()["shares"]
    lines = [
        f"Evaluation of {found.images} images with {found.detections} detections, {found.workers} data workers, "
        f"{device}",
        "",
        "| part | share | ms an image |",
        "|---|---:|---:|",
    ]
    for part, seconds in found.seconds.items():
        lines.append(f"| {part} | {shares[part]:.1%} | {seconds / found.images * 1e3:.1f} |")
    return "\n".join(lines)


def _time_post_processing(model: nn.Module, watch: Stopwatch) -> None:
    """Heads turn maps into results in `predict_by_feat`; that of a mask head pastes masks into images."""
    for name, module in model.named_modules():
        if hasattr(module, "predict_by_feat"):
            part = MASKS if "mask_head" in name else BOXES
            module.predict_by_feat = _timed(module.predict_by_feat, watch, part)


def _timed(function, watch: Stopwatch, part: str):
    @functools.wraps(function)
    def timed(*args, **kwargs):
        with watch.part(part):
            return function(*args, **kwargs)

    return timed
