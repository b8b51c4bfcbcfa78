"""A hook that writes down the memory of a training: what its process has, and how much of that is in use.

What C's allocator has given out grows only where something is kept for good. The rest of a resident process is free
memory that the allocator keeps: it grows with the most that was ever needed at once, and with holes between blocks.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

MEMORY_FILE = "memory.jsonl"


class _MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


@HOOKS.register_module()
class MemoryLogHook(Hook):
    """Appends a line to `memory.jsonl` in the work dir every so many iterations, and after validations.

    Args:
        interval: Iterations between two lines.
    """

    priority = "LOWEST"

    def __init__(self, interval: int = 5) -> None:
        self.interval = interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Writes the line of a training iteration."""
        if self.every_n_train_iters(runner, self.interval):
            self._write(runner, runner.iter + 1, "train")

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Writes the line of a validation."""
        self._write(runner, runner.iter, "val")

    def _write(self, runner: Runner, iteration: int, mode: str) -> None:
        if is_main_process():
            with Path(runner.work_dir, MEMORY_FILE).open("a") as file:
                file.write(json.dumps({"iteration": iteration, "mode": mode, **memory_now()}) + "\n")


def memory_now() -> dict[str, int | None]:
    """Bytes that this process has (`resident`) and those of C's allocator that are given out (`in_use`), on Linux.

    `in_use` is None where the C library does not tell.
    """
    status = Path("/proc/self/status").read_text()
    resident = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
    info = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if info is None:
        return {"resident": resident, "in_use": None}
    info.restype = _MallInfo
    numbers = info()
    return {"resident": resident, "in_use": numbers.uordblks + numbers.hblkhd}
