"""Measurements as a JSON document and as a table to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .markdown import markdown_table
from .results import Table
from .timing import quartiles

_MIB = 2**20


def document(environment: dict, tables: Sequence[Table]) -> dict[str, object]:
    """Everything that was measured, for a JSON file; times in seconds, memory in bytes."""
    return {
        "environment": environment,
        "gemm": [
            {
                "mode": table.mode,
                "size": list(table.size),
                "dtype": dtype,
                "multiply_adds": table.gemm_multiply_adds,
                "multiply_adds_per_second": table.rate(dtype),
                "samples": samples,
            }
            for table in tables
            for dtype, samples in table.gemm.items()
        ],
        "results": [record for table in tables for record in table.records()],
    }


def table(measured: Table) -> str:
    """A table in Markdown: medians with quartiles, and ratios to the first row and to the roofline."""
    height, width = measured.size
    rates = ", ".join(
        f"{dtype} {measured.rate(dtype) / 1e9:.1f} G multiply-adds/s" for dtype in sorted(measured.gemm, reverse=True)
    )
    rounds = len(next(iter(measured.gemm.values())))
    caption = (
        f"{measured.mode.capitalize()}, {height}x{width}, batch {measured.batch}, {measured.device}; "
        f"median of {rounds} rounds; matrix product: {rates}"
    )
    columns = _columns(measured)
    records = measured.records()
    rows = [[cell(record) for cell in columns.values()] for record in records]
    lines = [caption, "", markdown_table(list(columns), rows, left=3)]
    notes = [f"- {record['row']} {record['dtype']}: {record['note']}" for record in records if record["note"]]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _columns(measured: Table) -> dict[str, Callable[[dict], str]]:
    columns = {
        "row": lambda r: r["row"],
        "dtype": lambda r: r["dtype"],
        "execution": lambda r: r["execution"],
        "ms (quartiles)": _latency,
        "images/s": lambda r: _number(r["images_per_second"], ".2f"),
        "speed ÷ first": lambda r: _number(r["speed_to_first"], ".2f"),
        "time ÷ roofline": lambda r: _number(r["time_to_roofline"], ".2f"),
        "peak MiB (over start)": _memory,
    }
    if measured.mode == "training":
        columns["saved MiB"] = lambda r: _number(r["saved_bytes"] and r["saved_bytes"] / _MIB, ".1f")
        columns["saved ÷ first"] = lambda r: _number(r["saved_to_first"], ".2f")
    return columns


def _latency(record: dict) -> str:
    if not record["samples"]:
        return "-"
    found = quartiles(record["samples"])
    return f"{found.median * 1e3:.1f} ({found.low * 1e3:.1f} to {found.high * 1e3:.1f})"


def _memory(record: dict) -> str:
    if not record["memory"]:
        return "-"
    peak, start = record["memory"]["peak"], record["memory"]["start"]
    # A compiled step starts after a first one, whose memory the process has not given back.
    return f"{peak / _MIB:.0f}" + (f" ({(peak - start) / _MIB:.0f})" if record["execution"] == "eager" else "")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
