"""Memory: what is kept for backward, the peak of a process, and the peak of an allocator."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


@dataclass(frozen=True)
class Peak:
    """Memory of a process or, on a GPU, of PyTorch's allocator there; in bytes.

    Attributes:
        start: Before the run, with the network and the image.
        peak: The most during the run.
    """

    start: int
    peak: int


def held_bytes(forward: Callable[[], list[Tensor]], device: str = "cpu") -> int:
    """Bytes that a forward pass leaves behind: what it keeps for backward, and its outputs.

    Counted where memory is given out, so that nothing a network does to keep less (activation checkpoints,
    recomputing) escapes or is counted twice. Weights were there before, and do not count.

    Args:
        forward: Returns the outputs, whose graph keeps the rest alive.
    """
    outputs: list[Tensor] = []

    def run() -> None:
        outputs.extend(forward())

    if device == "cuda":
        start, _, end = _cuda_memory(run)
        return end - start
    return sum(_allocations(run))


def measure_peak(run: Callable[[], object], device: str = "cpu", warmup: bool = False) -> Peak:
    """Measure memory while `run` works; on a CPU meaningful only in a process of its own.

    Args:
        warmup: Run once before, so that compiling does not count.
    """
    if warmup:
        run()
    if device == "cuda":
        start, peak, _ = _cuda_memory(run)
        return Peak(start, peak)
    _forget_resident_peak()
    start = _resident("VmRSS")
    run()
    return Peak(start, _resident("VmHWM"))


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result | None:
    """Call a function in a process that has done nothing else; None if that died, as for want of memory.

    Function, arguments and result have to be picklable; exceptions come through.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool:
        return None


def allocator_peak(run: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes that PyTorch's allocator held at once during `run`, beyond what it held before.

    On the CPU every allocation and release is read from the profiler's trace, so nothing is missed or rounded;
    scratch memory that oneDNN takes by itself does not pass the allocator and is not seen.
    """
    if device == "cuda":
        start, peak, _ = _cuda_memory(run)
        return peak - start
    held = most = 0
    for change in _allocations(run):
        held += change
        most = max(most, held)
    return most


def _cuda_memory(run: Callable[[], object]) -> tuple[int, int, int]:
    """Bytes that PyTorch's allocator on the GPU has given out: before `run`, at most during it, and after it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return start, torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()


def _allocations(run: Callable[[], object]) -> list[int]:
    """Bytes given out (positive) and taken back by PyTorch's allocator on the CPU during `run`, in order."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells of every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    steps = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    return [change for _, change in sorted(steps, key=lambda step: step[0])]


def _forget_resident_peak() -> None:
    """Let the kernel's peak start again at the present size, so that building the network does not count."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _resident(field: str) -> int:
    if sys.platform == "linux":
        # Not getrusage: its peak begins with what the parent held when it forked.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS; a peak, also as the start
