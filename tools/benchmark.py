"""Measures backbones side by side: `python tools/benchmark.py shuffle_t gg_t dwnet_t swin_t`.

Or a single operator (`--operator inhomogeneous`), or whole detectors, from loading to metric and in training
(`--detectors shuffle_t swin_t --data-root COCO`). docs/benchmarking.md says how to read the results.
"""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarking.backbones import Options, measure_backbones
from benchmarking.detector_rows import DetectorOptions, make_detector_rows
from benchmarking.detectors import detector_table, measure_detectors
from benchmarking.environment import describe, headline
from benchmarking.operators import OPERATORS, measure_inhomogeneous, operator_table
from benchmarking.plot import draw
from benchmarking.report import document, table
from benchmarking.results import failed
from benchmarking.rows import make_rows
from localvit_det.cli import tells_mistakes
from localvit_det.config.options import OptionsAction
from localvit_det.errors import ConfigError, UserError
from localvit_det.files import check_writable_folder, write_text


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="backbones, for example shuffle_t swin_t timm_swin_t")
    parser.add_argument(
        "--official",
        action="append",
        default=[],
        metavar="NAME=FILE.py:FUNCTION",
        help="a further row: FUNCTION returns a network that maps images (B, 3, H, W) to any tensors; a NAME that "
        "also stands among the rows takes its place there",
    )
    parser.add_argument(
        "--channels-last",
        nargs="*",
        metavar="ROW",
        help="run these rows also in channels-last memory; without names all that are not ours (ours do so anyway)",
    )
    parser.add_argument(
        "--with-cp", action="store_true", help="train also with recomputed blocks, and with nothing recomputed"
    )
    parser.add_argument("--no-fuse", action="store_true", help="do not fold BatchNorm for inference")
    parser.add_argument("--modes", nargs="+", choices=["inference", "training"], default=["inference", "training"])
    parser.add_argument("--sizes", nargs="+", type=_size, default=list(Options.sizes), metavar="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], default=["fp32"], help="bf16: autocast")
    parser.add_argument("--execution", nargs="+", choices=["eager", "compile"], default=["eager"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=Options.rounds)
    parser.add_argument("--warmup", type=int, default=Options.warmup, help="rounds before those that count")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: as PyTorch decides)")
    parser.add_argument("--no-memory", action="store_true", help="skip the peak of memory, a process for each row")
    parser.add_argument("--operator", choices=OPERATORS, help="measure this operator instead")
    parser.add_argument(
        "--detectors",
        nargs="+",
        metavar="NAME[=CONFIG[,CHECKPOINT]][:WAY]",
        help="measure these instead, for example shuffle_t swin_t resnet50 mine=config.py,epoch_12.pth; WAY is fused "
        "(ours), plain, or stock (as MMDetection runs it)",
    )
    parser.add_argument(
        "--data-root", help="of --detectors: folder in COCO's layout, whose validation images are taken"
    )
    parser.add_argument("--images", type=int, default=8, help="of --detectors: how many of them; 0 for all")
    parser.add_argument("--workers", type=int, default=0, help="of --detectors: data workers of an evaluation")
    parser.add_argument("--fast-eval", action="store_true", help="let --detectors evaluate with faster-coco-eval")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE", help="of --detectors")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/benchmark"), help="folder for JSON, table and plot")
    return parser.parse_args(argv)


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints tables, writes `benchmark.json`, `benchmark.md` and `benchmark.png`."""
    args = parse(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda needs a GPU, and PyTorch finds none here; leave it out.")
    if min(args.batch, args.rounds, args.threads or 1) < 1 or args.warmup < 0:
        raise ConfigError("--batch, --rounds and --threads must be at least 1, and --warmup at least 0.")
    if args.threads:
        torch.set_num_threads(args.threads)
    check_writable_folder(args.out, "--out")
    environment = {**describe(args.device), "command": sys.argv[1:] if argv is None else list(argv)}
    if args.detectors:
        _detectors(args, environment)
    elif args.operator:
        results = measure_inhomogeneous(args.rounds, args.warmup, args.batch, args.device)
        records = {"operator": args.operator, "results": [result.record() for result in results]}
        _write(args.out, environment, records, [operator_table(results, args.batch, args.device)])
    else:
        _backbones(args, environment)


def _backbones(args: argparse.Namespace, environment: dict) -> None:
    rows = make_rows(args.rows, args.official, args.channels_last, args.with_cp)
    options = Options(
        args.modes,
        args.sizes,
        args.batch,
        args.dtypes,
        args.execution,
        args.device,
        args.rounds,
        args.warmup,
        not args.no_fuse,
        not args.no_memory,
    )
    tables = []
    for measured in measure_backbones(rows, options, tell=lambda line: print(line, file=sys.stderr, flush=True)):
        tables.append(measured)  # written after each: a long run that is stopped keeps what it has
        texts = [table(one) for one in tables]
        _write(args.out, environment, document(environment, tables), texts, show=texts[-1:])
        draw([one.records() for one in tables], args.out / "benchmark.png")
    wrong = [result for measured in tables for result in failed(measured.results)]
    if wrong:
        labels = ", ".join(f"{r.row} {r.dtype} {r.execution}" for r in wrong)
        raise UserError(f"Not timed, because outputs differ from eager fp32 by more than allowed: {labels}.")


def _detectors(args: argparse.Namespace, environment: dict) -> None:
    if "inference" in args.modes and not args.data_root:
        raise ConfigError("--detectors evaluates on real images: give --data-root, or only --modes training.")
    options = DetectorOptions(
        modes=["evaluation" if mode == "inference" else mode for mode in args.modes],
        images=args.images or None,
        workers=args.workers,
        fast_eval=args.fast_eval,
        size=args.sizes[0],
        batch=args.batch,
        dtypes=args.dtypes,
        device=args.device,
        rounds=args.rounds,
        warmup=args.warmup,
        threads=args.threads,
        cfg_options={**({"data_root": args.data_root} if args.data_root else {}), **(args.cfg_options or {})},
    )
    tables = []
    tell = functools.partial(print, file=sys.stderr, flush=True)
    for measured in measure_detectors(make_detector_rows(args.detectors), options, tell):
        tables.append(measured)
        records = {"results": [record for one in tables for record in one.records()]}
        texts = [detector_table(one) for one in tables]
        _write(args.out, environment, records, texts, show=texts[-1:])


def _write(out: Path, environment: dict, records: dict, texts: list[str], show: list[str] | None = None) -> None:
    head = headline(environment)
    write_text(out / "benchmark.json", json.dumps({"environment": environment, **records}, indent=1))
    write_text(out / "benchmark.md", "\n\n".join([head, *texts]) + "\n")
    print("\n\n".join([head, *(texts if show is None else show)]), flush=True)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH, for example 800x1333")
    return int(height), int(width)


if __name__ == "__main__":
    main()
