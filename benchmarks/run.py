"""What the commands that measure share: options, and where the samples go."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from localvit_det.errors import ConfigError

from .results import Benchmark, Record, describe, headline, write
from .tables import table


def make_parser(description: str, name: str, rounds: int = 7) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("work_dirs/benchmarks.csv"), help="where samples are written")
    parser.add_argument("--name", default=name, help="of this benchmark in that file; an earlier one is replaced")
    parser.add_argument("--about", default=description.partition(":")[0], help="a line about it, for the table")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--warmup", type=int, default=1, help="rounds before those that count")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: as PyTorch decides)")
    return parser


def begin(args: argparse.Namespace) -> Benchmark:
    """Check the common options and set PyTorch up.

    Raises:
        ConfigError: An option makes no sense.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda needs a GPU, and PyTorch finds none here; leave it out.")
    if min(args.batch, args.rounds, args.threads or 1) < 1 or args.warmup < 0:
        raise ConfigError("--batch, --rounds and --threads must be at least 1, and --warmup at least 0.")
    torch.set_num_threads(args.threads or torch.get_num_threads())
    # What is called fp32 is to be fp32 on every device.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    benchmark = Benchmark(describe(args.device, args.about))
    write(args.csv, args.name, benchmark)  # fails before the work where it cannot be written
    print(headline(benchmark.environment))
    return benchmark


def finish_table(args: argparse.Namespace, benchmark: Benchmark, records: list[Record]) -> None:
    """Write what was measured, and print its table: a long run that is stopped keeps what it has."""
    benchmark.records += records
    write(args.csv, args.name, benchmark)
    print(f"\n{table(records)}", flush=True)


def size_of(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH, for example 800x1333")
    return int(height), int(width)
