"""Trains for long and watches the memory: `python tools/soak.py --iterations 2000`.

Resident memory of the training process after the first 200 iterations is compared with what it is later, validations
and saves included. Ends with exit code 1 where it has grown by more than --limit percent.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(HERE.parent / "configs/mask_rcnn_shuffle_nano_shapes.py"))
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/soak"))
    parser.add_argument("--iterations", type=int, default=2000, help="rounded to epochs of 50 (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=200, help="iterations before those that count")
    parser.add_argument("--limit", type=float, default=3.0, help="percent of growth that is too much")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="more options of the config")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, samples, reports."""
    args = parse(argv)
    epochs = max(1, round(args.iterations / 50))
    command = [sys.executable, str(HERE / "train.py"), args.config, "--work-dir", str(args.work_dir), "--cfg-options"]
    command += [f"train_cfg.max_epochs={epochs}", f"param_scheduler.1.end={epochs}", *args.options]
    args.work_dir.mkdir(parents=True, exist_ok=True)
    before = set(args.work_dir.glob("*/vis_data/scalars.json"))
    with (args.work_dir / "soak.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        samples = []
        while process.poll() is None:
            time.sleep(1)
            iteration = _iteration(set(args.work_dir.glob("*/vis_data/scalars.json")) - before)
            if iteration and (memory := _resident(process.pid)):
                samples.append((iteration, memory))
    (args.work_dir / "memory.json").write_text(json.dumps(samples))
    if process.returncode:
        raise SystemExit(f"The training ended with exit code {process.returncode}: see {args.work_dir}/soak.log")
    raise SystemExit(_report(samples, args.warmup, args.limit))


def _report(samples: list[tuple[int, float]], warmup: int, limit: float) -> int:
    """Prints the median of every tenth of the training; 1 where memory has grown too much, else 0."""
    last = samples[-1][0]
    step = max(50, (last - warmup) // 9)
    rows = []
    for start in range(warmup, last, step):
        within = sorted(memory for iteration, memory in samples if start <= iteration < start + step)
        if within:
            rows.append((start, within[len(within) // 2], within[-1]))
            print(
                f"iterations {start:>5} to {start + step:>5}: median {rows[-1][1]:7.1f} MB, most {rows[-1][2]:7.1f} MB"
            )
    growth = 100 * (rows[-1][1] / rows[0][1] - 1)
    print(f"growth of the median from the first to the last row: {growth:+.1f}% (limit {limit:g}%)")
    return int(growth > limit)


def _iteration(logs: set[Path]) -> int:
    """The iteration of the newest line of the log that has one."""
    for log in logs:
        for line in reversed(log.read_text().splitlines()[-3:]):
            try:
                return int(json.loads(line)["step"])
            except (ValueError, KeyError):
                continue
    return 0


def _resident(pid: int) -> float:
    """Resident memory in MB (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


if __name__ == "__main__":
    main()
