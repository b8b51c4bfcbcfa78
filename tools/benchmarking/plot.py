"""Latency against memory, one image for all tables; every point has its name beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from localvit_det.files import atomic_file

_MARKERS = {("fp32", "eager"): "o", ("bf16", "eager"): "s", ("fp32", "compile"): "^", ("bf16", "compile"): "D"}
_OURS, _OTHERS = "#1b6ca8", "#d95f02"
_FOREIGN = ("swin_", "pvt_", "resnet", "official_", "timm_", "torchvision_")  # how names of others' networks begin
_DPI = 120
_GAP, _RISE = 7, 5  # points from a marker to its name, and between places that are tried
_DOT = 11  # pixels that a marker takes


def read_panels(file: Path) -> list[list[dict]]:
    """The records of a `benchmark.json`, one list for each table."""
    records = json.loads(file.read_text(encoding="utf-8"))["results"]
    return [list(rows) for _, rows in groupby(records, key=lambda r: (r["mode"], r["size"], r["batch"], r["device"]))]


def draw(panels: Sequence[Sequence[dict]], file: Path) -> bool:
    """Draw one panel for each table: further left is faster, further down is leaner.

    Axes begin where the points do: in most tables memory differs by less than a third.

    Args:
        panels: The records of the tables.
        file: The PNG.

    Returns:
        False where no row has both numbers, and nothing was drawn.
    """
    measured = [[r for r in records if r["latency"] and r["memory"]] for records in panels]
    if not any(measured):
        return False
    columns = max(1, len({tuple(records[0]["size"]) for records in panels}))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.2 * columns, 5.2 * rows + 0.4), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in axes[len(panels) :]:
        empty.axis("off")
    named = [_draw_panel(*panel) for panel in zip(axes, measured, strict=False) if panel[1]]
    handles = [axes[0].scatter([], [], s=60, color=color) for color in (_OURS, _OTHERS)]
    figure.legend(handles, ["this package", "others"], loc="outside upper right", ncols=2, frameon=False)
    canvas.draw()  # only now it is known where points and names are
    for names in named:
        _part(names)
    with atomic_file(file) as stream:
        figure.savefig(stream, format="png", dpi=_DPI)
    return True


def _draw_panel(axes: Axes, records: Sequence[dict]) -> list[Annotation]:
    """Draws the points of a table; returns their names, which may still lie on each other."""
    names = []
    for r in records:
        latency, peak = (1e3 * r["latency"][key] for key in ("median", "low", "high")), r["memory"]["peak"] / 2**20
        median, low, high = latency
        color = _OTHERS if r["row"].startswith(_FOREIGN) else _OURS
        axes.hlines(peak, low, high, color=color, alpha=0.5, linewidth=2)
        axes.scatter(median, peak, s=60, color=color, marker=_MARKERS[r["dtype"], r["execution"]], zorder=3)
        form = "" if (r["dtype"], r["execution"]) == ("fp32", "eager") else f" {r['dtype']} {r['execution']}"
        place = {"xytext": (_GAP, 0), "textcoords": "offset points", "in_layout": False}
        names.append(axes.annotate(r["row"] + form, (median, peak), size=9, color=color, **place))
    first = records[0]
    axes.set_title(f"{first['mode']}, {first['size'][0]}x{first['size'][1]}, batch {first['batch']}, {first['device']}")
    axes.set_xlabel("latency (ms): median and quartiles")
    axes.set_ylabel("peak memory (MiB)")
    axes.margins(x=0.2, y=0.12)
    axes.grid(alpha=0.3)
    return names


def _part(names: Sequence[Annotation]) -> None:
    """Moves each name to the first free place around its point."""
    points = [Bbox.from_bounds(*(name.axes.transData.transform(name.xy) - _DOT / 2), _DOT, _DOT) for name in names]
    frame = names[0].axes.get_window_extent()
    taken: list[Bbox] = []
    for name, point in zip(names, points, strict=True):
        others = [*taken, *(one for one in points if one is not point)]
        for side, rise in product((1, -1), (0, 1, -1, 2, -2, 3, -3)):
            name.set(ha="left" if side > 0 else "right", va="center", position=(_GAP * side, _RISE * rise))
            place = name.get_window_extent()
            inside = frame.x0 <= place.x0 and place.x1 <= frame.x1 and frame.y0 <= place.y0 and place.y1 <= frame.y1
            if inside and not any(place.overlaps(one) for one in others):
                break
        else:
            name.set(ha="left", position=(_GAP, 0))  # nothing is free: better over another one than nowhere
        taken.append(name.get_window_extent())
