"""Latency against memory, one image for all tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from localvit_det.files import atomic_file

from .results import Table

_MARKERS = {("fp32", "eager"): "o", ("bf16", "eager"): "s", ("fp32", "compile"): "^", ("bf16", "compile"): "D"}


def draw(tables: Sequence[Table], file: Path) -> bool:
    """Draw one panel for each table: further left is faster, further down is leaner.

    Returns:
        False where no row has both numbers, and nothing was drawn.
    """
    records = [[r for r in table.records() if r["latency"] and r["memory"]] for table in tables]
    if not any(records):
        return False
    names = list(dict.fromkeys(r["row"] for panel in records for r in panel))
    colors = dict(zip(names, colormaps["turbo"](np.linspace(0.05, 0.95, len(names))), strict=True))
    columns = max(1, len({table.size for table in tables}))
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(5 * columns, 4 * rows + 0.3 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    entries = {}
    for panel, table, points in zip(panels, tables, records, strict=False):
        for r in points:
            label = f"{r['row']} {r['dtype']} {r['execution']}"
            x, y = r["latency"]["median"] * 1e3, r["memory"]["peak"] / 2**20
            marker = _MARKERS[r["dtype"], r["execution"]]
            entries[label] = panel.scatter(x, y, s=60, color=[colors[r["row"]]], marker=marker)
        panel.set_title(f"{table.mode}, {table.size[0]}x{table.size[1]}, batch {table.batch}, {table.device}")
        panel.set_xlabel("latency (ms)")
        panel.set_ylabel("peak memory (MiB)")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)
    with atomic_file(file) as stream:
        figure.savefig(stream, format="png", dpi=120)
    return True
