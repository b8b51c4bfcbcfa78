"""Curves of a training as one image: losses, and mAP or what else the task is measured by."""

import atexit
import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..files import atomic_file, write_text
from .coco_metrics import headline_metrics

CURVES_FILE = "curves.png"
_POINTS_FILE = "curves.json"  # the validations so far: checkpoints lack the one that follows them
_MAX_POINTS = 1000  # a line has no more points than the image has pixels
_AP_TASKS = {"bbox", "segm", "proposal"}

Line = tuple[np.ndarray, np.ndarray]  # iterations and values, both of shape (N,)


@HOOKS.register_module()
class CurvesHook(Hook):
    """Keeps `curves.png` in the work dir up to date: losses and mAP (or PQ, mIoU, accuracy) over the iterations.

    Drawn after each validation, every `interval` iterations, at the end and when the program stops
    early. A resumed training continues its curves, a new one in the same folder starts new ones.

    Args:
        interval: Iterations between two drawings.
    """

    priority = "VERY_LOW"  # after mmengine has recorded losses and metrics

    def __init__(self, interval: int = 1000) -> None:
        self.interval = interval
        self._validations: list[dict] = []
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Takes over the validations up to the iteration at which the training starts."""
        if not is_main_process():
            return
        self._validations = _read_validations(runner, until=runner.iter)
        self._training = True
        atexit.register(self._draw, runner)  # an interruption calls no hook

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Draws now and then: an epoch of COCO takes hours."""
        if self.every_n_train_iters(runner, self.interval):
            self._draw(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Adds a point of mAP, if this validation is part of a training."""
        if not self._training:
            return
        before = [point for point in self._validations if point["iteration"] < runner.iter]  # it may have gone back
        self._validations = [*before, {"iteration": runner.iter, **headline_metrics(metrics or {})}]
        self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draws the final curves."""
        self._draw(runner)
        self._training = False
        atexit.unregister(self._draw)

    def _draw(self, runner: Runner) -> None:
        if not self._training:
            return
        try:
            if losses := _losses(runner):
                folder = Path(runner.work_dir)
                write_text(folder / _POINTS_FILE, json.dumps(self._validations))
                draw_curves(losses, _mean_aps(self._validations), folder / CURVES_FILE)
        except Exception as error:  # an image is never worth a training
            runner.logger.warning("The curves could not be drawn: %r", error)


def _read_validations(runner: Runner, until: int) -> list[dict]:
    if until == 0:
        return []
    try:
        points = json.loads((Path(runner.work_dir) / _POINTS_FILE).read_text())
        return [point for point in points if point["iteration"] <= until]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        runner.logger.warning("Earlier points of the mAP curves are lost: %r", error)
        return []


def _losses(runner: Runner) -> dict[str, Line]:
    """Every recorded iteration of every loss; mmengine's checkpoints carry them across a resume."""
    lines = {}
    for key, buffer in runner.message_hub.log_scalars.items():
        name = key.removeprefix("train/")
        if name != key and "loss" in name:
            values = buffer.data[0]
            # Counted from the end: a buffer forgets its oldest values after a million.
            last = runner.message_hub.get_info("iter") + 1
            lines[name] = np.arange(last - len(values) + 1, last + 1), values
    return lines


def _mean_aps(validations: list[dict]) -> dict[str, Line]:
    tasks = dict.fromkeys(task for point in validations for task in point if task != "iteration")
    lines = {}
    for task in tasks:
        points = [(point["iteration"], point[task]) for point in validations if task in point]
        lines[task] = tuple(np.array(column) for column in zip(*points, strict=True))
    return lines


def draw_curves(losses: dict[str, Line], mean_aps: dict[str, Line], path: Path) -> None:
    """Draws both panels and writes the PNG; no global state of matplotlib is touched."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True)
    for name, (iterations, values) in losses.items():
        total = name == "loss"
        x, y = smooth(*thin_out(iterations, values))
        colour = "black" if total else None
        left.plot(x, y, label="total" if total else name, color=colour, linewidth=2 if total else 1.2)
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
    with atomic_file(path, flush=False) as file:  # someone may be looking at it
        figure.savefig(file, format="png", dpi=120)


def thin_out(x: np.ndarray, y: np.ndarray) -> Line:
    """Means over equal pieces, so that no more than `_MAX_POINTS` are left."""
    step = -(-len(x) // _MAX_POINTS)
    starts = np.arange(0, len(x), step)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def smooth(x: np.ndarray, y: np.ndarray) -> Line:
    """Moving average over a thirtieth of the curve; at its ends over what there is."""
    window = np.ones(max(1, len(y) // 30))
    return x, np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")
