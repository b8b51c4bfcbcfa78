"""Trains for long and watches the memory: `python tools/soak.py --iterations 2000`.

Resident memory of the training process after the first 200 iterations is compared with what it is in the end, ten
validations and all saves included, beside what of it is in use. Ends with exit code 1 where it has grown by more than
--limit percent. Linux only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from localvit_det.cli import tells_mistakes
from localvit_det.errors import ConfigError, UserError
from localvit_det.files import check_writable_folder, write_text
from reliability.memory_log import MEMORY_FILE

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 375  # of the drawn set, those without objects left out
ROWS = 9

CONFIG = """_base_ = {base!r}
custom_imports = dict(imports=["localvit_det", "reliability.memory_log"], allow_failed_imports=False)
train_dataloader = dict(batch_size={batch})
train_cfg = dict(max_epochs={epochs}, val_interval={val_interval})
default_hooks = dict(memory=dict(type="MemoryLogHook"))
"""


@dataclass(frozen=True)
class Row:
    """A part of the training: medians in bytes, and the most that was resident."""

    first: int
    last: int
    resident: float
    most: float
    in_use: float


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/soak"), help="default: %(default)s")
    parser.add_argument("--iterations", type=int, default=2000, help="about so many; default: %(default)s")
    parser.add_argument("--batch", type=int, default=4, help="images of an iteration; default: %(default)s")
    parser.add_argument("--warmup", type=int, default=200, help="iterations before those that count")
    parser.add_argument("--limit", type=float, default=3.0, help="percent of growth that is too much")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what is in the work dir")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="more options of the config")
    return parser.parse_args(argv)


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Trains, then reports."""
    args = parse(argv)
    if sys.platform != "linux":
        raise ConfigError("The memory of a process is read as Linux tells it: run this on Linux.")
    check_writable_folder(args.work_dir, "--work-dir")
    if not args.report_only:
        train(args)
    samples = [json.loads(line) for line in (args.work_dir / MEMORY_FILE).read_text().splitlines()]
    found = rows(samples, args.warmup)
    print(report(found))
    if (growth := 100 * (found[-1].resident / found[0].resident - 1)) > args.limit:
        raise UserError(f"Resident memory has grown by {growth:.1f}%, more than {args.limit:g}%: see the table above.")


def train(args: argparse.Namespace) -> None:
    """Runs the training in a process of its own.

    Raises:
        UserError: It fails.
    """
    epochs = max(1, round(args.iterations * args.batch / IMAGES))
    base = str(ROOT / "configs/mask_rcnn_shuffle_nano_shapes.py")
    settings = {"base": base, "batch": args.batch, "epochs": epochs, "val_interval": max(1, epochs // 10)}
    shutil.rmtree(args.work_dir / "run", ignore_errors=True)
    config = args.work_dir.absolute() / "soak_nano.py"
    write_text(config, CONFIG.format(**settings))
    (args.work_dir / MEMORY_FILE).unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "tools/train.py"), str(config), "--work-dir", str(args.work_dir / "run")]
    command += ["--draw", "--cfg-options", f"data_root={args.work_dir.absolute()}/data/"]
    command += [f"param_scheduler.1.end={epochs}", *args.options]
    paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        raise UserError(f"The training ended with exit code {code}: what it printed last says why.")
    shutil.copy(args.work_dir / "run" / MEMORY_FILE, args.work_dir / MEMORY_FILE)


def rows(samples: list[dict], warmup: int) -> list[Row]:
    """Parts of equal length after the warm-up.

    Raises:
        UserError: The training was too short for two parts.
    """
    counted = [sample for sample in samples if sample["iteration"] > warmup]
    step = -(-len(counted) // ROWS)
    parts = [counted[start : start + step] for start in range(0, len(counted), step or 1)]
    if len(parts) < 2:
        raise UserError(f"There are not enough iterations after the first {warmup} to compare: take more.")
    return [
        Row(
            part[0]["iteration"],
            part[-1]["iteration"],
            median(sample["resident"] for sample in part),
            max(sample["resident"] for sample in part),
            median(sample["in_use"] or 0 for sample in part),
        )
        for part in parts
    ]


def report(found: list[Row]) -> str:
    """The table, in MB."""
    lines = ["   iterations   resident: median     most   in use: median (MB)"]
    for row in found:
        numbers = f"{row.resident / 1e6:>18.0f} {row.most / 1e6:>8.0f} {row.in_use / 1e6:>16.0f}"
        lines.append(f"{row.first:>6} to {row.last:>4} {numbers}")
    first, last = found[0], found[-1]
    for name, before, after in (
        ("resident, median", first.resident, last.resident),
        ("resident, most", first.most, last.most),
        ("in use, median", first.in_use, last.in_use),
    ):
        lines.append(f"{name}: {100 * (after / before - 1):+.1f}%" if before else f"{name}: not told by this C library")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
