"""Draws the benchmark's results together: `python tools/benchmark_summary.py` writes the table of docs/benchmarks.md.

Everything follows from the samples in docs/benchmark/*/benchmark.json, so run it after measuring again.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarking.markdown import markdown_table, with_block
from benchmarking.timing import quartiles
from localvit_det.cli import tells_mistakes
from localvit_det.errors import UserError
from localvit_det.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/benchmarks.md"
BASELINE = "swin_t"


@dataclass(frozen=True)
class Column:
    """One number of each network: its speed over the baseline's, or its memory.

    Attributes:
        folder: Below docs/benchmark; the first image size in it counts.
        memory: What a step needs beyond interpreter, libraries and weights, over what the baseline's needs.
    """

    title: str
    folder: str
    dtype: str = "fp32"
    memory: bool = False


COLUMNS = (
    Column("inference", "inference"),
    Column("memory kept", "inference_kept_memory"),
    Column("bf16", "bf16", "bf16"),
    Column("memory of inference", "inference", memory=True),
    Column("training", "training"),
    Column("memory of training", "training", memory=True),
)


def summary(folder: Path) -> str:
    """The table in Markdown.

    Args:
        folder: With a folder for each benchmark.

    Raises:
        UserError: A benchmark is missing, or has no row of the baseline.
    """
    columns = [_ratios(folder, column) for column in COLUMNS]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(f"{column[name]:.2f}" if name in column else "-" for column in columns)] for name in names]
    return markdown_table(["network", *(column.title for column in COLUMNS)], rows)


def _ratios(folder: Path, column: Column) -> dict[str, float]:
    file = folder / column.folder / "benchmark.json"
    if not file.is_file():
        raise UserError(f"{file} does not exist; measure it with `python tools/benchmark.py --out {file.parent}`.")
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    results = [
        r for r in results if (r["size"], r["dtype"], r["execution"]) == (results[0]["size"], column.dtype, "eager")
    ]
    costs = {r["row"]: cost for r in results if (cost := _cost(r, column.memory)) is not None}
    if BASELINE not in costs:
        raise UserError(
            f"{file} has no row {BASELINE} in {column.dtype} that was measured; everything is compared with it."
        )
    base = costs[BASELINE]
    return {row: cost / base if column.memory else base / cost for row, cost in costs.items()}


def _cost(result: dict, memory: bool) -> float | None:
    if memory:
        return result["memory"] and result["memory"]["peak"] - result["memory"]["start"]
    return quartiles(result["samples"]).median if result["samples"] else None


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the table into the page, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check that the page is current")
    args = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    changed = with_block(page, "summary", summary(ROOT / "docs/benchmark"))
    if args.check and changed != page:
        raise UserError("docs/benchmarks.md is not what docs/benchmark gives; run `python tools/benchmark_summary.py`.")
    if changed != page:
        write_text(PAGE, changed)
        print("wrote docs/benchmarks.md")


if __name__ == "__main__":
    main()
