"""What each family reached, seed by seed: means and ranges, in no order of merit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from localvit_det.files import atomic_file

BASELINES = ("PyramidVisionTransformer", "SwinTransformer")  # MMDetection's
METRICS = {"bbox": ("box", "#d95f02", 0.16), "segm": ("mask", "#1b6ca8", -0.16)}  # name, colour, place in the row


class Runs(Protocol):
    """The trainings of one family, which differ in their seeds alone."""

    name: str  # type of the backbone
    bbox: list[float]  # box mAP of each seed
    segm: list[float]  # mask mAP of each seed


def draw(runs: Sequence[Runs], path: Path) -> None:
    """A row for each family: a faint dot for each seed, a line from the worst to the best, a dot at the mean.

    Families stand in the order of their names, the baselines below them: a few seeds of a small training do not rank.
    """
    ordered = sorted(runs, key=lambda run: (run.name in BASELINES, run.name))
    places = [-(index + 0.6 * (run.name in BASELINES)) for index, run in enumerate(ordered)]
    figure = Figure(figsize=(9, 1.5 + 0.46 * len(ordered)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for metric, (label, colour, offset) in METRICS.items():
        heights = [place + offset for place in places]
        values = [getattr(run, metric) for run in ordered]
        means = [sum(row) / len(row) for row in values]
        axes.hlines(heights, list(map(min, values)), list(map(max, values)), color=colour, linewidth=2, alpha=0.5)
        for row, height in zip(values, heights, strict=True):
            axes.scatter(row, [height] * len(row), s=12, color=colour, alpha=0.5, linewidths=0, zorder=3)
        axes.scatter(means, heights, s=52, color=colour, edgecolors="white", zorder=4, label=f"{label} mAP")
    names = [f"{run.name}\n(MMDetection's)" if run.name in BASELINES else run.name for run in ordered]
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    counts = sorted({len(run.bbox) for run in ordered})
    seeds = f"{' or '.join(map(str, counts))} seed{'s' if counts[-1:] != [1] else ''}"
    axes.set_xlabel(f"mAP of the last validation: mean, each of {seeds}, and their range")
    figure.legend(loc="outside upper right", ncols=len(METRICS), frameon=False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=130)
