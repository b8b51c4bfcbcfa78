"""Where commands that measure have gone: each old file says its new form and ends; until the next release."""

import sys
from pathlib import Path

NEW = {
    "benchmark": "python -m benchmarks.backbones ROW ...` (or `benchmarks.detectors`, `benchmarks.operators`)",
    "benchmark_exports": "python -m benchmarks.backbones ROW ... --execution onnxruntime openvino int8",
    "benchmark_summary": "python -m benchmarks.tables",
    "compare_families": "python -m benchmarks.families",
    "draw_windows": "python docs/draw_windows.py",
    "matrix": "nox",
    "model_zoo": "python -m benchmarks.model_zoo",
}


def refuse(file: str) -> None:
    """End with the new form of a command, in one sentence."""
    name = Path(file).stem
    new = NEW[name] if "`" in NEW[name] else NEW[name] + "`"
    sys.exit(f"error: tools/{name}.py has moved: run `{new} in the repository; docs/benchmarking.md has examples.")
