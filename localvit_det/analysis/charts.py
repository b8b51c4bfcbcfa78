"""Charts of an evaluation and of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from pycocotools.cocoeval import COCOeval

from ..engine.reporting import Line, smooth, thin_out
from ..visualization import class_color
from .coco import precision_at_half
from .style import ACCENT, COLORS, INK, new_axes, styled

_NAMED = 12  # classes that a legend can hold
_NUMBERED = 20  # classes whose counts can be read in a matrix
_SHADES = LinearSegmentedColormap.from_list(
    "shades", [(*(int(ACCENT[i : i + 2], 16) / 255 for i in (1, 3, 5)), a) for a in (0, 1)]
)


def rgb(label: int) -> tuple[float, float, float]:
    """The color of a class in pictures, as matplotlib wants it."""
    blue, green, red = class_color(label)
    return red / 255, green / 255, blue / 255


@styled
def precision_recall(evaluator: COCOeval, names: Sequence[str]) -> Figure:
    """Precision over recall at an overlap of 0.5: thin for each class, thick for their mean."""
    figure, axes = new_axes()
    recall = evaluator.params.recThrs
    for label, name in enumerate(names):
        curve = precision_at_half(evaluator, label)
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
    """Counts of objects, each row shaded by its share; the background is the last row and column."""
    side = len(counts)
    figure, axes = new_axes(*(max(4.6, min(9.0, 1.9 + 0.5 * side)),) * 2)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=1)
    size = 10 if side <= _NUMBERED else max(3.5, 300 / side)
    axes.set_xticks(
        range(side),
        [*names, "nothing"],
        rotation=45 if side < 30 else 90,
        ha="right" if side < 30 else "center",
        fontsize=size,
    )
    axes.set_yticks(range(side), [*names, "background"], fontsize=size)
    axes.set(xlabel="was taken for", ylabel="is")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if side <= _NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.55 else INK
                axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=size)
    return figure


@styled
def lines(
    curves: Mapping[str, Line], ylabel: str, smoothed: bool = False, from_zero: bool = True, log: bool = False
) -> Figure:
    """A line for each curve over the iterations; the smoothed ones above a shade of what they were made of."""
    figure, axes = new_axes()
    for index, (name, (x, y)) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        style = "-" if index < len(COLORS) else "--"
        x, y = thin_out(np.asarray(x), np.asarray(y, float))
        if smoothed and len(y) > 1:
            axes.plot(x, y, color=color, alpha=0.2, linewidth=0.8)
            x, y = smooth(x, y)
        marker = "o" if len(y) < 40 and not smoothed else None
        axes.plot(x, y, style, color=color, label=name, linewidth=1.6, marker=marker, markersize=4)
    axes.set(xlabel="iteration", ylabel=ylabel, xlim=(0, None))
    if log:
        axes.set_yscale("log")
    elif from_zero:
        axes.set_ylim(bottom=0)
    if len(curves) > 1 or smoothed:
        axes.legend()
    return figure


@styled
def histograms(
    samples: Mapping[str, np.ndarray], bins: np.ndarray, xlabel: str, ylabel: str, log: int | None = None
) -> Figure:
    """The share of each bin, an outline for each set.

    Args:
        samples: Values of each set.
        bins: Edges.
        xlabel: What is counted.
        ylabel: Of what there is a share.
        log: The base of a logarithmic axis.
    """
    figure, axes = new_axes()
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
def class_shares(counts: Mapping[str, Sequence[int]], names: Sequence[str], most: int = 30) -> Figure:
    """The share of each class among the objects of each set, the most frequent classes first."""
    totals = np.sum([np.asarray(row) for row in counts.values()], axis=0)
    order = np.argsort(-totals, kind="stable")[:most][::-1]
    figure, axes = new_axes(5.6, 1.2 + 0.12 * len(order) * (1 + len(counts)))
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
    """A map (H, W) of shares, in shades of their fourth root: pixels count from the upper left."""
    figure, axes = new_axes(4.6, 4.6 * values.shape[0] / values.shape[1])
    axes.imshow((values / max(values.max(), 1e-30)) ** 0.25, cmap=_SHADES, vmin=0, vmax=1)
    axes.grid(False)
    axes.set(xlabel="pixels")
    return figure
