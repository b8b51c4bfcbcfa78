"""Test and measure everything on a GPU, and write the page of results: `make gpu`, or `python -m benchmarks.gpu`.

GPU tests, backbones, training steps of detectors, mixed precision and compiling, next to MMDetection's Swin-T and
ResNet-50, in at most a quarter of an hour. `--device cpu --small` is the rehearsal: every step, with the least of each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from localvit_det.cli import handle_user_errors
from localvit_det.files import write_text

from .results import ROOT, Benchmark, headline, read
from .tables import table

FAMILIES = ("shuffle_t", "gg_t", "msg_t", "dwnet_t", "ddwnet_t", "iddwnet_t", "pcpvt_s", "svt_s")
MINUTES = 15
NO_GPU = (
    "make gpu needs a GPU, and PyTorch finds none here: run it on a machine with one, or rehearse with --device cpu."
)
TITLES = {
    "gpu_inference": "Backbones, inference",
    "gpu_training": "Backbones, training step: fp32 and bf16 under autocast",
    "gpu_compiled": "Backbones, compiled by torch.compile",
    "gpu_detectors": "Mask R-CNN, training step: forward, backward, optimizer",
}


def commands(device: str, small: bool, csv: Path, official: Sequence[str]) -> dict[str, list[str]]:
    """Return what is run, by names: arguments of Python.

    Args:
        device: 'cuda' or 'cpu'.
        small: Take one family, small images and one round.
        csv: Where samples go.
        official: Rows of the authors' own codes, as `benchmarks.backbones` takes them.
    """
    rows = ["swin_t", *(FAMILIES[3:4] if small else FAMILIES)]
    common = ["--device", device, "--csv", str(csv), "--rounds", "1" if small else "10"]
    sizes = ["--sizes", "64x64" if small else "800x1344", "--batch", "2"]
    backbones = ["-m", "benchmarks.backbones", *rows, *official, *common, *sizes, "--no-memory"]
    dtypes = ["--dtypes", "fp32", "bf16"]
    nano = f"dwnet_nano={ROOT / 'configs/mask_rcnn_dwnet_nano_shapes.py'}"
    detectors = [nano] if small else ["resnet50", *rows]
    return {
        "tests": ["-m", "pytest", "-q", "-m", "gpu", str(ROOT / ("tests/ops" if small else "tests"))],
        "gpu_inference": [*backbones, "--modes", "inference", "--name", "gpu_inference", *dtypes],
        "gpu_training": [*backbones, "--modes", "training", "--name", "gpu_training", *dtypes],
        "gpu_compiled": [*backbones, "--name", "gpu_compiled", "--execution", "eager" if small else "compile"],
        "gpu_detectors": [
            *("-m", "benchmarks.detectors", *detectors, *common, "--modes", "training", *sizes[:2]),
            *("--batch", "2", "--name", "gpu_detectors", *dtypes),
        ],
    }


def run_all(steps: dict[str, list[str]], minutes: float) -> dict[str, str]:
    """Run commands one after the other while there is time; return how each ended, with what it said last if badly."""
    end, outcomes = time.monotonic() + 60 * minutes, {}
    for name, arguments in steps.items():
        start, left = time.monotonic(), end - time.monotonic()
        print(f"{name}: python {' '.join(arguments)}", flush=True)
        if left <= 0:
            outcomes[name] = f"not run: {minutes:g} minutes were over"
            continue
        try:
            done = subprocess.run(
                [sys.executable, *arguments], cwd=ROOT, timeout=left, text=True, stdout=subprocess.PIPE, stderr=2
            )
        except subprocess.TimeoutExpired:
            outcomes[name] = f"stopped after {left:.0f} s: {minutes:g} minutes were over"
            continue
        print(done.stdout)
        ended = f"FAILED: code {done.returncode}" if done.returncode else "ended well"
        said = f"; {done.stdout.split(chr(10))[-2]}" if name == "tests" and done.stdout else ""
        outcomes[name] = f"{ended} after {time.monotonic() - start:.0f} s{said}"
    return outcomes


def page(outcomes: dict[str, str], found: dict[str, Benchmark]) -> str:
    """Return the page of results, in Markdown."""
    parts = ["# Results on a GPU" if torch.cuda.is_available() else "# Rehearsal of the results on a GPU, without one"]
    parts.append("Written by `make gpu`. [How benchmarks are measured](benchmarking.md) defines each term.")
    if found:
        parts.append(headline(next(iter(found.values())).environment))
    parts.append("\n".join(f"- `{name}`: {outcome}" for name, outcome in outcomes.items()))
    for name, title in TITLES.items():
        if name in found:
            parts += [
                f"## {title}",
                *(f"{one[0].mode}, {one[0].setting}:\n\n{table(one)}" for one in found[name].tables()),
            ]
    return "\n\n".join(parts) + "\n"


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run everything and write the page; return 2 without a GPU, 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/gpu.md", help="the page; samples stand next to it")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="the least of everything, to see that all runs")
    parser.add_argument("--official", nargs="*", default=(), metavar="NAME=FILE.py:FUNCTION", help="the authors' codes")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="what has not begun by then is left out")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    csv = args.out.with_suffix(".csv")
    csv.unlink(missing_ok=True)  # of an earlier run, perhaps on another device
    outcomes = run_all(commands(args.device, args.small, csv.absolute(), args.official), args.minutes)
    write_text(args.out, page(outcomes, read(csv)))
    print(f"wrote {args.out}")
    return int(any(outcome.startswith("FAILED") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
