"""Train for long and watch the memory: `python tools/soak.py --iterations 2000`.

Resident memory of the training process soon after the first iterations is compared with that in the end, ten
validations and all saves included, and so is the memory that C's allocator has given out. That grows only where
something is kept for good; the rest of a resident process is free memory, which grows with the most that was ever
needed at once, and with gaps between blocks. Ends with exit code 1 where resident memory has grown by more than
--limit percent. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from localvit_det.cli import handle_user_errors
from localvit_det.errors import ConfigError, UserError
from localvit_det.files import check_writable_folder, write_text

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 375  # of the synthetic shapes, those without objects left out
MEMORY_FILE = "memory.jsonl"
PARTS = 9  # of the iterations that count; the first is compared with the last
CONFIG = """_base_ = {base!r}
custom_imports = dict(imports=["localvit_det", "soak"], allow_failed_imports=False)
train_dataloader = dict(batch_size={batch})
train_cfg = dict(max_epochs={epochs}, val_interval={val_interval})
default_hooks = dict(memory=dict(type="MemoryLogHook"))
"""
_MALLINFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _MallInfo(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO)


def memory_now() -> dict[str, int]:
    """Return the bytes that this process has (`resident`) and those that C's allocator has given out (`in_use`)."""
    status = Path("/proc/self/status").read_text()
    resident = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
    info = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if info is None:  # not glibc
        return {"resident": resident, "in_use": 0}
    info.restype = _MallInfo
    numbers = info()
    return {"resident": resident, "in_use": numbers.uordblks + numbers.hblkhd}


@HOOKS.register_module(force=True)
class MemoryLogHook(Hook):
    """Append a line to `memory.jsonl` in the work dir every so many iterations, and after validations."""

    priority = "LOWEST"

    def __init__(self, interval: int = 5) -> None:
        self.interval = interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Write the line of a training iteration."""
        if self.every_n_train_iters(runner, self.interval):
            self._write(runner, runner.iter + 1, "train")

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write the line of a validation."""
        self._write(runner, runner.iter, "val")

    def _write(self, runner: Runner, iteration: int, mode: str) -> None:
        if is_main_process():
            with Path(runner.work_dir, MEMORY_FILE).open("a") as file:
                file.write(json.dumps({"iteration": iteration, "mode": mode, **memory_now()}) + "\n")


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/soak"), help="default: %(default)s")
    parser.add_argument("--iterations", type=int, default=2000, help="about so many; default: %(default)s")
    parser.add_argument("--batch", type=int, default=4, help="images of an iteration; default: %(default)s")
    parser.add_argument("--warmup", type=int, default=200, help="iterations before those that count")
    parser.add_argument("--limit", type=float, default=3.0, help="percent of growth that is too much")
    args = parser.parse_args(argv)
    if sys.platform != "linux":
        raise ConfigError("The memory of a process is read from /proc: run this on Linux.")
    check_writable_folder(args.work_dir, "--work-dir")
    file = train(args.work_dir.absolute(), max(1, round(args.iterations * args.batch / IMAGES)), args.batch)
    growth = report([json.loads(line) for line in file.read_text().splitlines()], args.warmup)
    if growth > args.limit:
        raise UserError(f"Resident memory has grown by {growth:.1f}%, more than {args.limit:g}%: see above.")


def train(folder: Path, epochs: int, batch: int) -> Path:
    """Run the training in a process of its own, and return its file of samples.

    Raises:
        UserError: It fails.
    """
    base = str(ROOT / "configs/mask_rcnn_shuffle_nano_shapes.py")
    settings = {"base": base, "batch": batch, "epochs": epochs, "val_interval": max(1, epochs // 10)}
    shutil.rmtree(folder / "run", ignore_errors=True)
    write_text(folder / "soak_nano.py", CONFIG.format(**settings))
    command = [sys.executable, str(ROOT / "tools/train.py"), str(folder / "soak_nano.py"), "--draw"]
    command += ["--work-dir", str(folder / "run")]
    command += ["--cfg-options", f"data_root={folder}/data/", f"param_scheduler.1.end={epochs}"]
    paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if code := subprocess.run(command, env=environment, check=False).returncode:
        raise UserError(f"The training ended with exit code {code}: what it printed last says why.")
    return folder / "run" / MEMORY_FILE


def report(samples: list[dict], warmup: int) -> float:
    """Print medians of the first and the last part after the warm-up, and return the growth of the resident in percent.

    Raises:
        UserError: The training was too short for two parts.
    """
    counted = [sample for sample in samples if sample["iteration"] > warmup]
    size = -(-len(counted) // PARTS)
    if len(counted) < 2:
        raise UserError(f"There are not enough iterations after the first {warmup} to compare: take more.")
    for name in ("in_use", "resident"):
        first, last = (median(sample[name] for sample in part) for part in (counted[:size], counted[-size:]))
        growth = 100 * (last / first - 1) if first else 0.0
        print(f"{name}, median: {first / 1e6:.0f} to {last / 1e6:.0f} MB ({growth:+.1f}%)")
    return growth


if __name__ == "__main__":
    main()
