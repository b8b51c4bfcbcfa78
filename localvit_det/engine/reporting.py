"""What a training reports: its settings, tables of results, curves, and where its files are.

MMEngine's LoggerHook and Visualizer write every number one by one; they would leave it to the reader to draw them, to
sum up a COCO evaluation, and to find out which batch size and learning rate have come of all settings together.
"""

from __future__ import annotations

import atexit
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..config.utils import walk
from ..files import atomic_file
from .data_loader import batch_size_of
from .optim import accumulative_counts, optim_wrappers
from .processes import unwrapped
from .validations import Point, add_validation, begin_validations

CURVES_FILE = "curves.png"
_MAX_POINTS = 1000  # a line has no more points than the image has pixels
_AP_TASKS = {"bbox", "segm", "proposal"}
# As MMDetection's CocoMetric names its numbers, e.g. `coco/bbox_mAP_50`.
_COLUMNS = {"": "AP", "_50": "AP50", "_75": "AP75", "_s": "APs", "_m": "APm", "_l": "APl"}
_KEY = re.compile(r"(?:coco/)?(?P<task>.*(?:bbox|segm|proposal))_mAP(?P<column>|_50|_75|_s|_m|_l)")
# The one number of other tasks, and what it counts up to there (a curve goes to 1).
_OTHERS = {"coco_panoptic/PQ": ("PQ", 100), "mIoU": ("mIoU", 100), "accuracy/top1": ("top-1 accuracy", 100)}

_IMAGES = 16  # that are tried again without a threshold, where a test has found nothing
_LIMIT = "score_thr"

Line = tuple[np.ndarray, np.ndarray]  # iterations and values, both of shape (N,)


# ---- metrics


def headline_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the number of each task that its curve shows, from 0 to 1: COCO's AP, PQ, mIoU, accuracy."""
    found = {task: row["AP"] for task, row in coco_rows(metrics).items() if "AP" in row}
    return found | {name: float(metrics[key]) / full for key, (name, full) in _OTHERS.items() if key in metrics}


def coco_rows(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Sort metrics by task and column, e.g. {'bbox': {'AP': 0.4, 'AP50': 0.6}}; ignore all others."""
    rows: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        if match := _KEY.fullmatch(key):
            rows.setdefault(match["task"], {})[_COLUMNS[match["column"]]] = float(value)
    return rows


def coco_table(metrics: Mapping[str, Any]) -> str:
    """Return `coco_rows` as a table in plain text; '-' where a dataset has no objects (pycocotools' -1)."""
    rows = coco_rows(metrics)
    width = max([6, *map(len, rows)])
    lines = [" " * width + "".join(f"{name:>8}" for name in _COLUMNS.values())]
    for task, values in rows.items():
        cells = (values.get(name, -1.0) for name in _COLUMNS.values())
        lines.append(f"{task:<{width}}" + "".join(f"{cell:>8.3f}" if cell >= 0 else f"{'-':>8}" for cell in cells))
    return "\n".join(lines)


# ---- settings, results and files


@HOOKS.register_module()
class TrainingReportHook(Hook):
    """Log the settings that decide a training before it, and results and files after it.

    Also after `runner.test()` and `runner.val()`, then with the results only.
    """

    priority = "LOWEST"  # after the checkpoint and the curves are written

    def __init__(self) -> None:
        self._metrics: Mapping[str, Any] = {}
        self._evaluated = ""
        self._trained = False

    def before_train(self, runner: Runner) -> None:
        """Log the settings, as they are after auto_scale_lr and resuming."""
        self._trained = True
        runner.model.train()  # MMDetection's ResNet and Swin freeze their first stages only then
        if is_main_process():
            runner.logger.info("Training: %s", "\n  ".join(_describe_settings(runner)))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Keep the latest results, and log them in a line if more iterations come before the table."""
        self._metrics = metrics or {}
        self._evaluated = f"validation after iteration {runner.iter}" if self._trained else "validation"
        if self._trained and runner.iter < runner.max_iters and is_main_process():
            numbers = [
                f"{task} " + ", ".join(f"{name} {value:.3f}" for name, value in row.items() if value >= 0)
                for task, row in coco_rows(self._metrics).items()
            ]
            if numbers:
                runner.logger.info("%s: %s", self._evaluated.capitalize(), "; ".join(numbers))

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._metrics, self._evaluated = metrics or {}, "test"

    def after_run(self, runner: Runner) -> None:
        """Log one table, and after a training where everything is."""
        metrics, trained = self._metrics, self._trained
        self._metrics, self._trained = {}, False  # the same runner may test next
        if not is_main_process():
            return
        if coco_rows(metrics):
            runner.logger.info("COCO results (%s):\n%s", self._evaluated, coco_table(metrics))
        if trained:
            lines = [f"{name:<16} {place}" for name, place in _files(runner).items()]
            runner.logger.info("Saved:\n  %s", "\n  ".join(lines))


def _describe_settings(runner: Runner) -> list[str]:
    loader = runner.train_dataloader
    per_process = batch_size_of(loader)
    accumulated = accumulative_counts(runner.optim_wrapper)
    batch = per_process * runner.world_size * accumulated
    groups = [group for wrapper in optim_wrappers(runner.optim_wrapper) for group in wrapper.optimizer.param_groups]
    # The schedulers (warm-up) have already changed 'lr'; 'initial_lr' is theirs, and absent without them.
    base_lrs = [group.get("initial_lr", group["lr"]) for group in groups]
    parameters = list(runner.model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)

    length = f"{runner.max_iters} iterations"
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        length += f" ({runner.max_epochs} epochs)"
    if runner.iter:
        length += f", going on after iteration {runner.iter}"
    scaling = runner.auto_scale_lr or {}
    scaled = f", scaled from a batch of {scaling['base_batch_size']}" if scaling.get("enable") else ""
    factors = f"{per_process} per process x {runner.world_size} processes x {accumulated} accumulated"
    lines = [
        f"batch {batch} ({factors}), "
        f"learning rate {_lr_range(base_lrs)} (now {_lr_range([group['lr'] for group in groups])}{scaled})",
        f"{len(loader.dataset)} images, {length}, {trainable:,} of {sum(p.numel() for p in parameters):,} "
        f"parameters trained{_describe_frozen(runner)}",
    ]
    if not scaling.get("enable") and scaling.get("base_batch_size", batch) != batch:
        lines.append(
            f"The config's learning rate is meant for a batch of {scaling['base_batch_size']}: "
            "--auto-scale-lr would fit it to this one."
        )
    return lines


def _describe_frozen(runner: Runner) -> str:
    """Return what of the backbone stays as it is, for a sentence's end."""
    stages = getattr(getattr(unwrapped(runner.model), "backbone", None), "frozen_stages", -1)
    if stages < 0:
        return ""
    of_stages = "" if stages == 0 else f" and first {stages} stages" if stages > 1 else " and first stage"
    return f" (the backbone's stem{of_stages} frozen)"


def _lr_range(rates: list[float]) -> str:
    low, high = min(rates), max(rates)
    return f"{high:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _files(runner: Runner) -> dict[str, str]:
    """Return what a training has left behind; only what is really there."""
    info = runner.message_hub.runtime_info
    best = {key: path for key, path in info.items() if key.startswith("best_ckpt")}  # by metric, if there are several
    candidates = {
        "work dir": runner.work_dir,
        "last checkpoint": info.get("last_ckpt"),
        **{key.replace("best_ckpt", "best checkpoint"): path for key, path in best.items()},
        "curves": Path(runner.work_dir, CURVES_FILE),
        "log": Path(runner.log_dir, f"{runner.timestamp}.log"),
    }
    return {name: str(path) for name, path in candidates.items() if path and Path(path).exists()}


# ---- a test that has found nothing


def explain_no_detections(runner: Runner) -> str:
    """Return a sentence with the highest score in the first images of a test and the threshold above it."""
    what = "No image has a single detection, so AP is 0"
    limits = [(path, node[_LIMIT]) for path, node in walk(runner.cfg.get("model"), "model") if node.get(_LIMIT)]
    if not limits:
        return f"{what}."
    path, limit = limits[0]
    path = path.replace("model.module.", "model.")  # of --tta
    highest, count = _highest_score(runner)
    there = f"the first {count} images have no score above {highest:.3g}" if count else "no image could be tried again"
    return (
        f"{what}: {there}, and {path}.{_LIMIT}={limit:g} keeps higher scores only. Check that the weights are trained, "
        "and on images and classes like these."
    )


@torch.no_grad()
def _highest_score(runner: Runner) -> tuple[float, int]:
    """Return the highest score without thresholds, 0 where there is none, and the number of images."""
    model: Any = unwrapped(runner.model)
    changed = [(node, node[_LIMIT]) for node in _settings(model) if node.get(_LIMIT)]
    highest, count = 0.0, 0
    try:
        for node, _ in changed:
            node[_LIMIT] = 0.0
        for batch in runner.test_dataloader:
            for sample in model.test_step(batch):
                scores = sample.pred_instances.scores
                highest = max([highest, *scores[scores.isfinite()].tolist()])
                count += 1
            if count >= _IMAGES:
                break
    finally:
        for node, limit in changed:
            node[_LIMIT] = limit
    return highest, count


def _settings(model: nn.Module) -> list[dict[str, Any]]:
    """Return what the parts of a detector keep of `test_cfg`."""
    return [node for module in model.modules() for _, node in walk(getattr(module, "test_cfg", None))]


# ---- curves


@HOOKS.register_module()
class CurvesHook(Hook):
    """Keep `curves.png` in the work dir up to date: losses and mAP (or PQ, mIoU, accuracy) over the iterations.

    Drawn after each validation, every `interval` iterations, at the end and when the program stops
    early. A resumed training continues its curves, a new one in the same folder starts new ones.
    """

    priority = "VERY_LOW"  # after MMEngine has recorded losses and metrics

    def __init__(self, interval: int = 1000) -> None:
        self.interval = interval
        self._training = False
        self._thread: threading.Thread | None = None

    def before_train(self, runner: Runner) -> None:
        """Take over the validations up to the iteration at which the training starts."""
        begin_validations(runner)
        if not is_main_process():
            return
        self._training = True
        atexit.register(self._draw, runner)  # an interruption calls no hook

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw now and then: an epoch of COCO takes hours. Iterations go on, as it takes as long as many small ones."""
        if self._training and self.every_n_train_iters(runner, self.interval):
            self._wait()
            self._thread = threading.Thread(target=self._write, args=(runner, _losses(runner), runner.validations))
            self._thread.start()

    def after_train_epoch(self, runner: Runner) -> None:
        """Let no data worker be forked while another thread holds a lock."""
        self._wait()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Add a point of mAP, if this validation is part of a training."""
        if not self._training:
            return
        add_validation(runner, metrics)
        self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        self._draw(runner)
        self._training = False
        atexit.unregister(self._draw)

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _draw(self, runner: Runner) -> None:
        self._wait()
        if self._training:
            self._write(runner, _losses(runner), runner.validations)

    @staticmethod
    def _write(runner: Runner, losses: dict[str, Line], validations: list[Point]) -> None:
        try:
            if losses:
                scores = {point["iteration"]: headline_metrics(point["metrics"]) for point in validations}
                draw_curves(losses, task_lines(scores), Path(runner.work_dir, CURVES_FILE))
        except Exception as error:  # an image is never worth a training
            runner.logger.warning("The curves could not be drawn: %r", error)


def _losses(runner: Runner) -> dict[str, Line]:
    """Return every recorded iteration of every loss; MMEngine's checkpoints carry them across a resume."""
    lines = {}
    for key, buffer in runner.message_hub.log_scalars.items():
        name = key.removeprefix("train/")
        if name != key and "loss" in name:
            values = buffer.data[0]
            # Counted from the end: a buffer forgets its oldest values after a million.
            last = runner.message_hub.get_info("iter") + 1
            lines[name] = np.arange(last - len(values) + 1, last + 1), values
    return lines


def task_lines(scores: Mapping[int, Mapping[str, float]]) -> dict[str, Line]:
    """Return the line of each task, from its number at each iteration."""
    tasks = dict.fromkeys(task for point in scores.values() for task in point)
    return {task: line_of((i, point[task]) for i, point in scores.items() if task in point) for task in tasks}


def line_of(points: Iterable[tuple[int, float]]) -> Line:
    """Return pairs of an iteration and a value as two arrays."""
    iterations, values = zip(*points, strict=True)
    return np.array(iterations), np.array(values)


def draw_curves(losses: dict[str, Line], mean_aps: dict[str, Line], path: Path) -> None:
    """Draw both panels and write the PNG; no global state of matplotlib is touched."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True)
    for name, (iterations, values) in losses.items():
        total = name == "loss"
        x, y = smooth(*thin_out(iterations, values))
        colour = "black" if total else None
        marker = "o" if len(x) == 1 else None  # a line of one point is none
        width = 2 if total else 1.2
        left.plot(x, y, label="total" if total else name, color=colour, linewidth=width, marker=marker)
        if total:
            left.plot(*thin_out(iterations, values), color=colour, alpha=0.15, linewidth=0.8, zorder=1)
    left.set(title="Training loss (smoothed)", ylabel="loss")
    for task, (iterations, values) in mean_aps.items():
        best = int(np.argmax(values))
        label = f"{task}: best {values[best]:.3f}, last {values[-1]:.3f}"
        right.plot(iterations, values, marker="o", markersize=4, label=label)
    right.set(
        title="Validation" if mean_aps else "Validation (none yet)",
        ylabel="mAP" if set(mean_aps) <= _AP_TASKS else " / ".join(mean_aps),
        ylim=(0, None),
    )
    for axes in (left, right):
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    with atomic_file(path, flush=False) as file:  # a viewer may have it open
        figure.savefig(file, format="png", dpi=120)


def thin_out(x: np.ndarray, y: np.ndarray) -> Line:
    """Average over equal pieces, so that no more than `_MAX_POINTS` are left."""
    step = -(-len(x) // _MAX_POINTS)
    starts = np.arange(0, len(x), step)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def smooth(x: np.ndarray, y: np.ndarray) -> Line:
    """Return the moving average over a thirtieth of the curve; at its ends over what there is."""
    window = np.ones(max(1, len(y) // 30))
    return x, np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")
