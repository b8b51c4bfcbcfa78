"""Charts of evaluations, trainings and datasets, for a page and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..engine.reporting import Line, smooth, thin_out
from ..visualization import class_color
from .coco import Accumulated, precision_at_half

INK = "#010203"  # nearly black; on a page the color of its text, dark or light
FONT = "system-ui, sans-serif"
ACCENT = "#2f7fd0"  # can be read on white and on black
COLORS = ("#2f7fd0", "#d9620f", "#2a9d63", "#b0479b", "#b8860b", "#6a5acd", "#c43c4c", "#3a9ca6")

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "localvit",  # the same page from the same numbers
    "text.parse_math": False,  # a class may be called "$"
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.prop_cycle": cycler(color=COLORS),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
_NAMED = 12  # classes that a legend can hold
_MOST_CLASSES = 30  # whose shares are drawn
NUMBERED = 20  # classes whose counts can be read in a matrix
_LINES = 80  # classes that each have a line
_SHADES = LinearSegmentedColormap.from_list(
    "shades", [(*(int(ACCENT[i : i + 2], 16) / 255 for i in (1, 3, 5)), a) for a in (0, 1)]
)
# Decorates functions that draw; matplotlib's own settings stay as they are.
styled = matplotlib.rc_context(_SETTINGS)


def _new_axes(width: float = 5.6, height: float = 3.6) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, sizes in inches; called in a `styled` function."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def rgb(label: int) -> tuple[float, float, float]:
    """Return the color of a class in pictures, as matplotlib wants it."""
    blue, green, red = class_color(label)
    return red / 255, green / 255, blue / 255


@styled
def precision_recall(evaluator: Accumulated, names: Sequence[str]) -> Figure:
    """Draw precision over recall at an overlap of 0.5: thin for each class, thick for their mean.

    Of more classes than lines can be distinguished the middle half and the middle nine tenths are shaded.
    """
    figure, axes = _new_axes()
    recall = evaluator.params.recThrs
    curves = {name: precision_at_half(evaluator, label) for label, name in enumerate(names)}
    found = [curve for curve in curves.values() if curve is not None]
    if len(found) > _LINES:
        for share in (0.05, 0.25):
            low, high = np.quantile(found, (share, 1 - share), axis=0)
            shaded = f"{1 - 2 * share:.0%} of {len(found):,} classes"
            axes.fill_between(recall, low, high, color=ACCENT, alpha=0.25, linewidth=0, label=shaded)
        curves = {}
    for label, (name, curve) in enumerate(curves.items()):
        if curve is not None:
            text = f"{name}  {curve.mean():.3f}" if len(names) <= _NAMED else None
            axes.plot(recall, curve, color=rgb(label), linewidth=1.4, alpha=0.9 if text else 0.4, label=text)
    mean = precision_at_half(evaluator)
    if mean is not None:
        axes.plot(recall, mean, color=INK, linewidth=2.4, label=f"mean  {mean.mean():.3f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if axes.lines:
        axes.legend(title="AP50", loc="lower left")
    return figure


@styled
def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw counts of objects, each row shaded by its share; the background is the last row and column."""
    side = len(counts)
    figure, axes = _new_axes(*(max(4.6, min(10.0, 1.9 + 0.5 * side)),) * 2)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=1)
    axes.set_xticks(range(side), [*names, "nothing"], rotation=45, ha="right")
    axes.set_yticks(range(side), [*names, "background"])
    axes.set(xlabel="was taken for", ylabel="is")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.55 else INK
            text = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=10 if count < 1000 else 8)
    return figure


@styled
def lines(curves: Mapping[str, Line], ylabel: str, smoothed: bool = False, log: bool = False) -> Figure:
    """Draw a line for each curve over the iterations; the smoothed ones above a shade of what they were made of."""
    figure, axes = _new_axes()
    for index, (name, (x, y)) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        style = "-" if index < len(COLORS) else "--"
        x, y = thin_out(np.asarray(x), np.asarray(y, float))
        if smoothed and len(y) > 1:
            axes.plot(x, y, color=color, alpha=0.2, linewidth=0.8)
            x, y = smooth(x, y)
        marker = "o" if len(y) == 1 or (len(y) < 40 and not smoothed) else None  # a line of one point is none
        axes.plot(x, y, style, color=color, label=name, linewidth=1.6, marker=marker, markersize=4)
    axes.set(xlabel="iteration", ylabel=ylabel, xlim=(0, None))
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if len(curves) > 1 or smoothed:
        axes.legend()
    return figure


@styled
def histograms(
    samples: Mapping[str, np.ndarray], bins: np.ndarray, xlabel: str, ylabel: str, log: int | None = None
) -> Figure:
    """Draw the share of each bin, an outline for each set; `log` is the base of a logarithmic axis."""
    figure, axes = _new_axes()
    for index, (name, values) in enumerate(samples.items()):
        if not len(values):
            continue
        heights, _ = np.histogram(np.clip(values, bins[0], bins[-1]), bins)
        color = COLORS[index % len(COLORS)]
        axes.stairs(heights / len(values), bins, color=color, linewidth=1.8, label=name)
        axes.stairs(heights / len(values), bins, color=color, fill=True, alpha=0.15)
    if log:
        axes.set_xscale("log", base=log)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    if axes.patches:
        axes.legend()
    return figure


@styled
def class_shares(counts: Mapping[str, Sequence[int]], names: Sequence[str]) -> Figure:
    """Draw the share of each class among the objects of each set, the most frequent classes first."""
    totals = np.sum([np.asarray(row) for row in counts.values()], axis=0)
    order = np.argsort(-totals, kind="stable")[:_MOST_CLASSES][::-1]
    figure, axes = _new_axes(5.6, 1.2 + 0.12 * len(order) * (1 + len(counts)))
    height = 0.8 / len(counts)
    for index, (split, row) in enumerate(counts.items()):
        shares = np.asarray(row)[order] / max(sum(row), 1)
        places = np.arange(len(order)) + 0.4 - (index + 0.5) * height
        axes.barh(places, shares, height * 0.9, color=COLORS[index % len(COLORS)], label=split)
    axes.set_yticks(range(len(order)), [names[i] for i in order])
    axes.set_xlabel("share of the objects")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(counts), borderaxespad=0.2)
    return figure


@styled
def heat(values: np.ndarray) -> Figure:
    """Draw shares (H, W) in shades of their fourth root: pixels count from the upper left."""
    figure, axes = _new_axes(4.6, 4.6 * values.shape[0] / values.shape[1])
    axes.imshow((values / max(values.max(), 1e-30)) ** 0.25, cmap=_SHADES, vmin=0, vmax=1)
    axes.grid(False)
    axes.set(xlabel="pixels")
    return figure
